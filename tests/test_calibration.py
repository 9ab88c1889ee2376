"""The temperature of confidences: fitted in validation, used by `nst predict --calibrated` and `nst.load`."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import nst
from nst.atomic import sha256_file, write_json
from nst.cli import run_stage
from nst.data.evaluation_batches import EvaluationBatches
from nst.data.shard_set import ShardSet
from nst.documents import read_json
from nst.errors import NstError
from nst.metrics import ValidationSums, calibration_bins, calibration_error
from nst.models.checkpoints import load_network, read_info, save_network
from nst.models.efficientnet import normalize
from nst.stages import predict
from nst.training.ensemble import Ensemble
from tests.test_predict import ask, encode, network_file, picture, run_of


def fitted(logits: Tensor, labels: Tensor) -> float:
    """By what the program has, in three batches, the last of them padded."""
    sums = ValidationSums(logits.shape[1])
    for part in torch.arange(len(labels)).chunk(3):
        sums.update(logits[part], labels[part])
    sums.update(torch.full((4, logits.shape[1]), math.nan), torch.full((4,), -1), torch.zeros(4, dtype=torch.bool))
    return sums.compute()["temperature"]


def drawn(samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (N, 10) and labels that are drawn by just these probabilities."""
    torch.manual_seed(seed)
    logits = 2 * torch.randn(samples, 10)
    return logits, torch.multinomial(logits.softmax(dim=1), 1)[:, 0]


@pytest.mark.parametrize("scale", [0.2, 0.3, 0.5, 1.0, 1.7, 4.0, 6.0])
def test_the_temperature_is_that_of_the_least_cross_entropy(scale: float):
    logits, labels = drawn(2000)
    grid = torch.logspace(-4, 4, 500, base=2, dtype=torch.float64)
    losses = torch.stack([cross_entropy(scale * logits.double() / each, labels) for each in grid])
    found = fitted(scale * logits, labels)
    assert found == pytest.approx(grid[losses.argmin()].item(), rel=0.03)
    assert found == pytest.approx(scale, rel=0.07)


def test_few_pictures_that_are_all_right_do_not_make_a_network_sure_of_everything():
    labels = torch.arange(50) % 10
    logits = 3.0 * torch.eye(10)[labels]
    confidence = (logits / fitted(logits, labels)).softmax(dim=1).amax(dim=1)
    assert 0.96 < confidence.min() <= confidence.max() < 0.995


@pytest.mark.parametrize(("scale", "end"), [(0.02, 1 / 8), (0.05, 1 / 8), (20.0, 8.0), (100.0, 8.0)])
def test_no_temperature_is_beyond_the_ends(scale: float, end: float):
    logits, labels = drawn(2000)
    assert fitted(scale * logits, labels) == pytest.approx(end)


@pytest.mark.parametrize(
    "logits",
    [torch.full((6, 3), math.nan), torch.full((6, 3), math.inf), torch.zeros(6, 3), torch.randn(6, 1)],
    ids=["nan", "inf", "equal", "one class"],
)
def test_the_temperature_is_1_where_none_is_better(logits: Tensor):
    assert fitted(logits, torch.arange(6) % logits.shape[1]) == 1.0


def test_confidences_are_right_as_often_as_they_say_afterwards():
    logits, labels = drawn(4000, seed=1)
    temperature = fitted(logits[:100] / 3, labels[:100])  # of a hundred pictures that are not those below

    def error(of: Tensor) -> float:
        confidence, predicted = of.softmax(dim=1).max(dim=1)
        return float(calibration_error(calibration_bins(confidence, predicted == labels[100:])))

    assert error(logits[100:] / 3) > 0.2
    assert error(logits[100:] / 3 / temperature) < 0.06


# ---- as a user asks for it


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.png").write_bytes(encode(picture(number, 16, 16), "PNG"))
    return folder


