"""docs/extending.md is true: its files and edits, made in a copy of nst/ and conf/, do what the page says.

Within this module the copy is imported as `nst`, which is why the tests import it themselves.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hydra.core.singleton import Singleton

from nst.stage_table import STAGES
from tests.conftest import read_by
from tests.helpers import apply_op, noise
from tests.test_docs import ROOT, SMALLEST, commands
from tests.test_foreign import hub_folder
from tests.test_foreign import theirs as resnet

PAGE = ROOT / "docs" / "extending.md"
EDITS = re.findall(r"^```diff\n\+\+\+ (\S+)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
FILES = dict(re.findall(r"`(\w+/\w+\.yaml)` in `conf/`:\n\n```yaml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.M))


def edited(text: str, edit: str) -> str:
    """`text` after a diff without line numbers: what it takes for granted is there, and there once."""
    for hunk in edit.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before, after = ("".join(line[1:] or "\n" for line in lines if line[0] in kept) for kept in (" -\n", " +\n"))
        assert text.count(f"\n{before}") == 1, f"no longer as the page has it:\n{before}"
        text = text.replace(f"\n{before}", f"\n{after}")
    return text


def nst_modules() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "nst"]


@pytest.fixture(scope="module", autouse=True)
def copy(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[Path]:
    """Copy of nst/ and conf/ with all that the page adds, imported as nst while this module's tests run; `digits` are
    made before, by nst as it is."""
    folder = tmp_path_factory.mktemp("copy")
    for part in ("nst", "conf"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        assert not (folder / "conf" / name).exists()
        (folder / "conf" / name).write_text(text)
    for name, edit in EDITS:
        (folder / name).write_text(edited((folder / name).read_text(), edit))
    for record in STAGES.values():  # conftest asks these, whose types are looked up where the copy will be
        _ = record.options
    originals = {name: sys.modules.pop(name) for name in nst_modules()}
    sys.path.insert(0, str(folder))
    registered = Singleton.get_state()  # Hydra's, where the copy's options take the place of ours
    yield folder
    Singleton.set_state(registered)
    sys.path.remove(str(folder))
    for name in nst_modules():
        del sys.modules[name]
    sys.modules.update(originals)


@pytest.fixture(scope="module")
def ran(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The page's experiment at the smallest size, its corruption measured too: folder, and what was called how."""
    from nst.cli import dispatch
    from nst.data import operations
    from nst.models.noise import FeatureNoise

    called: Counter[Any] = Counter()
    blur, forward = operations.blur, FeatureNoise.forward

    def counted_blur(image: np.ndarray, sigma: float) -> np.ndarray:
        called["blur", sigma] += 1
        return blur(image, sigma)

    def counted_forward(module: Any, x: torch.Tensor) -> torch.Tensor:
        if module.training:
            called["feature_noise", module.rate] += 1
        return forward(module, x)

    folder = tmp_path_factory.mktemp("ran")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(operations, "blur", counted_blur)
        patch.setattr(FeatureNoise, "forward", counted_forward)
        assert dispatch(["shard", *(option for option in SMALLEST if option.startswith(("data.", "shard.")))]) == 0
        (command,) = (shlex.split(command) for command in commands(PAGE) if " iterate " in command)
        assert dispatch([*command[1:], *SMALLEST, "eval.corruptions=[benchmark,darkness]"]) == 0
    return {"run": folder / "runs" / "digits_blurred-seed0", "called": called}


def inputs(run: Path) -> dict[str, Any]:
    """What a run's fingerprint is of."""
    return json.loads((run / "started.json").read_text())["inputs"]


def test_every_file_and_edit_of_the_page_is_made(copy: Path):
    import nst

    assert Path(nst.__file__).parent == copy / "nst"
    blocks = re.findall(r"^```(\w+)$", PAGE.read_text(), re.MULTILINE)
    assert (blocks.count("diff"), blocks.count("yaml")) == (len(EDITS), len(FILES))
    assert set(blocks) == {"diff", "yaml", "bash"}
    assert all((copy / name).read_text() != (ROOT / name).read_text() for name, _ in EDITS)


@pytest.mark.parametrize("command", list(commands(PAGE)))
def test_the_pages_commands_compose(command: str):
    from nst.config import compose_config, job_from, plain
    from nst.settings.job import GenerationsJob
    from nst.stage_table import STAGES
    from nst.stages.generations import configurations

    program, stage, *options = shlex.split(command)
    assert program == "bin/nst"
    assert stage in STAGES
    cfg = compose_config([*options, f"stage={stage}"])
    cfg.overrides = options
    for part in [cfg, *(configurations(job_from(GenerationsJob, cfg)) if stage == "iterate" else [])]:
        assert plain(part)


# ---- a noise on images -----------------------------------------------------------------------------------


