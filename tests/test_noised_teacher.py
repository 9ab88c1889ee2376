"""A noised teacher (`teacher.noised`): its labels are made under the noise of its training, whoever makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from nst.cli import dispatch
from nst.config import job_from
from nst.data.inputs import open_inputs
from nst.data.predictions import Predictions
from nst.data.stream import generator
from nst.data.views import clean_view, training_view
from nst.documents import read_json
from nst.errors import NstError, UsageError
from nst.models.checkpoints import import_weights
from nst.models.efficientnet import normalize
from nst.models.network_info import read_info
from nst.models.networks import build
from nst.settings.data import Pictures
from nst.settings.job import LabelJob, TrainJob
from nst.settings.network import Noise
from nst.stages import label, train
from nst.training.ensemble import Ensemble
from nst.training.noised_teacher import noised
from tests.conftest import TINY

NOISE = ("noise.stochastic_depth=0.5", "noise.dropout=0.4", "data.pictures.flip=true")


@pytest.fixture
def teacher(tiny, tmp_path):
    """A run whose network has seen noise."""
    cfg = tiny("student.steps=6", *NOISE, run_dir=tmp_path / "teacher")
    train.from_cfg(cfg)
    return tmp_path / "teacher"


def labels(tiny, teacher, folder, *options):
    cfg = tiny("stage=label", f"teacher.run={teacher}", f"teacher.predictions={folder}", "teacher.noised=true",
               "data.pictures.flip=true", *options)  # fmt: skip
    label.run(job_from(LabelJob, cfg), folder)
    predictions, inputs = Predictions.open(folder), open_inputs(cfg.data.unlabeled)
    return {shard.name: predictions.read(shard.name)["probs"] for shard in inputs.shards}, inputs


def test_labels_of_a_noised_teacher_are_made_under_the_noise_of_its_training(teacher, tiny, tmp_path):
    weights, pictures = teacher / "checkpoints" / "trained.safetensors", Pictures(small=True)
    found, inputs = labels(tiny, teacher, tmp_path / "noised")
    clean_cfg = tiny("stage=label", f"teacher.run={teacher}", "data.pictures.flip=true", "label.precision=32-true")
    label.run(job_from(LabelJob, clean_cfg), teacher / "predictions")
    clean = Predictions.open(teacher / "predictions")

    noise = noised(Ensemble.of([weights]), [pictures]).members[0].noise
    assert isinstance(noise, Noise)
    assert (noise.stochastic_depth, noise.dropout, noise.labeled.augment) == (0.5, 0.4, "randaugment")
    view, info = training_view("randaugment", 12, pictures, noise), read_info(weights)
    network = build(info.architecture, 10, dropout=0.4, stochastic_depth=0.5)
    import_weights(network, weights)
    network.eval()
    for module in network.modules():
        if type(module).__name__ in ("Dropout", "StochasticDepth"):
            module.train()
    shard = inputs.shards[0]
    for index in (0, shard.samples - 1):
        key, pixels, _ = inputs.read(0, index)
        seen = view(pixels, generator("noised teacher", pixels.shape, pixels.tobytes()))
        drawn = torch.Generator().manual_seed(int(generator("noised teacher", key).integers(2**63)))
        network.use_noise(network.draw_noise(1, torch.device("cpu"), drawn))
        with torch.no_grad():
            expected = network(normalize(torch.from_numpy(seen.copy()).permute(2, 0, 1)[None])).softmax(1)[0]
        np.testing.assert_allclose(found[shard.name][index], expected, atol=1e-3)
        unseen = clean_view(12, pictures)(pixels)
        assert not np.array_equal(seen, unseen), "the picture is augmented"
    assert np.abs(found[shard.name] - clean.read(shard.name)["probs"]).max() > 1e-3
    assert clean.digest != Predictions.open(tmp_path / "noised").digest


def test_they_do_not_depend_on_batches_or_on_an_attempt_before(teacher, tiny, tmp_path):
    one, _ = labels(tiny, teacher, tmp_path / "one")
    other, _ = labels(tiny, teacher, tmp_path / "other", "label.batch_size=7")
    for name, probs in one.items():
        np.testing.assert_allclose(probs, other[name], atol=2e-3)
    first, *_ = sorted((tmp_path / "one").glob("*.parquet"))
    before = first.read_bytes()
    first.unlink()
    (tmp_path / "one" / "DONE").unlink()
    labels(tiny, teacher, tmp_path / "one")
    assert first.read_bytes() == before


def test_the_labels_of_a_clean_teacher_are_not_taken_for_them(teacher, tiny, tmp_path):
    cfg: DictConfig = tiny("stage=label", f"teacher.run={teacher}", "data.pictures.flip=true")
    label.run(job_from(LabelJob, cfg), teacher / "predictions")
    with pytest.raises(NstError, match=r"teacher\.noised"):
        labels(tiny, teacher, teacher / "predictions")


def test_what_a_noised_teacher_cannot_do_is_refused(teacher, tiny, tmp_path):
    online = tiny("teacher=online", "teacher.noised=true", f"teacher.run={teacher}", "stage=train")
    with pytest.raises(UsageError, match=r"teacher\.mode=online"):
        train.check(job_from(TrainJob, online))
    with pytest.raises(UsageError, match=r"label\.precision=bf16-true"):
        labels(tiny, teacher, tmp_path / "bf16", "label.precision=bf16-true")
    copied = tmp_path / "elsewhere" / "network.safetensors"
    copied.parent.mkdir()
    copied.write_bytes((teacher / "checkpoints" / "trained.safetensors").read_bytes())
    cfg = tiny("stage=label", f"teacher.checkpoint={copied}", f"teacher.predictions={tmp_path / 'none'}",
               "teacher.noised=true", "data.pictures.flip=true")  # fmt: skip
    with pytest.raises(NstError, match="not known of this network"):
        label.run(job_from(LabelJob, cfg), tmp_path / "none")


def test_students_learn_from_a_noised_teacher_in_the_loop(digits, tmp_path):
    common = [*TINY, f"data.root={digits}", "iterate.generations=[[],[]]", "iterate.report=false", *NOISE]
    for name, option in (("clean", "false"), ("noised", "true")):
        arguments = [*common, f"run_dir={tmp_path / name}", f"teacher.noised={option}"]
        assert dispatch(["iterate", *arguments]) == 0
    results = {
        (name, generation): read_json(tmp_path / name / generation / "result.json")["weights_sha256"]
        for name in ("clean", "noised")
        for generation in ("gen0", "gen1")
    }
    assert results["clean", "gen0"] == results["noised", "gen0"], "the noise is that of the labels alone"
    assert results["clean", "gen1"] != results["noised", "gen1"]
    for name, told in (("clean", "without noise"), ("noised", "under the noise of its own training")):
        card = tmp_path / name / "exported" / "README.md"
        asked = [f"model.checkpoint={tmp_path / name / 'gen1'}", f"export.output={card.parent}"]
        assert dispatch(["export", *asked]) == 0
        assert f"by a teacher network, {told}" in card.read_text()