def trained(folder: Path, temperature: float, seed: int = 0, sharper: float = 1.0) -> Path:
    """The run directory of a network that has been measured like this, its logits so many times as far apart."""
    network = network_file(folder.parent / f"{folder.name}.safetensors", seed)
    if sharper != 1:
        weights = load_network(network)[0]
        weights.classifier.weight.data.mul_(sharper)
        weights.classifier.bias.data.mul_(sharper)
        save_network(network, weights.state_dict(), read_info(network))
    run = run_of(folder, network)
    measured = {"steps": 4, "validation/temperature": temperature}
    digest = sha256_file(run / "checkpoints" / "trained.safetensors")
    write_json(run / "checkpoints" / "trained.json", {"trained": measured, "weights_sha256": digest})
    return run


def confidences(folder: Path) -> list[float]:
    with open(folder / "predictions.csv", newline="") as file:
        return [float(row["confidence"]) for row in csv.DictReader(file)]


def classes(folder: Path) -> list[str]:
    with open(folder / "predictions.csv", newline="") as file:
        return [row["class"] for row in csv.DictReader(file)]


def softmax_at(run: Path, photos: Path, temperature: float, *, mirrored: bool = False) -> np.ndarray:
    network = load_network(run / "checkpoints" / "trained.safetensors")[0].eval()
    pixels = [torch.from_numpy(picture(number, 16, 16)).permute(2, 0, 1) for number in range(8)]
    with torch.inference_mode():
        images = torch.stack(pixels).flip(3) if mirrored else torch.stack(pixels)
        return (network(normalize(images)) / temperature).softmax(dim=1).numpy()


def test_predict_divides_logits_by_the_temperature_and_changes_no_class(photos: Path, tmp_path: Path):
    run = trained(tmp_path / "run", 0.4)
    ask(run, photos, tmp_path / "raw")
    ask(run, photos, tmp_path / "fitted", "--calibrated")
    assert classes(tmp_path / "raw") == classes(tmp_path / "fitted")
    for folder, temperature in (("raw", 1.0), ("fitted", 0.4)):
        expected = softmax_at(run, photos, temperature).max(axis=1)
        np.testing.assert_allclose(confidences(tmp_path / folder), expected, atol=1e-3)


def test_python_says_the_same(photos: Path, tmp_path: Path):
    run = trained(tmp_path / "run", 0.4)
    pictures = [picture(number, 16, 16) for number in range(8)]
    found = nst.load(run, calibrated=True).predict(pictures)
    expected = softmax_at(run, photos, 0.4)
    np.testing.assert_allclose(np.stack([each.probabilities for each in found]), expected, atol=1e-3)


