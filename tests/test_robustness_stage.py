"""`nst evaluate eval=robustness` as a whole: tiny networks on digits and on released sets that the tests write."""

from __future__ import annotations

import copy
import csv
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_networks import TINY as NETWORK

from nst.config import compose_config
from nst.data.shard_set import ShardSet
from nst.data.transforms import CenterView
from nst.documents import read_json
from nst.errors import NstError, Preempted
from nst.evaluation import corrupted as corrupted_suites
from nst.evaluation import results
from nst.evaluation.corrupted import SHOWN_PER_CORRUPTION
from nst.evaluation.results import headlines, summary, table
from nst.evaluation.suite import (
    Block,
    Kept,
    Pass,
    Scorer,
    Subject,
    Suite,
    SuiteKind,
    block_size,
    image_blocks,
)
from nst.metrics import RunningSums
from nst.models.checkpoints import NetworkInfo, load_network, save_network
from nst.models.efficientnet import EfficientNet, build, normalize
from nst.report.robustness_files import conditions, measured_rows
from nst.robustness import classes
from nst.robustness.attacks import Attack
from nst.robustness.baselines import ALEXNET, CORRUPTIONS, PERTURBATIONS
from nst.robustness.classes import CIFAR10, imagenet_wnids, readable_names, subset_positions, subset_wnids
from nst.robustness.corruptions import Corruptions, corruption_generator
from nst.robustness.image_sets import ImageSet, shard_images
from nst.robustness.made import CLEAN, corrupted, whole_images
from nst.robustness.options import RobustnessOptions
from nst.robustness.padded import ImageSetBatches
from nst.robustness.perturbations import Perturbations, perturbation_generator
from nst.robustness.scores import CorruptionErrors, clip_distances, top_classes
from nst.robustness.sets import imagenet_p
from nst.settings.data import Pictures
from nst.stages import evaluate, robustness, train
from nst.stages.evaluate import _joined
from nst.training.counting import Counting
from tests.helpers import attack, encode, noise, require_names, samples

Compose = Callable[..., Any]
WNIDS = imagenet_wnids()
SMALL = ["eval=robustness", "eval.max_images=20", "eval.max_clips=10", "eval.attacks=null"]
FEW = [*SMALL, "eval.corruptions=[fog,contrast]", "eval.severities=[2,5]", "eval.perturbations=[brightness,shot_noise]"]


