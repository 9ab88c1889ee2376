"""Networks out: timm and onnxruntime answer as we do, and the model card says what the run's files say."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
import sys
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from nst.cli import run_stage
from nst.config import compose_config, job_from
from nst.data.shard_set import load_index
from nst.documents import read_json
from nst.errors import NstError
from nst.models.checkpoints import NetworkInfo, load_network, read_info, save_network
from nst.models.efficientnet import ARCHITECTURES, Architecture, build, normalize
from nst.models.formats import crop_share, hub_config, save_onnx, timm_name
from nst.models.released import open_network
from nst.settings.job import ExportJob
from nst.settings.learning import TeacherOptions
from nst.stages import export
from nst.stages.places import teacher_files
from tests.composing import made
from tests.conftest import TINY, read_by
from tests.test_networks import FAMILIES, Family, as_timm_sees, network_of
from tests.tiny_networks import random_images, timm_b0, trained_tiny

CLASSES = tuple(f"class {i}" for i in range(10))
B0 = ARCHITECTURES["efficientnet_b0"]
needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is of the extra dev"
)


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A real run of two generations."""
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    options = [*TINY, f"data.root={digits}", f"run_dir={directory}", "student.steps=4", "iterate.report=false",
               "iterate.generations=[['model.width=0.25'],['model.width=0.3']]", "select.min_confidence=0",
               "select.allow_empty_classes=true", "iterate.control=true"]  # fmt: skip
    assert run_stage("iterate", options) == 0
    return directory