def test_the_17th_operation_is_drawn_as_often_as_the_others(monkeypatch: pytest.MonkeyPatch):
    from nst.data import operations
    from nst.data.randaugment import OPERATIONS, RandAugment

    assert len(OPERATIONS) == 16
    sigmas: list[float] = []
    monkeypatch.setattr(operations, "blur", lambda image, sigma: sigmas.append(sigma) or image)
    rng, augment = np.random.default_rng(0), RandAugment(num_ops=2, magnitude=9, variant="blurred")
    image = noise(16, 16)
    for _ in range(850):
        augment(image, rng)
    assert set(sigmas) == {0.9}
    assert len(sigmas) == pytest.approx(1700 / 17, abs=40)  # 4 deviations


def test_the_variant_draws_from_its_generator_alone_and_leaves_its_input_and_the_others_alone():
    from nst.data.operations import blur
    from nst.data.randaugment import RandAugment
    from nst.errors import NstError

    image = noise(24, 20)
    kept = image.copy()
    for seed in range(20):
        first, again = (RandAugment(3, 9, "blurred")(image, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert (first.dtype, first.shape) == (np.uint8, image.shape)
    np.testing.assert_array_equal(image, kept)
    assert blur(image, 2.0).std() < image.std() / 2
    np.testing.assert_array_equal(blur(image, 0.0), image)
    with pytest.raises(NstError, match="takes whole magnitudes"):
        RandAugment(2, 9.5, "blurred")
    with pytest.raises(NstError, match="blurred"):
        RandAugment(2, 9, "blured")


def test_a_variant_can_do_one_of_the_16_in_another_way(monkeypatch: pytest.MonkeyPatch):
    from nst.data import randaugment

    monkeypatch.setattr(randaugment, "VARIANTS", (*randaugment.VARIANTS, "own"))
    own = {**randaugment._CHANGED["fixed"], "Invert": lambda image, _: np.zeros_like(image)}
    monkeypatch.setitem(randaugment._CHANGED, "own", own)
    image = noise(12, 12)
    assert not apply_op(image, "Invert", 5, variant="own").any()
    assert randaugment.RandAugment(2, 5.5, "own")(image, np.random.default_rng(0)).shape == image.shape


def test_a_training_uses_the_variant_and_remembers_it(ran: dict[str, Any]):
    assert ran["called"]["blur", 0.5] > 10
    for generation in ("gen0", "gen1"):
        assert inputs(ran["run"] / generation)["noise"]["randaugment"]["variant"] == "blurred"


# ---- a noise in the network ------------------------------------------------------------------------------


def test_the_noise_of_features_spares_the_samples_that_the_switch_spares():
    from nst.models.noise import FeatureNoise, NoiseSwitch

    switch, x = NoiseSwitch(), torch.rand(4, 5000) + 1
    module = FeatureNoise(0.3, switch)
    switch.dropout = torch.tensor([1.0, 0.0, 1.0, 0.0])
    y = module(x)
    assert torch.equal(y[1::2], x[1::2])
    assert (y / x)[0::2].std().item() == pytest.approx(0.3, rel=0.05)
    assert (y / x)[0::2].mean().item() == pytest.approx(1, abs=0.02)
    switch.dropout = None
    assert not torch.equal(module(x)[1], x[1])
    assert torch.equal(module.eval()(x), x)


def test_the_network_has_no_parameters_more_and_the_rate_is_the_options(ran: dict[str, Any]):
    from nst.models.efficientnet import ARCHITECTURES, build

    with torch.device("meta"):
        ours = build(ARCHITECTURES["efficientnet_b0"], 10)
        theirs = timm.create_model("tf_efficientnet_b0", num_classes=10)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert {rate for kind, rate in ran["called"] if kind == "feature_noise"} == {0.0, 0.1}
    rates = [inputs(ran["run"] / f"gen{number}")["noise"]["feature_noise"] for number in (0, 1)]
    assert rates == [0.0, 0.1]


def test_a_training_from_before_the_option_is_refused(ran: dict[str, Any], tmp_path: Path):
    from nst.documents import fingerprint
    from nst.errors import NstError
    from nst.runs import Run

    before = inputs(ran["run"] / "gen0")
    del before["noise"]["feature_noise"]
    with Run(tmp_path, "train", before) as run:
        run.finish({})
    with pytest.raises(NstError, match=r"other inputs\n.*noise\.feature_noise"):
        Run(tmp_path, "train", inputs(ran["run"] / "gen0")).__enter__()
    assert fingerprint(before) != fingerprint(inputs(ran["run"] / "gen0"))


# ---- a network -------------------------------------------------------------------------------------------


def test_the_network_is_timms_and_is_recognized_by_its_weights():
    from nst.config import compose_config, plain
    from nst.models.checkpoints import recognize
    from nst.models.efficientnet import ARCHITECTURES, build
    from nst.models.formats import timm_name
    from nst.settings.fields import made_of
    from nst.settings.network import Model
    from nst.stages.chosen_network import architecture as architecture_of

    architecture = architecture_of(made_of(Model, plain(compose_config(["model=efficientnet_b8"]).model)))
    assert architecture == ARCHITECTURES["efficientnet_b8"]
    with torch.device("meta"):
        ours, theirs = build(architecture, 1000), timm.create_model("tf_efficientnet_b8")
    shapes = [{key: tuple(value.shape) for key, value in one.state_dict().items()} for one in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert recognize(theirs.state_dict()) == architecture
    assert timm_name(architecture) == "tf_efficientnet_b8"
    assert sum(parameter.numel() for parameter in ours.parameters()) == pytest.approx(87.4e6, rel=1e-3)
    assert theirs.pretrained_cfg["input_size"][-1] == architecture.test_size


def test_the_recipe_is_that_of_b7_for_the_new_network():
    from nst.config import compose_config

    ours, b7 = (compose_config([f"student=efficientnet_{name}"]) for name in ("b8", "b7"))
    assert ours.model.name == "efficientnet_b8"
    assert ours.student.finetune.image_size == 672
    b7.model = ours.model  # whose size the fine-tuning takes
    assert (ours.student, ours.noise.randaugment) == (b7.student, b7.noise.randaugment)


def test_a_network_of_any_width_and_depth_trains_by_its_file_alone(digits: Path, tmp_path: Path):
    from nst.cli import dispatch
    from nst.models.checkpoints import load_network

    small = ["model.width=0.3", "model.depth=0.25", "model.train_size=32", "model.test_size=32", "student.steps=2"]
    options = [f"data.root={digits}", f"run_dir={tmp_path}", "student.labeled_batch_size=8", "trainer.workers=0"]
    assert dispatch(["train", "student=efficientnet_b8", *small, *options]) == 0
    _, info = load_network(tmp_path / "checkpoints" / "trained.safetensors")
    assert (info.architecture.name, info.architecture.width) == ("efficientnet_b8", 0.3)


def test_another_family_is_evaluated_and_neither_trains_nor_teaches(digits: Path, tmp_path: Path):
    from nst.cli import dispatch
    from nst.errors import NstError

    folder = hub_folder(
        tmp_path / "hub", resnet(), "test_resnet", mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    data = [f"data.root={digits}", "trainer.workers=0"]
    output = f"evaluate.output={tmp_path / 'evaluation'}"
    assert dispatch(["evaluate", *data, f"model.checkpoint={folder}", output]) == 0
    small = "student.labeled_batch_size=8"
    refused = (
        ("train", small, f"model.checkpoint={folder}", f"run_dir={tmp_path / 'train'}"),
        ("export", f"model.checkpoint={folder}", "export.format=nst", f"export.output={tmp_path / 'run'}"),
    )
    for stage, *options in refused:
        with pytest.raises(NstError, match="is no network we know"):
            dispatch([stage, *read_by(stage, data), *options])
    with pytest.raises(NstError, match="released weights do not say"):
        dispatch(["label", *data, f"teacher.checkpoint={folder}", f"teacher.predictions={tmp_path / 'predictions'}"])


# ---- a corruption ----------------------------------------------------------------------------------------


def test_the_corruption_darkens_by_severity():
    from nst.robustness.corruptions import Corruptions

    image = noise(32, 32)
    for side in (32, 64, 224, 299):
        shades = [Corruptions(side)(image, "darkness", severity, np.random.default_rng(0)).mean() / image.mean()
                  for severity in range(1, 6)]  # fmt: skip
        assert shades == pytest.approx([0.8, 0.6, 0.4, 0.3, 0.2], abs=0.01)


def test_the_corruption_is_measured_and_in_no_mean(ran: dict[str, Any]):
    scores = json.loads((ran["run"] / "gen1" / "evaluation" / "result.json").read_text())["robustness"]["c_onthefly"]
    errors = scores["errors"]
    assert len(errors) == 16
    assert len(errors["darkness"]) == 5
    of_benchmark = [np.mean(values) for name, values in errors.items() if name != "darkness"]
    assert scores["mean_error"] == pytest.approx(np.mean(of_benchmark))
    assert "darkness" in (ran["run"] / "gen1" / "evaluation" / "robustness.csv").read_text()


# ---- an experiment ---------------------------------------------------------------------------------------


def test_the_experiment_runs_as_its_file_says(ran: dict[str, Any]):
    generations = json.loads((ran["run"] / "result.json").read_text())["generations"]
    assert [generation["width"] for generation in generations] == [0.35, 0.5]
    assert (ran["run"] / "report.html").is_file()


def test_the_experiment_has_what_every_experiment_has():
    from nst.config import compose_config, group_choices

    (name,) = (Path(file).stem for file in FILES if file.startswith("experiment/"))
    assert name in group_choices("experiment")
    assert compose_config([f"experiment={name}"]).name == name
    assert f"# command: nst iterate experiment={name}\n" in FILES[f"experiment/{name}.yaml"]


def test_the_summary_line_of_every_file_is_shown_by_help():
    from nst.help import stage_help

    shown = " ".join(stage_help("train").split())
    for name, text in FILES.items():
        line = next(line for line in text.splitlines() if not line.startswith("# @package"))
        assert re.search(rf"{Path(name).stem} {re.escape(line.removeprefix('# '))}", shown), name
