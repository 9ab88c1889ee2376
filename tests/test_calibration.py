"""The temperature of confidences: fitted in validation, used by `nst predict --calibrated` and `nst.load`."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import nst
from nst.atomic import sha256_file, write_json
from nst.data import answered
from nst.data.evaluation_batches import EvaluationBatches
from nst.data.prediction_files import PredictionFiles
from nst.data.predictions import PredictionMetadata
from nst.data.shard_set import ShardInfo, ShardSet
from nst.documents import read_json
from nst.errors import NstError
from nst.metrics import EvaluationSums, calibration_bins, calibration_error
from nst.models.checkpoints import load_network
from nst.models.efficientnet import normalize
from nst.stages import predict
from nst.training.ensemble import Ensemble
from tests.test_predict import ask, encode, network_file, picture, run_of


def fitted(logits: Tensor, labels: Tensor) -> float:
    """By what the program has, in three batches, the last of them padded."""
    sums = EvaluationSums(logits.shape[1])
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


@pytest.mark.parametrize("temperature", [0.3, 2.0, 4.0])
@pytest.mark.parametrize("margin", [4.0, 12.0, 18.0])
def test_stored_probabilities_are_tempered_as_logits_are(tmp_path: Path, temperature: float, margin: float):
    """Although float16 makes 0 of what a high temperature would bring back."""
    logits = np.zeros((3, 100))
    logits[np.arange(3), [2, 0, 9]] = margin
    softmax = torch.from_numpy(logits).softmax(dim=1).float().numpy()
    files = PredictionFiles(tmp_path, PredictionMetadata("", tuple(map(str, range(100))), 16, "", "", {}), keep=0.0)
    shard = ShardInfo("part-000000.tar", 3, 0, "")
    files.write(shard, np.arange(3), ["x", "y", "z"], softmax, [])
    labels, confidences = answered._read(files, shard, 100, temperature)[2:]
    assert labels[:, 0].tolist() == [2, 0, 9]
    expected = torch.from_numpy(logits / temperature).softmax(dim=1).numpy()
    np.testing.assert_allclose(confidences, np.sort(expected, axis=1)[:, ::-1], atol=5e-3)


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


def trained(folder: Path, temperature: float, seed: int = 0) -> Path:
    """The run directory of a network that has been measured like this."""
    network = network_file(folder.parent / f"{folder.name}.safetensors", seed)
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


def softmax_at(run: Path, photos: Path, temperature: float) -> np.ndarray:
    network = load_network(run / "checkpoints" / "trained.safetensors")[0].eval()
    pixels = [torch.from_numpy(picture(number, 16, 16)).permute(2, 0, 1) for number in range(8)]
    with torch.inference_mode():
        return (network(normalize(torch.stack(pixels))) / temperature).softmax(dim=1).numpy()


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


def test_the_mean_of_several_answers_has_no_temperature(photos: Path, tmp_path: Path):
    runs = [trained(tmp_path / "a", 0.4), trained(tmp_path / "b", 2.0, seed=1)]
    for asked, options in ((runs, []), (runs[0], ["predict.views=all"])):
        with pytest.raises(NstError, match=r"one network in one view .*\n.*the mean of 2 answers"):
            ask(asked, photos, tmp_path / "out", "--calibrated", *options)
    with pytest.raises(NstError, match="one network in one view"):
        nst.load(runs, calibrated=True)
    assert ask(runs, photos, tmp_path / "out", "predict.calibrated=false")["predicted"] == 8  # the advice, followed


def test_the_network_is_not_asked_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = trained(tmp_path / "run", 0.4)
    ask(run, photos, tmp_path / "out")
    monkeypatch.setattr(predict.LightningEngine, "label", None)
    for options, temperature in ((["--calibrated"], 0.4), ([], 1.0)):
        ask(run, photos, tmp_path / "out", *options)
        expected = softmax_at(run, photos, temperature).max(axis=1)
        np.testing.assert_allclose(confidences(tmp_path / "out"), expected, atol=1e-3)


def test_what_is_less_sure_is_told_by_the_fitted_confidence(photos: Path, tmp_path: Path):
    run, folders = trained(tmp_path / "run", 0.25), tmp_path / "sorted"
    raw = ask(run, photos, tmp_path / "out", "--min-confidence", "0.9")
    sorted_ = ["--calibrated", "--min-confidence", "0.9", "--sort-into", str(folders)]
    found = ask(run, photos, tmp_path / "out", *sorted_)
    expected = int((softmax_at(run, photos, 0.25).max(axis=1) >= 0.9).sum())
    assert raw["predicted"] < found["predicted"] == expected
    assert len(list(folders.glob("*/*.png"))) == expected
    sheet = (tmp_path / "out" / "sheet.html").read_text()
    assert "calibrated, at temperature 0.25" in sheet
    assert len(re.findall(r">\s*(9\d|100)\u00a0?\s?%", sheet)) >= expected


@pytest.mark.parametrize("told", ["nothing", "no temperature", "another network", "damaged"])
def test_a_network_without_a_temperature_says_so_and_answers_as_ever(photos: Path, tmp_path: Path, told: str):
    run = trained(tmp_path / "run", 0.4)
    summary = run / "checkpoints" / "trained.json"
    if told == "nothing":
        summary.unlink()
    elif told == "damaged":
        summary.write_text(summary.read_text().replace("0.4", "0.3"))
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
    [(0.4, "more"), (2.5, "less"), (0.9, None), (1.13, None)],
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


def test_a_training_measures_it_with_its_last_weights(tiny, digits: Path):
    from nst.stages import train

    cfg = tiny()
    run = Path(cfg.run_dir)
    train.main(cfg)
    measured = read_json(run / "checkpoints" / "trained.json")["trained"]
    ensemble, sums = Ensemble.of([run / "checkpoints" / "trained.safetensors"]), EvaluationSums(10)
    batches = EvaluationBatches(ShardSet.open(str(digits / "test")), ensemble.view, batch_size=50)
    network = ensemble.network()
    with torch.inference_mode():
        for batch in map(batches.__getitem__, range(len(batches))):
            sums.update(network(normalize(batch["images"])), batch["labels"], batch["valid"])
    assert measured["validation/temperature"] == pytest.approx(sums.compute()["temperature"], rel=1e-3)
    assert measured["validation/temperature"] != 1