@pytest.fixture(scope="module")
def b0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A B0 of ours with statistics of its own."""
    torch.manual_seed(3)
    network = build(B0, 10)
    network(random_images(64))
    path = tmp_path_factory.mktemp("b0") / "b0.safetensors"
    save_network(path, network.state_dict(), NetworkInfo(B0, CLASSES, 224, 224))
    return path


# ---- timm ------------------------------------------------------------------------------------------------


def test_timm_makes_the_same_network_from_the_exported_folder_and_from_the_file(b0: Path, tmp_path: Path):
    files = export.run(
        job_from(ExportJob, compose_config(["stage=export", "data.pictures.small=false", f"model.checkpoint={b0}"])),
        tmp_path,
    )
    assert [file.name for file in files] == ["model.safetensors", "config.json", "README.md"]
    ours, images = load_network(b0)[0], random_images(64)
    folder = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    file = timm.create_model("tf_efficientnet_b0", num_classes=10, checkpoint_path=str(files[0])).eval()
    overlay = {"file": str(files[0]), "num_classes": 10}
    named = timm.create_model("tf_efficientnet_b0", pretrained=True, num_classes=10, pretrained_cfg_overlay=overlay)
    with torch.no_grad():
        for theirs in (folder, file, named.eval()):
            assert torch.equal(theirs(images), ours(images))
    assert folder.pretrained_cfg["label_names"] == list(CLASSES)
    data = timm.data.resolve_model_data_config(folder)
    assert tuple(data["input_size"]) == (3, 224, 224)
    assert (data["crop_pct"], data["crop_mode"], data["interpolation"]) == (0.875, "center", "bicubic")
    # and back: ours
    assert read_info(files[0]).classes == CLASSES


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_that_timm_has_is_named_so_and_fits(name: str):
    found = timm_name(ARCHITECTURES[name])
    if name in ("efficientnet_l0", "efficientnet_l1"):
        assert found is None
        return
    with torch.device("meta"):
        ours, theirs = build(ARCHITECTURES[name], 3), timm.create_model(found, num_classes=3)
    shapes = [{key: tuple(value.shape) for key, value in network.state_dict().items()} for network in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_small_and_other_scalings_have_no_name_of_timms():
    assert timm_name(Architecture(1.0, 1.0, 32, 32, small_images=True)) is None
    assert timm_name(Architecture(0.5, 0.5)) is None
    assert timm_name(Architecture(1.0, 1.0, 128, 128)) == "tf_efficientnet_b0"


@pytest.mark.parametrize("size", [*range(16, 900, 7), 224, 240, 260, 300, 380, 456, 528, 600, 800])
def test_timms_evaluation_resizes_to_our_crop(size: int):
    assert math.floor(size / crop_share(size)) == size + 32
    assert crop_share(size) == pytest.approx(size / (size + 32), rel=1e-12)


def test_whole_small_pictures_are_squashed_and_not_cropped():
    info = NetworkInfo(B0, CLASSES, 64, 64)
    with torch.device("meta"):
        network = build(B0, len(CLASSES))
    config = hub_config("tf_efficientnet_b0", network, info, whole_image=True)["pretrained_cfg"]
    assert (config["crop_pct"], config["crop_mode"], config["pool_size"]) == (1.0, "squash", [2, 2])


# ---- ONNX ------------------------------------------------------------------------------------------------


@needs_onnx
@pytest.mark.parametrize("kind", ["uint8", "normalized"])
def test_onnxruntime_answers_as_torch_at_any_batch_size(kind: str, tmp_path: Path):
    import onnxruntime

    network = trained_tiny()
    info = NetworkInfo(network.architecture, CLASSES, 24, 16)
    save_onnx(tmp_path / "model.onnx", network, info, kind)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == (f"images_{kind}", ["batch", 3, 24, 24])
    assert given.type == {"uint8": "tensor(uint8)", "normalized": "tensor(float)"}[kind]
    assert (answer.name, answer.shape) == ("logits", ["batch", 10])
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert (facts["image_size"], facts["input"]) == ("24", f"images_{kind}")
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 2, 5):
        pixels = torch.randint(0, 256, (batch, 3, 24, 24), dtype=torch.uint8, generator=generator)
        images = normalize(pixels)
        with torch.no_grad():
            expected = network(images).numpy()
        (logits,) = session.run(None, {given.name: (pixels if kind == "uint8" else images).numpy()})
        assert np.abs(logits - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@needs_onnx
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["uint8", "normalized"])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family.name != "tf_efficientnetv2_b0"], ids=str)
def test_networks_of_timms_answer_in_onnx_as_in_torch_and_without_a_warning(family: Family, kind: str, tmp_path: Path):
    """But for one whose random weights make rounding errors of float32 as large as answers."""
    import onnxruntime

    network, size = network_of(family).eval(), family.size
    save_onnx(tmp_path / "model.onnx", network, NetworkInfo(network.architecture, CLASSES[:3], size, size), kind)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for batch in (1, 3):  # the example is of two
        pixels = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
        with torch.no_grad():
            expected = network(normalize(pixels)).numpy()
        given = pixels if kind == "uint8" else as_timm_sees(network, normalize(pixels))
        (logits,) = session.run(None, {f"images_{kind}": given.numpy()})
        assert np.abs(logits - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())


def test_without_onnx_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    network = trained_tiny()
    with pytest.raises(NstError, match="pip install onnx"):
        save_onnx(tmp_path / "model.onnx", network, NetworkInfo(network.architecture, CLASSES, 24, 16), "uint8")
    assert not list(tmp_path.iterdir())


# ---- the stage and the card ------------------------------------------------------------------------------


@needs_onnx
def test_a_student_is_exported_with_a_card_of_its_runs_facts(generations: Path, capsys: pytest.CaptureFixture[str]):
    student = generations / "gen1"
    for form, files in (("timm", {"model.safetensors", "README.md"}), ("onnx", {"model.onnx", "README.md"})):
        assert run_stage("export", [f"model.checkpoint={student}", f"export.format={form}"]) == 0
        assert {path.name for path in (student / "export" / form).iterdir()} == files
    out = capsys.readouterr().out
    assert "model.onnx" in out
    assert " 0.0" not in out, "a size of a small file too"
    weights = student / "checkpoints" / "trained.safetensors"
    network, info = load_network(student / "export" / "timm" / "model.safetensors")
    assert torch.equal(network(random_images(12)), load_network(weights)[0](random_images(12)))

    card = (student / "export" / "timm" / "README.md").read_text()
    result, evaluation = read_json(student / "result.json"), read_json(student / "evaluation" / "result.json")
    started = read_json(student / "started.json")
    selection = read_json(generations / "gen0" / "selection" / "selection.json")["totals"]
    row = next(line for line in card.splitlines() if line.startswith("| student 1 |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "small w0.3 d0.25"
    assert cells[2:5] == ["50", f"{selection['selected']:,}", f"{evaluation['top1']:.2f}"]
    assert cells[6:] == [f"{evaluation['top5']:.2f}", f"{evaluation['ece']:.2f}"]
    assert "| teacher |" in card
    control = read_json(generations / "control" / "evaluation" / "result.json")["top1"]
    line = next(line for line in card.splitlines() if line.startswith("| control |"))
    assert [cell.strip() for cell in line.split("|")][3:6] == ["50", "0", f"{control:.2f}"]
    assert f"Student 1 has {abs(evaluation['top1'] - control):.2f} points" in card
    assert "than the control, which learned from the labels alone (95 % interval" in card
    for said in (f"{result['parameters']:,}", f"sha256 {result['weights_sha256']}", "12 x 12 px: the whole picture",
                 started["inputs"]["teacher"]["weights"][:12], "| Data | digits |", "| Steps | 4 |",
                 "| Start | fresh weights |",
                 "RandAugment 2 x 5 (fixed)", "adamw", "Robustness: not measured.", "100 test images", "nst iterate",
                 "another network", "load_network", ", ".join(info.classes)):  # fmt: skip
        assert said in card, said
    assert re.search(r"## Licence and intended use\n\nTo be filled in", card)
    assert "student 2" not in card


def test_the_card_has_every_number_of_robustness_also_of_an_attack_alone(
    generations: Path, digits: Path, tmp_path: Path
):
    run = tmp_path / "run"
    shutil.copytree(generations / "gen0", run)
    options = [*read_by("evaluate", TINY), f"data.root={digits}", f"model.checkpoint={run}", "eval=robustness",
               "eval.max_images=10", "eval.attacks.pgd=null", "eval.perturbations=null"]  # fmt: skip
    for name, chosen in (("fgsm", ["eval.corruptions=null"]), ("both", ["eval.corruptions=[fog]"])):
        assert run_stage("evaluate", [*options, *chosen, "overwrite=true"]) == 0
        assert run_stage("export", [f"model.checkpoint={run}", f"export.output={tmp_path / name}"]) == 0
    blocks = read_json(run / "evaluation" / "result.json")["robustness"]
    attacked = [
        ["fgsm", f"top-1 % at ε = {epsilon}/255", f"{top1:.2f}"]
        for epsilon, top1 in zip((0, 1, 2, 4, 8, 16), blocks["fgsm"]["top1"], strict=True)
    ]
    fog = [
        ["c_onthefly", "mean error % of what was measured", f"{fmean(blocks['c_onthefly']['errors']['fog']):.2f}"],
        ["c_onthefly", "error % on clean images", f"{blocks['c_onthefly']['clean_error']:.2f}"],
    ]
    for name, expected in (("fgsm", attacked), ("both", [*fog, *attacked])):
        card = (tmp_path / name / "README.md").read_text()
        table = card.split("### Robustness")[1].split("## ")[0]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line]
        assert sorted(rows[2:]) == sorted(expected)
        assert "- fgsm: 10 images, a subset in proportion to the classes" in table
        assert "not measured" not in card


def test_a_run_of_iterate_is_exported_as_the_generation_that_it_stands_for(
    generations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Its last student, as label and predict take it; into that student's directory, with the whole card."""
    shutil.copytree(generations, run := tmp_path / "run", symlinks=True)
    for linked in (False, True):
        last = run / "gen1"
        if linked:  # of a run with validation images
            (run / "best").symlink_to("gen0")
            last = run / "gen0"
        shutil.rmtree(last / "export", ignore_errors=True)
        assert run_stage("export", [f"model.checkpoint={run}"]) == 0
        card = (last / "export" / "timm" / "README.md").read_text()
        assert f"sha256 {read_json(last / 'result.json')['weights_sha256']}" in card
        assert "exported from weights alone" not in card
        assert ("| student 1 |" in card) is not linked
    assert str(run / "gen1" / "export") in capsys.readouterr().out