@pytest.fixture(scope="module")
def learned(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that knows some of the digits, so that corruptions and attacks cost it something."""
    from nst.config import compose_config
    from tests.conftest import TINY

    run = tmp_path_factory.mktemp("learned") / "run"
    longer = ["student.steps=80", "student.labeled_batch_size=32", "student.checkpoint_every=80",
              "student.validate_every=null", "noise=none"]  # fmt: skip
    result = train.from_cfg(compose_config([*TINY, *longer, f"data.root={digits}", f"run_dir={run}"]))
    assert result["top1"] > 30
    return run


def network_of(classes: Sequence[str], path: Path, seed: int = 0, size: int = 16) -> Path:
    """A file of a small network whose answers vary with the picture: its statistics are those of pictures."""
    torch.manual_seed(seed)
    network = build(NETWORK, len(classes)).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    pictures = np.stack([blocks(16, number) if number % 2 else plain(16, number) for number in range(64)])
    network(normalize(torch.from_numpy(pictures).permute(0, 3, 1, 2)))
    save_network(path, network.state_dict(), NetworkInfo(NETWORK, tuple(classes), size, size))
    return path


def blocks(size: int, seed: int) -> np.ndarray:
    """A picture of coloured blocks."""
    return cv2.resize(noise(8, 8, seed), (size, size), interpolation=cv2.INTER_NEAREST)


def plain(size: int, seed: int) -> np.ndarray:
    """A picture of one colour."""
    return np.ascontiguousarray(np.broadcast_to(noise(1, 1, seed), (size, size, 3)))


def chosen_images(digits: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Keys, pictures (N, 12, 12, 3) as the network sees them, and labels of the stratified 20 test images."""
    images = shard_images(ShardSet.open(digits / "test")).subset(20)
    view = CenterView(12, crop="none")
    return list(images.keys), np.stack([view(images.pixels(i)) for i in range(len(images))]), images.labels


def answers(network: EfficientNet, pictures: np.ndarray) -> torch.Tensor:
    """Logits of pictures (N, H, W, 3)."""
    with torch.no_grad():
        return network(normalize(torch.from_numpy(pictures).permute(0, 3, 1, 2)))


def error(network: EfficientNet, pictures: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float((answers(network, pictures).argmax(1).numpy() != labels).mean())


def rows_of(output: Path) -> list[dict[str, str]]:
    with open(output / "robustness.csv", newline="") as file:
        return list(csv.DictReader(file))


def passes(monkeypatch: pytest.MonkeyPatch, die_at: int | None = None) -> list[str]:
    """Names of the parts that are evaluated from now on; the one of number `die_at` is not finished."""
    seen: list[str] = []
    original = robustness.evaluate_pass

    def counted(pass_: Any, network: Any, subject: Any, hardware: Any, path: Path, *rest: Any) -> Any:
        found = original(pass_, network, subject, hardware, path, *rest)
        seen.append(f"{path.parent.parent.name}/{path.stem}")
        if len(seen) == die_at:
            raise Crash
        return found

    monkeypatch.setattr(robustness, "evaluate_pass", counted)
    return seen


class Crash(Exception):
    """Stands for the process dying."""


# ---- made on the fly -------------------------------------------------------------------------------------------


def test_corruptions_and_sequences_of_a_test_set_get_into_result_and_table(
    tiny: Compose, learned: Path, tmp_path: Path
):
    output = tmp_path / "evaluation"
    result = evaluate.from_cfg(tiny(*SMALL, f"model.checkpoint={learned}", f"evaluate.output={output}"))
    assert result == read_json(output / "result.json")
    assert result["samples"] == 100  # the clean scores are of all images
    flat = {name: value for name, value in result.items() if name.startswith("robustness/")}
    assert {"robustness/c_onthefly/mean_error", "robustness/c_onthefly/top1", "robustness/c_onthefly/clean_error",
            "robustness/c_onthefly/error/frost", "robustness/p_onthefly/flip_rate",
            "robustness/p_onthefly/top5_distance", "robustness/p_onthefly/flip/translate"} <= flat.keys()  # fmt: skip
    assert not [name for name in flat if "mce" in name or "mfr" in name or "/ce/" in name]
    block = result["robustness"]["c_onthefly"]
    assert not {"mce", "ce", "baseline", "baseline_source"} & block.keys()
    rows = rows_of(output)
    errors = [float(row["value"]) for row in rows if row["metric"] == "error"]
    assert len(errors) == 75
    assert flat["robustness/c_onthefly/mean_error"] == pytest.approx(np.mean(errors))
    assert len([row for row in rows if row["metric"] == "flip_probability"]) == 10
    conditions = block["conditions"]
    assert (conditions["images"], conditions["side"], conditions["table"]) == (20, 12, 32)
    assert conditions["jpeg_quality"] is None
    assert "procedural" in conditions["frost"] or "grown" in conditions["frost"]


def test_errors_and_flips_are_those_of_a_plain_loop(tiny: Compose, digits: Path, learned: Path, tmp_path: Path):
    result = evaluate.from_cfg(tiny(*FEW, f"model.checkpoint={learned}", f"evaluate.output={tmp_path / 'e'}"))
    network, _ = load_network(learned / "checkpoints/trained.safetensors")
    keys, pictures, labels = chosen_images(digits)
    block = result["robustness"]["c_onthefly"]
    assert block["clean_error"] == pytest.approx(error(network, pictures, labels))
    corruptions = Corruptions(12)
    for name in ("fog", "contrast"):
        for severity in (2, 5):
            spoilt = np.stack([corruptions(picture, name, severity, corruption_generator(0, name, severity, key))
                               for key, picture in zip(keys, pictures, strict=True)])  # fmt: skip
            assert block["errors"][name][severity - 1] == pytest.approx(error(network, spoilt, labels))
        assert block["errors"][name][0] is None
    assert block["errors"]["contrast"][4] > block["clean_error"]  # so the comparison has something to compare
    assert result["robustness/c_onthefly/subset_error"] == pytest.approx(
        np.mean([e for row in block["errors"].values() for e in row if e is not None])
    )
    assert "robustness/c_onthefly/mean_error" not in result

    images = shard_images(ShardSet.open(digits / "test")).subset(10)
    chosen = [keys.index(key) for key in images.keys]
    sequences = Perturbations(12)
    for name in ("brightness", "shot_noise"):
        clips = [sequences(pictures[i], name, perturbation_generator(0, name, 1, keys[i])) for i in chosen]
        top5 = torch.stack([top_classes(answers(network, clip)) for clip in clips])
        flips, distances = clip_distances(top5, noise=name == "shot_noise")
        found = result["robustness"]["p_onthefly"]["sequences"][name]["1"]
        assert found["flip_probability"] == pytest.approx(100 * flips.float().mean().item())
        assert found["top5_distance"] == pytest.approx(distances.float().mean().item())


def test_results_do_not_depend_on_batches_or_workers(tiny: Compose, learned: Path, tmp_path: Path):
    found = []
    for number, options in enumerate((["eval.batch_size=7", "trainer.workers=2"], ["eval.batch_size=256"])):
        output = tmp_path / str(number)
        result = evaluate.from_cfg(tiny(*FEW, *options, f"model.checkpoint={learned}", f"evaluate.output={output}"))
        found.append({name: value for name, value in result.items() if name.startswith("robustness/")})
    assert found[0] == found[1]


def test_another_batch_size_is_the_same_evaluation(
    tiny: Compose, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    common = [*FEW, f"model.checkpoint={learned}", f"evaluate.output={tmp_path / 'e'}"]
    first = evaluate.from_cfg(tiny(*common))
    seen = passes(monkeypatch)
    assert evaluate.from_cfg(tiny(*common, "eval.batch_size=9")) == first
    assert seen == []


@pytest.mark.parametrize("batch_size", [1, 5, 8, 16, 40, 256])
def test_no_image_is_decoded_twice_for_its_corruptions_whatever_the_batch(batch_size: int):
    decoded: Counter[int] = Counter()

    def read(number: int) -> np.ndarray:
        decoded[number] += 1
        return noise(16, 16, number)

    images = ImageSet("ours", [f"{number}" for number in range(7)], np.zeros(7, np.int64), read, "digest")
    names = ["fog", "contrast", "brightness"]
    variants = [CLEAN, *((name, severity) for name in names for severity in (1, 3, 5))]
    made = corrupted(images, CenterView(16), Corruptions(16), variants, CorruptionErrors(names), seed=0)
    workers = [
        ImageSetBatches(copy.deepcopy(made), CenterView(16), batch_size=whole_images(len(variants), batch_size))
        for _ in range(3)
    ]
    decoded.clear()
    seen = sum(int(workers[number % 3][number]["valid"].sum()) for number in range(len(workers[0])))  # as a loader does
    assert seen == 7 * len(variants)
    assert decoded == dict.fromkeys(range(7), 1)


def test_max_images_takes_every_class_in_proportion(tiny: Compose, digits: Path, learned: Path, tmp_path: Path):
    labels = shard_images(ShardSet.open(digits / "test"))
    by_key = dict(zip(labels.keys, labels.labels.tolist(), strict=True))
    options = [*SMALL, "eval.corruptions=[brightness]", "eval.severities=[1]", "eval.perturbations=null"]
    result = evaluate.from_cfg(tiny(*options, f"model.checkpoint={learned}", f"evaluate.output={tmp_path / 'e'}"))
    part = read_json(tmp_path / "e/robustness/c_onthefly/parts/images-000000.json")
    assert result["robustness"]["c_onthefly"]["conditions"]["images"] == 20
    keys, _, chosen = chosen_images(digits)
    assert part["kept"]["counts"]["clean.counts"][0] == len(keys) == 20
    everywhere = Counter(by_key.values())
    for label, count in Counter(chosen.tolist()).items():
        assert abs(count - everywhere[label] / 5) < 1
    assert {entry["key"] for entry in part["shown"]} <= set(keys)


# ---- continued, extended, compared -----------------------------------------------------------------------------


def test_a_killed_evaluation_goes_on_behind_its_finished_parts(
    tiny: Compose, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = evaluate.from_cfg(tiny(*FEW, f"model.checkpoint={learned}", f"evaluate.output={tmp_path / 'whole'}"))
    monkeypatch.setattr("nst.evaluation.suite.SMALLEST_BLOCK", 8)
    cfg = tiny(*FEW, f"model.checkpoint={learned}", f"evaluate.output={tmp_path / 'killed'}")
    with monkeypatch.context() as patch, pytest.raises(Crash):
        seen = passes(patch, die_at=5)
        evaluate.from_cfg(cfg)
    first = ["images-000000-of-8", "images-000008-of-8", "images-000016-of-8"]
    assert seen == [f"c_onthefly/{part}" for part in first] + ["p_onthefly/brightness", "p_onthefly/shot_noise"]
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "_clean_scores", lambda *_: pytest.fail("the clean images again"))
        seen = passes(patch)
        again = evaluate.from_cfg(cfg)
    assert seen == ["p_onthefly/shot_noise"]  # the one that was not written
    assert {k: v for k, v in again.items() if k.startswith("robustness/")} == {
        k: v for k, v in whole.items() if k.startswith("robustness/")
    }
    with monkeypatch.context() as patch:
        seen = passes(patch)
        patch.setattr(evaluate, "write_json", lambda *_: pytest.fail("nothing has changed"))
        assert evaluate.from_cfg(cfg) == again
    assert seen == []
    assert shown_answers(tmp_path / "killed") == shown_answers(tmp_path / "whole")
    assert len(shown_answers(tmp_path / "whole")) == 2 * SHOWN_PER_CORRUPTION


def shown_answers(output: Path) -> list[tuple[str, str, list[str]]]:
    """What is shown of corruptions on the fly, whatever the parts: key, caption and answer."""
    paths = (output / "robustness/c_onthefly/parts").glob("*.json")
    shown = [entry for path in paths for entry in read_json(path).get("shown", [])]
    return sorted((entry["key"], entry["caption"], entry["predicted"]) for entry in shown)


@pytest.mark.parametrize(
    ("count", "size", "parts"), [(20, 50, 1), (120, 50, 3), (500, 50, 10), (2000, 100, 20), (50_000, 500, 100)]
)
def test_a_kill_loses_a_twentieth_of_corruptions_on_the_fly_or_fifty_images(count: int, size: int, parts: int):
    images = ImageSet("test", [str(number) for number in range(count)], np.zeros(count, np.int64), plain_pixels, "")
    blocks = image_blocks(images, block_size(count))
    assert max(map(len, blocks.values())) == min(size, count)
    assert len(blocks) == parts
    assert [number for block in blocks.values() for number in block] == list(range(count))
    other = image_blocks(images)  # files of other blocks, of which a sum would count images twice
    assert parts == 1 or size == 500 or not blocks.keys() & other.keys()


def plain_pixels(number: int) -> np.ndarray:
    return plain(8, number)


def test_sigterm_ends_an_evaluation_in_words_and_the_same_command_continues(
    tiny: Compose, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cfg = tiny(*FEW, "eval.batch_size=40", f"model.checkpoint={learned}", f"evaluate.output={tmp_path / 'e'}")
    before = signal.getsignal(signal.SIGTERM)
    original = Counting.test_step
    count = []

    def told(self: Any, batch: Any, batch_idx: int) -> Any:
        count.append(batch_idx)
        if len(count) == 7:  # within the second suite, after three batches of clean images
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(Preempted, match="same command continues") as caught:
        patch.setattr(Counting, "test_step", told)
        evaluate.from_cfg(cfg)
    assert caught.value.exit_code == 143
    assert len(count) == 7
    assert signal.getsignal(signal.SIGTERM) == before
    seen = passes(monkeypatch)
    assert "robustness/p_onthefly/flip/brightness" in evaluate.from_cfg(cfg)
    assert [name for name in seen if name.startswith("c_")] == []


def test_suites_can_be_added_later_and_stay_in_the_result(
    tiny: Compose, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    common = [f"model.checkpoint={learned}", f"evaluate.output={tmp_path / 'e'}"]
    clean = evaluate.from_cfg(tiny(*common))
    assert not (tmp_path / "e" / "robustness.csv").exists()
    first = evaluate.from_cfg(tiny(*FEW, "eval.perturbations=null", *common))
    assert {name: value for name, value in first.items() if not name.startswith("robustness")} == clean
    seen = passes(monkeypatch)
    both = evaluate.from_cfg(tiny(*FEW, *common))
    assert seen == ["p_onthefly/brightness", "p_onthefly/shot_noise"]
    assert both["robustness"]["c_onthefly"] == first["robustness"]["c_onthefly"]
    third = evaluate.from_cfg(tiny(*FEW, "eval.corruptions=null", "eval.perturbations=null",
                                   "eval.attacks={fgsm: {epsilons: [0, 8]}}", *common))  # fmt: skip
    assert list(third["robustness"]) == ["c_onthefly", "p_onthefly", "fgsm"]
    assert {row["suite"] for row in rows_of(tmp_path / "e")} == {"c_onthefly", "p_onthefly", "fgsm"}
    assert evaluate.from_cfg(tiny(*common)) == third  # the clean stage alone takes nothing away


def test_a_suite_under_other_conditions_is_refused_and_overwrite_measures_it_anew(
    tiny: Compose, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    common = [*FEW, f"model.checkpoint={learned}", f"evaluate.output={tmp_path / 'e'}"]
    evaluate.from_cfg(tiny(*common))
    with pytest.raises(NstError, match=r"holds an evaluate run(.|\n)*seed: 0 before, 1 now(.|\n)*overwrite=true"):
        evaluate.from_cfg(tiny(*common, "eval.seed=1"))
    seen = passes(monkeypatch)
    result = evaluate.from_cfg(tiny(*common, "eval.perturbations=null", "eval.seed=1", "overwrite=true"))
    assert seen == ["c_onthefly/images-000000"]
    assert result["robustness"]["c_onthefly"]["conditions"]["seed"] == 1
    assert result["robustness"]["p_onthefly"]["conditions"]["seed"] == 0


def test_what_differs_is_told_by_the_options_of_the_attack(tiny: Compose, learned: Path, tmp_path: Path):
    common = [*FEW, f"model.checkpoint={learned}", f"evaluate.output={tmp_path / 'e'}", "eval.max_images=4"]
    attack = "eval.attacks={{pgd_2: {{epsilons: [{}], steps: {}}}}}"
    evaluate.from_cfg(tiny(*common, attack.format(4, 2)))
    with pytest.raises(NstError, match="other inputs") as caught:
        evaluate.from_cfg(tiny(*common, attack.format(8, 3)))
    assert (
        caught.value.got
        == "eval.attacks.pgd_2.epsilons: [4] before, [8] now; eval.attacks.pgd_2.steps: 2 before, 3 now"
    )
    started = list((tmp_path / "e").rglob("started.json"))
    assert len(started) == 4
    for path in started:
        require_names("evaluate", read_json(path)["inputs"], path.parent.name)


def test_a_baseline_divides_and_must_have_been_measured_alike(tiny: Compose, learned: Path, tmp_path: Path):
    every = [option for option in SMALL if option != "eval.attacks=null"]
    options = [*every, "eval.attacks={fgsm: {epsilons: [0, 4]}, pgd: null}", "eval.max_images=10", "eval.max_clips=4"]
    teacher = tmp_path / "teacher"
    shutil.copytree(learned, teacher)
    base = evaluate.from_cfg(tiny(*options, f"model.checkpoint={teacher}"))
    other = network_of([str(i) for i in range(10)], tmp_path / "student.safetensors")
    student = [f"model.checkpoint={other}", f"evaluate.output={tmp_path / 'e'}", "eval.image_size=16", "eval.side=12"]
    for place in (teacher, teacher / "evaluation"):
        result = evaluate.from_cfg(tiny(*options, *student, f"eval.baseline={place}", "overwrite=true"))
    ours, theirs = (found["robustness"]["c_onthefly"]["errors"] for found in (result, base))
    ratios = [100 * sum(ours[name]) / sum(theirs[name]) for name in CORRUPTIONS]
    assert result["robustness/c_onthefly/error_to_baseline"] == pytest.approx(np.mean(ratios))
    assert (
        "robustness/p_onthefly/flips_to_baseline" in result
        or min(base["robustness"]["p_onthefly"]["flip_probability"].values()) == 0
    )
    with pytest.raises(NstError, match=r"c_onthefly was measured under other conditions\n  got:   .*images: 10 there"):
        evaluate.from_cfg(tiny(*options, *student, "eval.max_images=30", f"eval.baseline={teacher}"))
    new = [f"model.checkpoint={other}", f"evaluate.output={tmp_path / 'new'}", "eval.image_size=16", "eval.side=12"]
    with pytest.raises(NstError, match=r"no robustness results(.|\n)*nst evaluate eval=robustness"):
        evaluate.from_cfg(tiny(*options, *new, f"eval.baseline={learned}"))
    assert not (tmp_path / "new").exists(), "told before the clean scores"
    other_suites = ["eval.corruptions=null", "eval.perturbations=null", "eval.attacks.fgsm=null",
                    "+eval.attacks.pgd_3={epsilons: [1], steps: 3}"]  # fmt: skip
    with pytest.raises(NstError, match=r"has no suite of these(.|\n)*c_onthefly(.|\n)*pgd_3"):
        evaluate.from_cfg(tiny(*options, *student, *other_suites, f"eval.baseline={teacher}"))


def test_a_network_is_its_own_baseline_at_100(tiny: Compose, learned: Path, tmp_path: Path):
    shutil.copytree(learned, tmp_path / "run")
    common = [*SMALL, "eval.perturbations=null", f"model.checkpoint={tmp_path / 'run'}"]
    evaluate.from_cfg(tiny(*common))
    result = evaluate.from_cfg(tiny(*common, f"eval.baseline={tmp_path / 'run'}"))
    assert result["robustness/c_onthefly/error_to_baseline"] == pytest.approx(100)


# ---- attacks ---------------------------------------------------------------------------------------------------


def test_attacks_go_through_the_stage_as_they_are_defined(tiny: Compose, digits: Path, learned: Path, tmp_path: Path):
    attacks = ("eval.attacks={fgsm: {epsilons: [0, 2, 32]}, pgd: {epsilons: [0, 32], steps: 10}, "
               "pgd_start: {epsilons: [32], steps: 2, step_size: 8, random_start: true}}")  # fmt: skip
    result = evaluate.from_cfg(tiny(*SMALL, "eval.corruptions=null", "eval.perturbations=null", attacks,
                                    f"model.checkpoint={learned}", f"evaluate.output={tmp_path / 'e'}"))  # fmt: skip
    network, _ = load_network(learned / "checkpoints/trained.safetensors")
    _, pictures, labels = chosen_images(digits)
    images, truth = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)
    for name, method, epsilon in (("fgsm", Attack(), 2), ("fgsm", Attack(), 32), ("pgd", Attack(steps=10), 32)):
        spoilt = attack(network, images, truth, epsilon, method)
        with torch.no_grad():
            expected = 100 * (network(normalize(255 * spoilt)).argmax(1) == truth).float().mean().item()
        assert result[f"robustness/{name}/top1_at_{epsilon}"] == pytest.approx(expected)
    clean = 100 - error(network, pictures, labels)
    assert result["robustness/fgsm/top1_at_0"] == result["robustness/pgd/top1_at_0"] == pytest.approx(clean)
    assert result["robustness/pgd/top1_at_32"] <= result["robustness/fgsm/top1_at_32"] < clean
    pgd, start = result["robustness"]["pgd"], result["robustness"]["pgd_start"]
    assert (pgd["steps"], pgd["step_sizes"], pgd["random_start"]) == (10, [1, 3.2], False)
    assert (start["steps"], start["step_sizes"], start["random_start"], start["label"]) == (2, [8], True, "true")
    rows = {(row["suite"], row["level"]): float(row["value"]) for row in rows_of(tmp_path / "e")}
    assert rows["fgsm", "2"] == result["robustness/fgsm/top1_at_2"]
    # steps and start stand with the numbers wherever those are told
    told = "10 steps of 3.2/255, from the image itself"
    assert {row["condition"] for row in rows_of(tmp_path / "e") if row["suite"] == "pgd"} == {f"pgd: {told}"}
    lines = headlines(result["robustness"])
    assert next(line for line in lines if line.startswith("pgd:")).endswith(f", {told}")
    start_line = next(line for line in lines if line.startswith("pgd_start:"))
    assert start_line.endswith("8/255, from a random point of the ball")
    facts = {name: result[f"robustness/pgd_start/{name}"] for name in ("steps", "largest_step", "random_start")}
    assert facts == {"steps": 2, "largest_step": 8, "random_start": 1.0}


# ---- released sets ---------------------------------------------------------------------------------------------


def picture(path: Path, size: int = 24, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = blocks(size, seed)
    path.write_bytes(encode(pixels, "PNG"))
    return pixels


def answered(root: Path, name: str, network: EfficientNet, view: CenterView, seed: int, size: int) -> None:
    """A picture in the folder of the class that the network sees in it, or, two times of three, in another one's."""
    pixels = blocks(size, seed)
    seen = int(answers(network, view(pixels)[None]).argmax())
    picture(root / WNIDS[(seen + seed % 3) % 1000] / name, size, seed)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network_of(WNIDS, tmp_path_factory.mktemp("imagenet") / "network.safetensors")


@pytest.fixture
def released(tiny: Compose, imagenet: Path, tmp_path: Path) -> Compose:
    """`released(*options)` evaluates a network of ImageNet's classes on released sets alone."""

    def run(*options: str) -> dict[str, Any]:
        nothing = ["eval=robustness", "eval.corruptions=null", "eval.perturbations=null", "eval.attacks=null"]
        common = ["eval.batch_size=10", "data.test=null", "data.pictures.small=false", f"model.checkpoint={imagenet}"]
        return evaluate.from_cfg(tiny(*nothing, *common, f"evaluate.output={tmp_path / 'e'}", *options))

    return run


def test_photographs_are_restricted_where_the_set_is_and_1000_way_besides(
    released: Compose, imagenet: Path, tmp_path: Path
):
    network, _ = load_network(imagenet)
    positions = torch.tensor(subset_positions("imagenet_a", WNIDS))
    logits = answers(network, np.stack([CenterView(16)(blocks(40, number)) for number in range(23)]))
    within = positions[logits[:, positions].argmax(1)]
    wnids = subset_wnids("imagenet_a")
    # one in three is where the network sees it
    truth = torch.tensor([int(within[i]) if i % 3 == 0 else WNIDS.index(wnids[7 * i]) for i in range(23)])
    for number, place in enumerate(truth.tolist()):
        picture(tmp_path / "a" / WNIDS[place] / f"{number}.jpg", 40, number)
    result = released(f"eval.imagenet_a={tmp_path / 'a'}")
    restricted = 100 * (within == truth).float().mean().item()
    assert restricted > 30
    assert result["robustness/imagenet_a/top1"] == pytest.approx(restricted)
    anywhere = 100 * (logits.argmax(1) == truth).float().mean().item()
    assert anywhere < restricted
    assert result["robustness/imagenet_a/top1_all_classes"] == pytest.approx(anywhere)
    assert {"robustness/imagenet_a/top5", "robustness/imagenet_a/aurra"} <= result.keys()
    assert result["test"] is None
    assert "top1" not in result
    part = read_json(tmp_path / "e/robustness/imagenet_a/parts/all.json")
    assert len(part["shown"]) == 23
    assert {"confidence", "predicted", "label"} <= part["shown"][0].keys()


def test_every_photograph_set_is_reachable_and_adds_to_one_result(released: Compose, tmp_path: Path):
    for number, wnid in enumerate(WNIDS[:6]):
        picture(tmp_path / "val" / wnid / f"ILSVRC2012_val_0000000{number + 1}.JPEG", 32, number)
        picture(tmp_path / "sketch" / wnid / "a.JPEG", 32, number)
        picture(tmp_path / "v2" / str(number) / "a.jpeg", 32, number)
    for wnid in subset_wnids("imagenet_r")[:3]:
        picture(tmp_path / "r" / wnid / "a.jpg", 32)
    folders = {"imagenet_val": "val", "imagenet_sketch": "sketch", "imagenet_v2": "v2", "imagenet_r": "r",
               "imagenet_real": "val"}  # fmt: skip
    result = released(*[f"eval.{name}={tmp_path / folder}" for name, folder in folders.items()])
    assert set(result["robustness"]) == set(folders)
    for name in folders:
        assert 0 <= result[f"robustness/{name}/top1"] <= 100
    assert "robustness/imagenet_r/top1_all_classes" in result
    assert "robustness/imagenet_v2/top1_all_classes" not in result
    assert {row["suite"] for row in rows_of(tmp_path / "e")} == set(folders)


def test_classes_that_share_a_word_keep_apart_in_galleries():
    names = readable_names(WNIDS)
    assert len(set(names)) == 1000
    assert names[WNIDS.index("n02012849")] == "crane (n02012849)"
    assert names[WNIDS.index("n01440764")] == "tench"
    assert readable_names(WNIDS[5:7]) == names[5:7]  # of a part of the classes too


def write_imagenet_c(root: Path, checkpoint: Path, corruptions: Sequence[str], severities: Any = range(1, 6)) -> None:
    """Four pictures a cell, of which the network knows some."""
    network, _ = load_network(checkpoint)
    for corruption in corruptions:
        for severity in severities:
            start = 20 * CORRUPTIONS.index(corruption) + 4 * severity if corruption in CORRUPTIONS else 900
            for number in range(4):
                folder, name = root / corruption / str(severity), f"ILSVRC2012_val_0000000{number}.JPEG"
                answered(folder, name, network, CenterView(16, crop="none"), start + number, 224)


def test_a_partial_copy_of_imagenet_c_names_what_is_missing_and_has_no_mce(
    released: Compose, imagenet: Path, tmp_path: Path
):
    write_imagenet_c(tmp_path / "c" / "blur", imagenet, ["defocus_blur", "zoom_blur"])
    write_imagenet_c(tmp_path / "c" / "weather", imagenet, ["fog"], [1, 2, 4])
    write_imagenet_c(tmp_path / "c" / "extra", imagenet, ["saturate"])
    result = released(f"eval.imagenet_c={tmp_path / 'c'}", "eval.resize_to=16")
    block = result["robustness"]["imagenet_c"]
    assert {"gaussian_noise", "fog/3", "fog/5"} <= set(block["missing"])
    assert not {"defocus_blur", "fog/1", "saturate"} & set(block["missing"])
    assert block["mce"] is None
    assert not [name for name in result if name.endswith(("/mce", "/relative_mce", "/mean_error"))]
    assert {"robustness/imagenet_c/subset_error", "robustness/imagenet_c/ce/zoom_blur"} <= result.keys()
    assert "robustness/imagenet_c/ce/fog" not in result
    assert block["conditions"]["held"]["fog"] == [1, 2, 4]
    assert (block["conditions"]["side"], block["conditions"]["images"]) == (224, 4)


def test_a_half_unpacked_cell_is_missing_and_is_not_taken_for_whole_later(
    released: Compose, imagenet: Path, tmp_path: Path
):
    write_imagenet_c(tmp_path / "c", imagenet, ["defocus_blur", "fog"])
    cell = tmp_path / "c" / "fog" / "3"
    (late,) = cell.rglob("*3.JPEG")
    content = late.read_bytes()
    late.unlink()
    options = [f"eval.imagenet_c={tmp_path / 'c'}", "eval.resize_to=16"]
    result = released(*options)
    block = result["robustness"]["imagenet_c"]
    assert "fog/3" in block["missing"]
    assert not {"fog/2", "defocus_blur"} & set(block["missing"])
    assert block["errors"]["fog"][2] is None
    assert "robustness/imagenet_c/ce/fog" not in result
    late.write_bytes(content)
    with pytest.raises(NstError, match="other inputs"):
        released(*options)
    again = released(*options, "overwrite=true")
    assert "robustness/imagenet_c/ce/fog" in again


def test_pictures_of_a_partial_copy_are_of_the_severity_that_their_captions_name(tmp_path: Path):
    """As of fog/5, of which a copy holds two images of ten."""
    for severity, count in ((1, 10), (2, 10), (3, 10), (4, 7), (5, 2)):
        for number in range(count):
            folder = tmp_path / "fog" / str(severity) / WNIDS[0]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.JPEG").write_bytes(encode(noise(224, 224, severity), "JPEG"))
    options = RobustnessOptions(imagenet_c=str(tmp_path), resize_to=16)
    suite = corrupted_suites.released(Subject(WNIDS, 16, Pictures(), 8, options), "imagenet_c", str(tmp_path))
    part = suite.open("fog")
    assert [part.images.cells[number] % 5 + 1 for number in part.shown] == [3] * SHOWN_PER_CORRUPTION
    assert set(part.shown.values()) == {"fog 3"}


def test_empty_folders_of_a_partial_copy_are_missing(
    released: Compose, imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_imagenet_c(tmp_path / "c", imagenet, ["fog"], [2, 3])
    (tmp_path / "c" / "fog" / "1").mkdir()
    (tmp_path / "c" / "snow" / "1" / WNIDS[0]).mkdir(parents=True)
    write_imagenet_p(tmp_path / "p", ["brightness"], 224)
    (tmp_path / "p" / "tilt").mkdir()
    result = released(f"eval.imagenet_c={tmp_path / 'c'}", f"eval.imagenet_p={tmp_path / 'p'}", "eval.resize_to=16")
    assert {"fog/1", "snow"} <= set(result["robustness"]["imagenet_c"]["missing"])
    assert "fog/2" not in result["robustness"]["imagenet_c"]["missing"]
    assert "tilt" in result["robustness"]["imagenet_p"]["missing"]
    told = capsys.readouterr().out
    for name in ("snow", "tilt"):
        assert f"{name}/ (no files in folders of classes)" in told


def test_a_relative_mce_is_to_the_error_on_the_same_images(imagenet: Path):
    subject = Subject(WNIDS, 16, Pictures(), 10, RobustnessOptions())

    def clean_error(most: int | None, seed: int, before: tuple[int | None, int] | None, test: float | None) -> Any:
        errors = {name: [60.0] * 5 for name in CORRUPTIONS}
        c = {"kind": "corruptions", "errors": errors, "top5_errors": errors, "clean_error": None,
             "conditions": {"max_images": most, "seed": seed}}  # fmt: skip
        keys = ("max_images", "seed")
        val = {"kind": "answers", "top1": 80.0, "conditions": dict(zip(keys, before, strict=True))} if before else None
        block = robustness.scores({"imagenet_c": c}, subject, test, {"imagenet_val": val} if val else {})["imagenet_c"]
        assert (block["relative_mce"] is None) == (block["clean_error"] is None)
        return block["clean_error"]

    assert clean_error(None, 0, (None, 0), None) == 20.0
    assert clean_error(None, 0, (None, 1), None) == 20.0  # all images: the seed has chosen none
    assert clean_error(9, 0, (9, 0), 30.0) == 20.0
    assert clean_error(9, 0, (9, 1), None) is None
    assert clean_error(9, 0, (None, 0), None) is None
    assert clean_error(None, 0, (9, 0), None) is None
    assert clean_error(9, 0, None, 30.0) is None  # of the whole test set
    assert clean_error(None, 0, None, 30.0) == 30.0


def test_a_whole_imagenet_c_has_mce_by_alexnet_and_the_relative_one_with_clean_images(
    released: Compose, imagenet: Path, tmp_path: Path
):
    write_imagenet_c(tmp_path / "c", imagenet, CORRUPTIONS)
    result = released(f"eval.imagenet_c={tmp_path / 'c'}", "eval.resize_to=16")
    block = result["robustness"]["imagenet_c"]
    ratios = [100 * sum(block["errors"][name]) / sum(ALEXNET.corruption_errors[name]) for name in CORRUPTIONS]
    assert block["missing"] == []
    assert len(set(ratios)) > 5
    assert result["robustness/imagenet_c/mce"] == pytest.approx(np.mean(ratios))
    assert result["robustness/imagenet_c/mean_error"] == pytest.approx(100 - result["robustness/imagenet_c/top1"])
    assert "robustness/imagenet_c/relative_mce" not in result  # the clean error is not known
    assert "AlexNet" in block["baseline"]
    assert "torchvision" in block["baseline_source"]
    rows = {(row["condition"], row["metric"]): float(row["value"]) for row in rows_of(tmp_path / "e")}
    assert rows["", "mce"] == result["robustness/imagenet_c/mce"]
    assert [rows[name, "ce"] for name in CORRUPTIONS] == pytest.approx(ratios)
    network, _ = load_network(imagenet)
    for number in range(9):
        answered(tmp_path / "val", f"{number}.JPEG", network, CenterView(16), number, 32)
    later = released(f"eval.imagenet_c={tmp_path / 'c'}", "eval.resize_to=16", f"eval.imagenet_val={tmp_path / 'val'}")
    clean = 100 - later["robustness/imagenet_val/top1"]
    assert clean == pytest.approx(100 * 6 / 9)
    assert later["robustness/imagenet_c/clean_error"] == pytest.approx(clean)
    relative = [
        100 * (sum(block["errors"][name]) - 5 * clean) / (sum(ALEXNET.corruption_errors[name]) - 5 * 43.5)
        for name in CORRUPTIONS
    ]
    assert later["robustness/imagenet_c/relative_mce"] == pytest.approx(np.mean(relative))
    # the clean error of an earlier evaluation of the same network stays known
    last = released(f"eval.imagenet_c={tmp_path / 'c'}", "eval.resize_to=16")
    assert last["robustness/imagenet_c/relative_mce"] == later["robustness/imagenet_c/relative_mce"]


def test_clips_of_imagenet_p_flip_as_their_frames_say(released: Compose, imagenet: Path, tmp_path: Path):
    for number, wnid in enumerate(WNIDS[20:22]):
        path = tmp_path / "p" / "brightness" / wnid / "a.mp4"
        path.parent.mkdir(parents=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 1.0, (224, 224))
        for frame in range(31):
            writer.write(plain(224, 50 * number + frame // 4))
        writer.release()
    result = released(f"eval.imagenet_p={tmp_path / 'p'}", "eval.difficulties=[1,2]", "eval.resize_to=16")

    network, _ = load_network(imagenet)
    view = CenterView(16, crop="none")
    clips = [np.stack([view(frame) for frame in sample.image])
             for sample in samples(imagenet_p(tmp_path / "p", "brightness", WNIDS), [])]  # fmt: skip
    top5 = torch.stack([top_classes(answers(network, clip)) for clip in clips])
    for difficulty in (1, 2):
        flips, _ = clip_distances(top5, noise=False, difficulty=difficulty)
        found = result["robustness"]["imagenet_p"]["sequences"]["brightness"][str(difficulty)]
        assert found["flip_probability"] == pytest.approx(100 * flips.float().mean().item())
    block = result["robustness"]["imagenet_p"]
    assert set(block["missing"]) == set(PERTURBATIONS) - {"brightness"}
    assert "robustness/imagenet_p/mfr" not in result
    assert result["robustness/imagenet_p/subset_flip_rate"] > 0


def write_imagenet_p(root: Path, names: Sequence[str], side: int) -> None:
    """A clip of each perturbation of which the network's answers change a few times.

    JPEGs one after another are a film to FFmpeg too; OpenCV would write no film of an odd side such as 299.
    """
    for place, name in enumerate(names):
        path = root / name / WNIDS[place] / "a.mp4"
        path.parent.mkdir(parents=True)
        frames = range(41 if name == "translate" else 31)
        path.write_bytes(b"".join(encode(plain(side, 50 * place + frame // 4), "JPEG") for frame in frames))


@pytest.mark.parametrize(("suite", "side"), [("imagenet_p", 224), ("imagenet_p_299", 299)])
def test_a_whole_imagenet_p_has_mfr_by_alexnet(released: Compose, tmp_path: Path, suite: str, side: int):
    write_imagenet_p(tmp_path / "p", PERTURBATIONS, side)
    result = released(f"eval.{suite}={tmp_path / 'p'}", "eval.resize_to=16")
    block = result["robustness"][suite]
    assert block["missing"] == []
    flips = block["flip_probability"]
    assert len({round(value, 6) for value in flips.values()}) > 2
    ratios = [100 * flips[name] / ALEXNET.flip_probability[name] for name in PERTURBATIONS]
    assert result[f"robustness/{suite}/mfr"] == pytest.approx(np.mean(ratios))
    assert result[f"robustness/{suite}/flip_rate"] == pytest.approx(np.mean([flips[name] for name in PERTURBATIONS]))
    assert f"robustness/{suite}/mt5d" not in result  # nobody has published AlexNet's


@pytest.mark.parametrize("most", ["null", "1"])
def test_a_half_unpacked_perturbation_is_missing(
    released: Compose, tmp_path: Path, most: str, capsys: pytest.CaptureFixture[str]
):
    write_imagenet_p(tmp_path / "p", PERTURBATIONS, 224)
    for clip in (tmp_path / "p").rglob("a.mp4"):
        if clip.parent.parent.name not in ("gaussian_noise", "tilt"):
            shutil.copy(clip, clip.with_name("b.mp4"))
    options = [f"eval.imagenet_p={tmp_path / 'p'}", "eval.resize_to=16", f"eval.max_clips={most}"]
    result = released(*options)
    block = result["robustness"]["imagenet_p"]
    assert block["missing"] == ["gaussian_noise", "tilt"]
    assert "robustness/imagenet_p/mfr" not in result
    assert not {"gaussian_noise", "tilt"} & block["flip_probability"].keys()
    assert block["conditions"]["images"] == (2 if most == "null" else 1)
    assert "fewer clips than elsewhere, not scored: gaussian_noise, tilt" in capsys.readouterr().out


def test_a_difficulty_alone_is_not_called_incomplete(
    released: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_imagenet_p(tmp_path / "p", PERTURBATIONS, 224)
    (tmp_path / "p" / "gaussian_noise").rename(tmp_path / "p" / "gaussian_noise_2")
    (tmp_path / "p" / "shot_noise").rename(tmp_path / "p" / "shot_noise_2")
    result = released(f"eval.imagenet_p={tmp_path / 'p'}", "eval.resize_to=16", "eval.difficulties=[2]")
    assert result["robustness"]["imagenet_p"]["missing"] == []
    assert not {"robustness/imagenet_p/mfr", "robustness/imagenet_p/flip_rate"} & result.keys()
    assert result["robustness/imagenet_p/flip_rate_difficulty_2"] > 0
    rate = result["robustness/imagenet_p/flip_rate_difficulty_2"]
    assert headlines(result["robustness"]) == [f"imagenet_p: flip_rate_difficulty_2 {rate:.2f}, of 1 of 50,000 clips"]


@pytest.mark.parametrize(
    ("suite", "images", "said"),
    [
        ("imagenet_c", 500, "imagenet_c: mce 80.00, of 500 of 50,000 images"),
        ("imagenet_c", 50_000, "imagenet_c: mce 80.00"),
        ("cifar_c", 10_000, "cifar_c: mce 80.00"),
        ("cifar_c", 9_999, "cifar_c: mce 80.00, of 9,999 of 10,000 images"),
        ("c_onthefly", 500, "c_onthefly: mce 80.00"),
    ],
)
def test_a_benchmark_of_fewer_images_than_published_says_so(suite: str, images: int, said: str):
    blocks = {suite: {"kind": "corruptions", "errors": {}, "mce": 80.0, "conditions": {"images": images}}}
    assert headlines(blocks) == [said]
    fewer = {f"robustness/{suite}/images": images} if " of " in said else {}
    assert summary(blocks) == {f"robustness/{suite}/mce": 80.0, **fewer}
    assert [row["value"] for row in table(blocks) if row["metric"] == "images"] == list(fewer.values())


def test_misspelt_folders_of_a_copy_are_told(
    released: Compose, imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_imagenet_c(tmp_path / "c", imagenet, ["fog", "snow"], [1])
    (tmp_path / "c" / "snow").rename(tmp_path / "c" / "snoww")
    released(f"eval.imagenet_c={tmp_path / 'c'}", "eval.resize_to=16")
    assert "snoww, did you mean 'snow'?" in capsys.readouterr().out
    (tmp_path / "c" / "fog").rename(tmp_path / "c" / "fogs")
    with pytest.raises(NstError, match=r"no corruption in(.|\n)*fogs, did you mean 'fog'"):
        released(f"eval.imagenet_c={tmp_path / 'c'}", "eval.resize_to=16")


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """CIFAR-10-C of 10 images a severity, all corruptions, and two sequences of CIFAR-10-P."""
    folder = tmp_path / "cifar"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in CORRUPTIONS:
        np.save(folder / f"{name}.npy", rng.integers(0, 256, (50, 32, 32, 3), dtype=np.uint8))
    np.save(folder / "labels.npy", np.tile(np.arange(10), 5))
    (tmp_path / "cifar_p").mkdir()
    for name in ("spatter", "gaussian_noise", "gaussian_noise_2"):
        np.save(tmp_path / "cifar_p" / f"{name}.npy", rng.integers(0, 256, (4, 31, 32, 32, 3), dtype=np.uint8))
    return folder


def test_cifar_c_and_p_go_through_the_stage_unnormalised(tiny: Compose, cifar: Path, tmp_path: Path):
    path = network_of(CIFAR10, tmp_path / "network.safetensors", size=32)
    options = ["eval=robustness", "eval.corruptions=null", "eval.perturbations=null", "eval.attacks=null",
               "eval.batch_size=50", "eval.difficulties=[1,2]", "data.test=null", f"model.checkpoint={path}",
               f"eval.cifar_c={cifar}",
               f"eval.cifar_p={tmp_path / 'cifar_p'}", f"evaluate.output={tmp_path / 'e'}"]  # fmt: skip
    result = evaluate.from_cfg(tiny(*options))
    network, _ = load_network(path)
    expected = [error(network, np.load(cifar / "fog.npy")[10 * s : 10 * s + 10], np.arange(10)) for s in range(5)]
    assert result["robustness"]["cifar_c"]["errors"]["fog"] == pytest.approx(expected)
    assert "robustness/cifar_c/mean_error" in result
    assert not [name for name in result if name.endswith(("mce", "mfr"))]
    assert set(result["robustness"]["cifar_p"]["sequences"]["gaussian_noise"]) == {"1", "2"}
    assert "spatter" not in result["robustness"]["cifar_p"]["missing"]
    assert "robustness/cifar_p/flip/gaussian_noise" in result


def test_cifar_100_goes_by_its_names_in_any_order(tiny: Compose, tmp_path: Path):
    published = (Path(classes.__file__).parent / "cifar100.txt").read_text().split()
    names = published[::-1]
    path = network_of(names, tmp_path / "network.safetensors", size=32)
    (tmp_path / "c").mkdir()
    pictures = np.random.default_rng(0).integers(0, 256, (500, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "c" / "fog.npy", pictures)
    network, _ = load_network(path)
    seen = answers(network, pictures).argmax(1).numpy()
    labels = np.where(np.arange(500) % 4 == 0, np.arange(500) % 100, 99 - seen)  # three of four are what it sees
    np.save(tmp_path / "c" / "labels.npy", labels)
    result = evaluate.from_cfg(tiny(*SMALL, "eval.corruptions=null", "eval.perturbations=null", "eval.max_images=null",
                                    "data.test=null", f"model.checkpoint={path}", f"eval.cifar_c={tmp_path / 'c'}",
                                    f"evaluate.output={tmp_path / 'e'}"))  # fmt: skip
    expected = [100 * float((99 - labels != seen)[100 * s : 100 * s + 100].mean()) for s in range(5)]
    assert max(expected) < 30
    assert result["robustness"]["cifar_c"]["errors"]["fog"] == pytest.approx(expected)


# ---- networks of timm's ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "tf_efficientnet_b0"])
def test_released_files_go_through_all_suites_without_training(
    released: Compose, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    """Tables 3 to 5 from a published checkpoint: a folder as the hub lays it out."""
    torch.manual_seed(1)
    network = timm.create_model(name, num_classes=1000)
    with torch.no_grad():
        network(torch.randn(16, 3, 64, 64))  # statistics of something
    network.eval()
    config = {"input_size": [3, 64, 64], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
              "interpolation": "bicubic", "crop_pct": 0.875}  # fmt: skip
    (tmp_path / "hub").mkdir()
    save_file(network.state_dict(), tmp_path / "hub" / "model.safetensors")
    document = {"architecture": name, "num_classes": 1000, "pretrained_cfg": config}
    (tmp_path / "hub" / "config.json").write_text(json.dumps(document))
    for number, wnid in enumerate(subset_wnids("imagenet_a")[:6]):
        picture(tmp_path / "a" / wnid / "a.jpg", 80, number)
    right = []
    for number in range(4):
        pixels = blocks(224, number)
        pixels64 = CenterView(64, crop="none")(pixels)[None]
        with torch.no_grad():
            seen = int(network(normalize(torch.from_numpy(pixels64).permute(0, 3, 1, 2))).argmax())
        right.append(number % 2 == 0)
        picture(tmp_path / "c" / "fog" / "3" / WNIDS[(seen + number % 2) % 1000] / f"{number}.JPEG", 224, number)
    write_imagenet_p(tmp_path / "p", ["brightness"], 224)
    result = released(f"eval.imagenet_a={tmp_path / 'a'}", f"eval.imagenet_c={tmp_path / 'c'}", "eval.resize_to=64",
                      f"eval.imagenet_p={tmp_path / 'p'}", f"model.checkpoint={tmp_path / 'hub'}")  # fmt: skip
    assert result["image_size"] == 64
    assert result["robustness"]["imagenet_a"]["samples"] == 6
    assert result["robustness"]["imagenet_c"]["errors"]["fog"] == [None, None, 50.0, None, None]
    assert result["robustness"]["imagenet_p"]["flip_probability"].keys() == {"brightness"}
    assert result["robustness"]["imagenet_c"]["conditions"]["shown_at"] == 64
    # the recipe's own command, where there are no shards of ImageNet at all
    monkeypatch.chdir(tmp_path)
    recipe = ["stage=evaluate", "experiment=table3_noisy_student_l2", "trainer.workers=0", "run_dir=table3",
              f"eval.imagenet_a={tmp_path / 'a'}", f"model.checkpoint={tmp_path / 'hub'}"]  # fmt: skip
    assert evaluate.from_cfg(compose_config(recipe))["robustness"]["imagenet_a"]["top1"] is not None


# ---- a suite of one's own --------------------------------------------------------------------------------------


class Mirrored(SuiteKind):
    """How far top-1 falls on mirrored digits."""

    headlines: ClassVar[Mapping[str, str]] = {"top1": "top-1 % of mirrored digits"}

    def series(self, block: Block) -> Mapping[str, float | None]:
        return {"lost/whole_set": block["lost"]}


class MirroredScorer(Scorer):
    """Counts answers to the pictures as they are and to their mirror images."""

    def __init__(self) -> None:
        super().__init__(right=RunningSums(counts=torch.zeros(3, dtype=torch.int64)))

    def add(self, network: torch.nn.Module, batch: Any) -> None:
        right = [network(normalize(images)).argmax(1) == batch["labels"]
                 for images in (batch["images"], batch["images"].flip(3))]  # fmt: skip
        self.parts["right"].state()["counts"] += torch.stack([batch["valid"], *right]).mul(batch["valid"]).sum(1)


def mirrored_suites(subject: Subject) -> Iterator[Suite]:
    images = subject.subset(subject.clean)

    def opened(part: str) -> Pass:
        half = range(0, 10) if part == "first" else range(10, 20)
        return Pass(images.chosen(half), subject.view(subject.image_size), subject.batch_size, MirroredScorer())

    def measured(parts: Kept) -> Block:
        count, plain, mirrored = MirroredScorer().with_counts(parts.values()).state()["right.counts"].tolist()
        return {"kind": "mirrored", "top1": 100 * mirrored / count, "lost": 100 * (plain - mirrored) / count}

    yield Suite("digits_mirrored", subject.facts(images), ["first", "last"], opened, 20, measured)


def test_a_suite_of_ones_own_is_one_module_and_stands_in_results_tables_and_reports(
    tiny: Compose, digits: Path, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(results, "ROOMS", (*results.ROOMS, SimpleNamespace(suites=mirrored_suites)))
    monkeypatch.setitem(results.KINDS, "mirrored", Mirrored())
    options = [*SMALL, "eval.perturbations=null", "eval.corruptions=[fog]", "eval.severities=[1]"]
    seen = passes(monkeypatch)
    result = evaluate.from_cfg(tiny(*options, f"model.checkpoint={learned}", f"evaluate.output={tmp_path / 'e'}"))
    assert seen[1:] == ["digits_mirrored/first", "digits_mirrored/last"]
    network, _ = load_network(learned / "checkpoints/trained.safetensors")
    _, pictures, labels = chosen_images(digits)
    mirrored = error(network, np.ascontiguousarray(pictures[:, :, ::-1]), labels)
    block = result["robustness"]["digits_mirrored"]
    assert result["robustness/digits_mirrored/top1"] == pytest.approx(100 - mirrored)
    assert result["robustness/digits_mirrored/lost/whole_set"] == pytest.approx(
        mirrored - error(network, pictures, labels)
    )
    (row,) = [row for row in rows_of(tmp_path / "e") if row["suite"] == "digits_mirrored"]
    assert (row["metric"], float(row["value"])) == ("top1", block["top1"])
    assert headlines({"digits_mirrored": block}) == [f"digits_mirrored: top1 {block['top1']:.2f}"]
    assert measured_rows({"digits_mirrored": block}) == [
        ["digits_mirrored", "top-1 % of mirrored digits", f"{block['top1']:.2f}"]
    ]
    assert conditions("digits_mirrored", block).startswith("digits_mirrored: 20 images, a subset in proportion")


# ---- mistakes --------------------------------------------------------------------------------------------------


def test_bad_files_count_and_too_many_stop(released: Compose, tmp_path: Path):
    for number, wnid in enumerate(subset_wnids("imagenet_a")[:20]):
        picture(tmp_path / "a" / wnid / "x.jpg", 24, number)
    (tmp_path / "a" / subset_wnids("imagenet_a")[3] / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(NstError, match=r"1 of 20 images cannot be decoded(.|\n)*max_bad_fraction"):
        released(f"eval.imagenet_a={tmp_path / 'a'}")
    result = released(f"eval.imagenet_a={tmp_path / 'a'}", "max_bad_fraction=0.1")
    assert result["robustness"]["imagenet_a"]["samples"] == 19
    (bad,) = read_json(tmp_path / "e/robustness/imagenet_a/parts/all.json")["bad"]
    assert subset_wnids("imagenet_a")[3] in bad


def test_mistakes_are_told_before_anything_is_measured(
    released: Compose, tiny: Compose, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(robustness, "evaluate_pass", lambda *_: pytest.fail("measured"))
    write_imagenet_c(tmp_path / "c", network_of(WNIDS, tmp_path / "n.safetensors"), ["fog"])
    with pytest.raises(NstError, match="no suite of robustness is asked for"):
        released()
    with pytest.raises(NstError, match="no images to evaluate robustness on"):
        released("eval.corruptions=benchmark")
    with pytest.raises(
        NstError, match=r"no test set at nowhere(.|\n)*data\.test=null measures the released sets alone"
    ):
        released(f"eval.imagenet_c={tmp_path / 'c'}", "data.test=nowhere")
    with pytest.raises(NstError, match=r"224 x 224 px|299 x 299 px"):
        released(f"eval.imagenet_c_299={tmp_path / 'c'}")
    with pytest.raises(NstError, match=r"no such folder"):
        released(f"eval.imagenet_p={tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NstError, match=r"no corruption in(.|\n)*gaussian_noise"):
        released(f"eval.imagenet_c={tmp_path / 'empty'}")
    np.save(tmp_path / "empty" / "fog.npy", np.zeros((5, 32, 32, 3), np.uint8))
    with pytest.raises(NstError, match=r"no corruption in(.|\n)*these are CIFAR-C arrays: eval\.cifar_c="):
        released(f"eval.imagenet_c={tmp_path / 'empty'}")
    with pytest.raises(NstError, match=r"no corruption in(.|\n)*these are ImageNet-C's folders: eval\.imagenet_c="):
        released(f"eval.cifar_c={tmp_path / 'c'}")
    # a later suite's mistake comes before the first suite's work
    with pytest.raises(NstError, match=r"network's classes are not ImageNet's"):
        evaluate.from_cfg(tiny(*FEW, f"model.checkpoint={learned}", f"eval.imagenet_a={tmp_path / 'c'}",
                               f"evaluate.output={tmp_path / 'd'}"))  # fmt: skip
    with pytest.raises(NstError, match=r"an attack needs a name of its own\n  got:   c_onthefly"):
        evaluate.from_cfg(tiny(*FEW, "eval.attacks={c_onthefly: {epsilons: [1]}}", f"model.checkpoint={learned}"))
    with pytest.raises(NstError, match=r"did you mean 'contrast'"):
        evaluate.from_cfg(tiny("eval=robustness", "eval.corruptions=[contrst]", f"model.checkpoint={learned}"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fgsm": 3}, "eval.attacks.fgsm cannot be 3(.|\n)*group of options"),
        ({"fgsm": {"epsilons": ["a"]}}, "eval.attacks.fgsm.epsilons cannot be(.|\n)*each a number"),
        ({"fgsm": {"epsilons": "16"}}, "eval.attacks.fgsm.epsilons cannot be(.|\n)*each a number"),
        (
            {"pgd": {"epsilons": [16], "steps": "ten"}},
            "eval.attacks.pgd.steps cannot be 'ten'(.|\n)*valid: a whole number",
        ),
        ({"pgd": {"epsilons": [16], "step_size": "2.5eps"}}, "eval.attacks.pgd.step_size cannot be(.|\n)*a number"),
        ({"pgd": {"epsilons": []}}, "eval.attacks.pgd.epsilons cannot be"),
        ({"pgd": {"epsilons": [16], "radius": 3}}, "no option of that name"),
    ],
)
def test_an_attack_with_wrong_options_is_refused(given: Any, said: str):
    with pytest.raises(NstError, match=said):
        RobustnessOptions(attacks=given)


def test_one_epsilon_and_groups_within_lists_are_understood():
    options = RobustnessOptions(attacks={"pgd": {"epsilons": 16, "steps": 10}}, corruptions=["benchmark", "spatter"])
    assert options.attack_methods()["pgd"] == (Attack(steps=10), (16,))
    assert options.corruption_names == (*CORRUPTIONS, "spatter")


def test_what_is_named_twice_is_measured_once():
    options = RobustnessOptions(
        corruptions=["fog", "fog"], severities=[3, 1, 1], perturbations=["tilt", "tilt"], difficulties=(2, 2),
        attacks={"fgsm": {"epsilons": [2, 2.0, 4], "steps": 1}},
    )  # fmt: skip
    assert (options.corruption_names, tuple(options.severities)) == (("fog",), (3, 1))
    assert (options.perturbation_names, tuple(options.difficulties)) == (("tilt",), (2,))
    assert options.attack_methods()["fgsm"] == (Attack(steps=1), (2, 4))


def test_numbers_of_suites_measured_before_are_replaced_and_others_kept() -> None:
    block = {"kind": "attack", "epsilons": [1], "top1": [50.0], "attack": "fgsm"}
    before = {"top1": 1.0, "robustness/fgsm/top1_at_2": 3.0, "robustness/pgd/top1_at_1": 50.0,
              "robustness": {"fgsm": {**block, "epsilons": [2]}, "pgd": block}}  # fmt: skip
    after = _joined(before, {"fgsm": block})
    assert json.loads(json.dumps(after)) == {
        "top1": 1.0, "robustness/fgsm/top1_at_1": 50.0, "robustness/pgd/top1_at_1": 50.0,
        "robustness": {"fgsm": block, "pgd": block}}  # fmt: skip


def test_networks_that_crop_otherwise_are_told_in_what_they_differ():
    ours, theirs = ({"framed": {"crop": "center", "resize": "antialiased bicubic, of Pillow", "kept": kept}}
                    for kept in (1.1, 1.2))  # fmt: skip
    with pytest.raises(
        NstError, match=r"the networks crop pictures[\s\S]*got:   framed\.kept: 1\.2 there, 1\.1 here"
    ) as caught:
        results.require_comparable("c_onthefly", ours, theirs)
    assert caught.value.next == "leave out eval.baseline", "the same options would not help"
