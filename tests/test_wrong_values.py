"""Every option of every stage refuses what it cannot be: one sentence, exit code 2, nothing written, within seconds.

What must be refused follows from the defaults as they are composed (a number's option takes no text, and so on), not
from the kinds that are tested here.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from omegaconf import OmegaConf

from nst.config import compose_config
from nst.stage_table import STAGES
from tests.forked import PYTHON, run
from tests.many_commands import LIMIT_S

NO_DATA = ["data=folder", "data.source.root=nowhere"]  # whatever is right then stops where it looks for pictures
WORLDS = {
    "plain": NO_DATA,
    "robust": [*NO_DATA, "eval=robustness", "logger=wandb"],
    "finetuned": [*NO_DATA, "student=efficientnet_l2", "trainer=gpu_ddp"],
    "xla": [*NO_DATA, "trainer=xla_cpu"],
    "twin": ["scale=digits", *NO_DATA],
}
VALUES = (
    *("null", "abc", "''", "' '", "ünïcode_漢字", "[]", "[1, [2]]", "{a: 1}", "true", "no", "-1", "0", "0.5"),
    *("nan", "inf", "-inf", "1e30", "99999999999999999999999999", "${nowhere}", "[1", "\x00", "x" * 5000),
)
# options whose default is null, and that are numbers
NULL_NUMBERS = {
    *("data.test_samples", "data.labeled_per_class", "data.unlabeled_samples", "eval.every", "eval.image_size"),
    *("eval.max_clips", "eval.max_images", "eval.resize_to", "eval.side", "label.ray.cpus", "label.ray.gpus"),
    *("plan.classes", "plan.image_kilobytes", "plan.labeled_images", "plan.selected_images", "plan.unlabeled_images"),
    "plan.utilization",
    *("report.figure", "report.table", "select.max_confidence", "select.max_copies", "select.threads"),
    *("shard.workers", "student.gradient_clip", "student.schedule.final_rate_per_256", "student.validate_every"),
    *("teacher.image_size", "eval.attacks.pgd.step_size", "data.stored_size"),
}
BELOW_ZERO = {"label.ray.retries"}
# whose default is a whole number, and that are measures and no counts
MEASURES = {
    *("noise.randaugment.magnitude", "student.epochs", "student.schedule.warmup_epochs", "student.finetune.epochs"),
    *("remote.wait_s",),
}
# whose default is another value, and of which the help says what null means
NULL_TOO = {
    *(
        "data.source.root",
        "data.stored_size",
        "student.finetune.image_size",
        "data.unlabeled",
        "data.test",
        "data.validation",
        "select.images_per_class",
        "shard.exclude_distance",
    ),
    *("eval.corruptions", "eval.perturbations", "eval.jpeg_quality", "logger.wandb.group"),
}
# whose default is true or false, and that may be a path too
OR_TEXT = {"model.pretrained"}
FILLED_IN = {"stage", "overrides", "paper"}  # by the program and by recipes


@dataclass(frozen=True)
class Case:
    """One value for one option of one stage; `options` come first, and make the option exist."""

    stage: str
    options: tuple[str, ...]
    name: str
    value: str
    default: Any

    @property
    def command(self) -> list[str]:
        return [self.stage, *self.options, f"{self.name}={self.value}"]

    @property
    def wrong(self) -> bool:
        """Whether the value is none by the option's default."""
        if self.value in ("${nowhere}", "\x00", "x" * 5000, "''", "' '"):
            return True
        if self.value == "null":
            return self.default is not None and self.name not in NULL_TOO
        if isinstance(self.default, bool) and self.name not in OR_TEXT:
            return self.value not in ("true", "no")
        if isinstance(self.default, list):
            return False  # of what, the default does not tell
        if (isinstance(self.default, int | float) and self.name not in OR_TEXT) or self.name in NULL_NUMBERS:
            allowed = ["0", "0.5", *(["-1"] if self.name in BELOW_ZERO else [])]
            whole = type(self.default) is int and self.name not in MEASURES
            return self.value not in allowed or (self.value == "0.5" and whole)
        return False