def test_the_teachers_card_knows_of_no_student_and_no_teacher(generations: Path, tmp_path: Path):
    weights = generations / "gen0" / "checkpoints" / "trained.safetensors"
    options = [f"model.checkpoint={weights}", f"export.output={tmp_path}"]
    assert run_stage("export", options) == 0
    card = (tmp_path / "README.md").read_text()
    assert "none were used" in card
    assert "| student 1 |" not in card
    assert "| control |" not in card, "it is of the last student's size"
    assert "another network" not in card
    assert "Noise of unlabeled images" not in card


def test_weights_alone_make_a_card_that_says_so(b0: Path, tmp_path: Path):
    assert run_stage("export", [f"model.checkpoint={b0}", f"export.output={tmp_path}", "data=cifar10"]) == 0
    card = (tmp_path / "README.md").read_text()
    assert "Not known: exported from weights alone." in card
    assert "## Results" not in card
    assert 'create_model("tf_efficientnet_b0", num_classes=10' in card
    assert (
        read_json(tmp_path / "config.json", sealed=False)["pretrained_cfg"]["crop_mode"] == "squash"
    )  # cifar10 is of small pictures


def test_mistakes_are_named_with_what_helps(tmp_path: Path):
    with pytest.raises(NstError, match=r"nst export model\.checkpoint="):
        run_stage("export", [])
    with pytest.raises(NstError, match=r"export\.format cannot be 'onx', did you mean 'onnx'"):
        run_stage("export", ["model.checkpoint=x", "export.format=onx"])
    with pytest.raises(NstError, match=r"export\.input cannot be 'float'"):
        run_stage("export", ["model.checkpoint=x", "export.input=float"])
    with pytest.raises(NstError, match=r"released network already(.|\n)*export\.format=nst"):
        run_stage("export", ["model.checkpoint=tf_efficientnet_b7.ns_jft_in1k"])