def test_several_networks_and_views_are_averaged_each_at_its_own_temperature(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    runs = [trained(tmp_path / "a", 0.4), trained(tmp_path / "b", 2.0, seed=1)]
    ask(runs, photos, tmp_path / "both", "--calibrated")
    said = "confidences at temperature 0.40, 2.00, by validation pictures; of each answer by itself"
    told = "".join(capsys.readouterr())
    assert said in told
    assert "an end of the range" not in told
    mean = (softmax_at(runs[0], photos, 0.4) + softmax_at(runs[1], photos, 2.0)) / 2
    np.testing.assert_allclose(confidences(tmp_path / "both"), mean.max(axis=1), atol=1e-3)
    ask(runs[0], photos, tmp_path / "views", "--calibrated", "--views", "all")
    turned = (softmax_at(runs[0], photos, 0.4) + softmax_at(runs[0], photos, 0.4, mirrored=True)) / 2
    np.testing.assert_allclose(confidences(tmp_path / "views"), turned.max(axis=1), atol=1e-3)


def test_both_kinds_of_answers_are_kept(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = trained(tmp_path / "run", 0.4)
    ask(run, photos, tmp_path / "out")
    ask(run, photos, tmp_path / "out", "--calibrated")
    monkeypatch.setattr(predict.LightningEngine, "label", None)  # nobody is asked again
    for options, temperature in ((["--calibrated"], 0.4), ([], 1.0), (["--calibrated"], 0.4)):
        ask(run, photos, tmp_path / "out", *options)
        expected = softmax_at(run, photos, temperature).max(axis=1)
        np.testing.assert_allclose(confidences(tmp_path / "out"), expected, atol=1e-3)


@pytest.mark.parametrize("temperature", [0.125, 8.0])
def test_command_and_python_agree_at_every_temperature(
    photos: Path, tmp_path: Path, temperature: float, capsys: pytest.CaptureFixture[str]
):
    """Also of a network that is as sure as float32 can tell, whose other probabilities float16 would lose."""
    run = trained(tmp_path / "run", temperature, sharper=12)
    ask(run, photos, tmp_path / "out", "--calibrated")
    assert "an end of the range that is looked at" in "".join(capsys.readouterr())
    found = nst.load(run, calibrated=True).predict([picture(number, 16, 16) for number in range(8)])
    sure = [each.confidence for each in found]
    assert temperature < 1 or max(sure) < 0.999
    np.testing.assert_allclose(confidences(tmp_path / "out"), sure, atol=1e-4)


def test_what_is_less_sure_is_told_by_the_fitted_confidence(photos: Path, tmp_path: Path):
    run, folders = trained(tmp_path / "run", 0.25), tmp_path / "sorted"
    raw = ask(run, photos, tmp_path / "out", "--min-confidence", "0.9")
    sorted_ = ["--calibrated", "--min-confidence", "0.9", "--sort-into", str(folders)]
    found = ask(run, photos, tmp_path / "out", *sorted_)
    expected = int((softmax_at(run, photos, 0.25).max(axis=1) >= 0.9).sum())
    assert raw["predicted"] < found["predicted"] == expected
    assert len(list(folders.glob("*/*.png"))) == expected
    sheet = (tmp_path / "out" / "sheet.html").read_text()
    assert "calibrated on validation pictures" in sheet
    assert len(re.findall(r">\s*(9\d|100)\u00a0?\s?%", sheet)) >= expected


@pytest.mark.parametrize("told", ["nothing", "no temperature", "another network", "damaged", "an export"])
def test_a_network_without_a_temperature_says_so_and_answers_as_ever(photos: Path, tmp_path: Path, told: str):
    run = trained(tmp_path / "run", 0.4)
    summary = run / "checkpoints" / "trained.json"
    if told == "nothing":
        summary.unlink()
    elif told == "damaged":
        summary.write_text(summary.read_text().replace("0.4", "0.3"))
    elif told == "an export":  # as adopt of nst.stages.export writes it
        write_json(summary, {"weights_sha256": read_json(summary)["weights_sha256"]})
    elif told == "no temperature":
        write_json(summary, {**read_json(summary), "trained": {"steps": 4}})
    else:
        write_json(summary, {**read_json(summary), "weights_sha256": "0" * 64})
    with pytest.raises(NstError, match="the temperature at which confidences fit is not known"):
        ask(run, photos, tmp_path / "out", "--calibrated")
    with pytest.raises(NstError, match=r"calibrated=false|predict\.calibrated=false"):
        nst.load(run, calibrated=True)
    assert ask(run, photos, tmp_path / "out")["predicted"] == 8  # the advice, followed


@pytest.mark.parametrize(
    ("temperature", "often"),
    [(0.4, "more"), (2.5, "less"), (1.13, None)],
)
def test_a_user_is_told_of_confidences_that_do_not_fit(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], temperature: float, often: str | None
):
    run = trained(tmp_path / "run", temperature)
    ask(run, photos, tmp_path / "out")
    said = "".join(capsys.readouterr())
    if often:
        assert f"right {often} often than its confidences say: --calibrated mends them" in said
    else:
        assert "than its confidences say" not in said
    ask(run, photos, tmp_path / "calibrated", "--calibrated")
    assert "than its confidences say" not in "".join(capsys.readouterr())


def test_another_temperature_is_asked_for_anew(photos: Path, tmp_path: Path):
    run = trained(tmp_path / "run", 0.4)
    ask(run, photos, tmp_path / "out", "--calibrated")
    summary = run / "checkpoints" / "trained.json"
    write_json(summary, {**read_json(summary), "trained": {"validation/temperature": 2.0}})
    ask(run, photos, tmp_path / "out", "--calibrated")
    np.testing.assert_allclose(confidences(tmp_path / "out"), softmax_at(run, photos, 2.0).max(axis=1), atol=1e-3)


@pytest.mark.parametrize("form", ["timm", "onnx"])
def test_an_exported_network_has_its_temperature_with_it(photos: Path, tmp_path: Path, form: str):
    run, out = trained(tmp_path / "run", 0.4), tmp_path / "exported"
    if form == "onnx":
        onnx = pytest.importorskip("onnx")
    options = [f"model.checkpoint={run}", f"export.output={out}", f"export.format={form}"]
    assert run_stage("export", options) == 0
    assert "| Confidences | softmax(logits / 0.4), by its validation images |" in (out / "README.md").read_text()
    if form == "onnx":
        facts = {each.key: each.value for each in onnx.load(out / "model.onnx").metadata_props}
        assert facts["temperature"] == "0.4"
        return
    adopted = tmp_path / "adopted"
    again = [f"model.checkpoint={out / 'model.safetensors'}", f"export.output={adopted}", "export.format=nst"]
    assert run_stage("export", again) == 0
    for network in (out / "model.safetensors", adopted):
        ask(network, photos, tmp_path / f"answers of {network.name}", "--calibrated")
        expected = softmax_at(run, photos, 0.4).max(axis=1)
        np.testing.assert_allclose(confidences(tmp_path / f"answers of {network.name}"), expected, atol=1e-3)


@pytest.mark.parametrize("temperature", ["hot", 0.0, -1.0, math.inf, math.nan, True, None])
def test_a_temperature_that_is_none_is_not_known(photos: Path, tmp_path: Path, temperature: object):
    network = network_file(tmp_path / "network.safetensors", 0)
    info = read_info(network)
    save_network(network, load_network(network)[0].state_dict(), replace(info, extra={"temperature": temperature}))
    with pytest.raises(NstError, match="the temperature at which confidences fit is not known"):
        nst.load(network, calibrated=True)
    assert len(nst.load(network).predict([picture(0, 16, 16)])) == 1
    assert run_stage("export", [f"model.checkpoint={network}", f"export.output={tmp_path / 'exported'}"]) == 0
    assert "Confidences" not in (tmp_path / "exported" / "README.md").read_text()


@pytest.mark.parametrize("validation", ["null", "{}/./test/"])
def test_what_was_fitted_to_test_pictures_calibrates_nothing(tiny, digits: Path, validation: str):
    from nst.stages import train

    cfg = tiny(f"data.validation={validation.format(digits)}", "student.steps=4")
    train.main(cfg)
    summary = read_json(Path(cfg.run_dir) / "checkpoints" / "trained.json")["trained"]
    assert "validation/ece" in summary
    assert "validation/temperature" not in summary


def test_a_training_measures_it_with_its_last_weights(tiny, digits: Path):
    from nst.stages import train

    cfg = tiny(f"data.validation={digits / 'test'}", "data.test=null")
    run = Path(cfg.run_dir)
    train.main(cfg)
    measured = read_json(run / "checkpoints" / "trained.json")["trained"]
    ensemble, sums = Ensemble.of([run / "checkpoints" / "trained.safetensors"]), ValidationSums(10)
    batches = EvaluationBatches(ShardSet.open(str(digits / "test")), ensemble.view, batch_size=50)
    network = ensemble.network()
    with torch.inference_mode():
        for batch in map(batches.__getitem__, range(len(batches))):
            sums.update(network(normalize(batch["images"])), batch["labels"], batch["valid"])
    assert measured["validation/temperature"] == pytest.approx(sums.compute()["temperature"], rel=1e-3)
    assert measured["validation/temperature"] != 1