def options(world: list[str]) -> dict[str, Any]:
    """Every option of a composition with its default."""

    def leaves(node: dict[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in node.items():
            name = f"{group}.{key}" if group else key
            if isinstance(value, dict):
                yield from leaves(value, name)
            elif name not in FILLED_IN:
                yield name, value

    tree = OmegaConf.to_container(compose_config([*world, "stage=train"]), resolve=True)
    assert isinstance(tree, dict)
    return dict(leaves(tree))


def every_option() -> Iterator[tuple[str, list[str], str, Any]]:
    """World, its options, and each option that no world before has."""
    seen: set[str] = set()
    for world, given in WORLDS.items():
        for name, default in options(given).items():
            if name not in seen:
                seen.add(name)
                yield world, given, name, default


def stage_for(name: str, world: str, number: int) -> str:
    """The stage whose option it is, else any in turn; on XLA one that computes nothing."""
    own = name.partition(".")[0]
    stages = tuple(stage for stage, record in STAGES.items() if world != "xla" or record.at_a_desk)
    return own if own in stages else stages[number % len(stages)]


def cases_of_every_option(*, part: int = 1) -> list[Case]:
    """Every value for every option, or of a part of the values in turn, and a blank, which none takes."""
    found = []
    for number, (world, given, name, default) in enumerate(every_option()):
        for place, value in enumerate(VALUES):
            asks_a_server = value in ("true", "no") and "wandb" in name
            if not asks_a_server and (value == "' '" or (number + place) % part == 0):
                found.append(Case(stage_for(name, world, number + place), tuple(given), name, value, default))
    return found


def cases_of_every_stage() -> list[Case]:
    draw = random.Random(0)
    return [
        Case(stage, tuple(given), name, draw.choice(VALUES), default)
        for stage in STAGES
        for world, given, name, default in every_option()
        if (world != "xla" or STAGES[stage].at_a_desk) and "wandb" not in name
    ]


def fault(case: Case, outcome: CompletedProcess[str], left: list[str]) -> str | None:
    """What is wrong with how a command ended."""
    shown = [line for line in outcome.stdout.splitlines() if not line.startswith("Exception ignored")]
    if "Traceback" in outcome.stdout:
        return "a traceback: " + shown[-1]
    if outcome.returncode < 0:
        return f"a hang of {LIMIT_S} s, or an end by the signal {-outcome.returncode}"
    if left and outcome.returncode != 0:
        return f"files are left: {left}"
    if case.wrong and (outcome.returncode != 2 or left):
        return f"accepted, exit code {outcome.returncode}: {shown[-1:]}"
    if case.wrong and not (shown[0].startswith("nst: ") and case.name in outcome.stdout):
        return f"the option is not named: {shown}"
    if outcome.returncode == 2 and not any(line.startswith(("  valid:", "  next:")) for line in shown):
        return f"what would be valid is not said: {shown}"
    if outcome.returncode == 0 and not STAGES[case.stage].at_a_desk:
        return "it went on without data"
    return None


def run_in_turn(numbered: list[tuple[Case, Path]], place: Path) -> list[CompletedProcess[str]]:
    """How each command ended in its folder; where one takes a process along, the next one begins another."""
    done: list[CompletedProcess[str]] = []
    commands, outcomes = place / "commands.json", place / "outcomes"
    while rest := numbered[len(done) :]:
        commands.write_text(json.dumps([[case.command, str(folder)] for case, folder in rest]))
        ended = run([*PYTHON, "tests.many_commands", commands, outcomes], place)
        told = [json.loads(line) for line in outcomes.read_text().splitlines()] if outcomes.exists() else []
        done += [CompletedProcess(case.command, *outcome) for (case, _), outcome in zip(rest, told, strict=False)]
        if len(told) < len(rest):
            assert ended.returncode != 0, ended
            done.append(CompletedProcess(rest[len(told)][0].command, ended.returncode, ended.stdout + ended.stderr))
        outcomes.unlink(missing_ok=True)
    return done


def run_all(cases: list[Case], tmp_path: Path) -> list[str]:
    """The faults of all cases, as many at a time as there are cores."""
    numbered = [(case, tmp_path / str(number)) for number, case in enumerate(cases)]
    for _, folder in numbered:
        folder.mkdir()
    share = len(os.sched_getaffinity(0))
    places = [tmp_path / f"part{number}" for number in range(share)]
    for place in places:
        place.mkdir()
    parts = [numbered[number::share] for number in range(share)]
    with ThreadPoolExecutor(share) as pool:
        ended = list(pool.map(run_in_turn, parts, places))
    found = []
    for part, outcomes in zip(parts, ended, strict=True):
        for (case, folder), done in zip(part, outcomes, strict=True):
            said = fault(case, done, sorted(str(path.relative_to(folder)) for path in folder.rglob("*")))
            if said is not None:
                found.append(f"nst {case.stage} {case.name}={case.value[:30]!r}: {said}")
    return found


def test_every_option_has_cases_that_must_be_refused_and_none_is_left_out():
    cases = cases_of_every_option(part=4)
    names = {case.name for case in cases}
    assert len(names) > 190
    assert names == {case.name for case in cases if case.wrong}
    assert {case.value for case in cases} == set(VALUES)
    assert {case.stage for case in cases} == set(STAGES)


def refused(cases: list[Case], tmp_path: Path) -> None:
    faults = run_all(cases, tmp_path)
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:40])


@pytest.mark.timeout(1800)
def test_no_option_takes_what_it_cannot_be(tmp_path: Path):
    refused(cases_of_every_option(part=12), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_option_takes_any_of_the_values_that_it_cannot_be(tmp_path: Path):
    refused(cases_of_every_option(), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_stage_looks_at_every_option(tmp_path: Path):
    refused(cases_of_every_stage(), tmp_path)