# ---- released weights in ---------------------------------------------------------------------------------


def test_released_weights_become_a_run_that_teaches(digits: Path, tmp_path: Path):
    theirs = timm_b0()
    save_file(theirs.state_dict(), tmp_path / "b0.safetensors")
    run = tmp_path / "released"
    options = [f"model.checkpoint={tmp_path / 'b0.safetensors'}", "export.format=nst", f"export.output={run}",
               f"data.root={digits}"]  # fmt: skip
    assert run_stage("export", options) == 0
    cfg = compose_config([f"teacher.run={run}", "stage=label"])
    (weights,) = teacher_files(cfg.teacher, cfg.stage)
    network, info = load_network(weights)
    assert info.classes == load_index(digits / "labeled").classes
    assert torch.equal(network(random_images(64)), theirs(random_images(64)))
    assert torch.equal(open_network(run, ())[0](random_images(64)), theirs(random_images(64)))
    before = weights.stat().st_mtime_ns
    assert run_stage("export", options) == 0
    assert weights.stat().st_mtime_ns == before, "the same again is not made twice"


def test_a_network_of_ours_becomes_a_run_with_its_own_classes(generations: Path, tmp_path: Path, monkeypatch):
    """It names them: no data set is asked, least of all the default one."""
    monkeypatch.chdir(tmp_path)
    assert run_stage("export", [f"model.checkpoint={generations}", "export.format=nst", "export.output=again"]) == 0
    ours = read_info(Path("again/checkpoints/trained.safetensors"))
    assert ours.classes == read_info(generations / "gen1" / "checkpoints" / "trained.safetensors").classes


def test_a_teacher_of_released_weights_is_told_how_to_become_one(tmp_path: Path):
    save_file(timm_b0().state_dict(), tmp_path / "b0.safetensors")
    for source in ("tf_efficientnet_b7.ns_jft_in1k", tmp_path / "b0.safetensors"):
        cfg = compose_config([f"teacher.checkpoint={source}", "stage=label"])
        with pytest.raises(
            NstError, match=r"do not say which classes(.|\n)*export\.format=nst(.|\n)*runs/released instead"
        ):
            teacher_files(cfg.teacher, cfg.stage)
    with pytest.raises(NstError, match=r"did you mean 'tf_efficientnet_b7\.ns_jft_in1k'"):
        teacher_files(made(TeacherOptions, {"checkpoint": "tf_efficientnet_b7.ns_jft_in1"}), "label")
