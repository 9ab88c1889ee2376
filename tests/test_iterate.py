"""Algorithm 1: the order of its steps, generations as options, and `kill -9` at any moment of any stage."""

import csv
import hashlib
import json
import shlex
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from nst.advice import whole
from nst.atomic import write_json
from nst.cli import dispatch
from nst.config import compose_config, job_from, plain
from nst.documents import read_metrics
from nst.errors import NstError, UsageError
from nst.models.timm_architecture import timm_architecture
from nst.refused import option_of
from nst.report.records import CONTROL
from nst.report.terminal import table
from nst.settings.job import EvaluateJob, GenerationsJob, IterateJob, SelectJob, changed
from nst.stages import generations, iterate, select
from nst.training.loggers import TIMING_METRICS
from nst.written import LIST, begin
from tests import forked
from tests.conftest import TINY

GENERATIONS = "iterate.generations=[['model.width=0.25'],['model.width=0.35'],['model.width=0.35']]"


def test_algorithm_1_in_order():
    calls: list[Any] = []

    def step(name: str, result: Callable[[], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def call(*arguments: Any) -> dict[str, Any]:
            calls.append((name, *arguments))
            return result()

        return call

    trained = {"model": "small", "architecture": {"width": 1.0, "depth": 1.0}, "parameters": 1, "labeled_samples": 50,
               "steps": 3}  # fmt: skip
    results = iterate.algorithm_1(
        3,
        train=step("train", lambda: trained),
        label=step("label", dict),
        select=step("select", lambda: {"totals": {"selected": 7, "copies": 9}}),
        look=step("look", dict),
    )
    assert calls == [
        ("train", 0), ("look", 0),
        ("label", 0), ("select", 0), ("train", 1), ("look", 1),
        ("label", 1), ("select", 1), ("train", 2), ("look", 2),
    ]  # fmt: skip
    assert [row["unlabeled"] for row in results] == [0, 7, 7]


def test_a_generation_is_what_one_would_give_to_train():
    cfg = compose_config([*TINY, "run_dir=runs/x", GENERATIONS])
    cfg.overrides = [*TINY, "run_dir=runs/x", GENERATIONS]
    first, second, _ = generations.configurations(job_from(GenerationsJob, cfg))
    assert (first.model.width, second.model.width) == (0.25, 0.35)
    assert (first.run_dir, second.run_dir) == ("runs/x/gen0", "runs/x/gen1")
    assert first.student.steps == second.student.steps == 12


def test_generations_lie_in_a_folder_of_any_name():
    cfg = compose_config([*TINY, "run_dir=o'n a=b [x]\\", "name=it's"])
    cfg.overrides = TINY
    assert [part.run_dir for part in generations.configurations(job_from(GenerationsJob, cfg))][:2] == [
        f"o'n a=b [x]\\/gen{n}" for n in (0, 1)
    ]


def test_the_value_of_a_mistake_in_a_generation_is_the_generations_own():
    options = ["model.width=0.25", "iterate.generations=[[],['model.width=-1']]"]
    cfg = compose_config(options)
    cfg.overrides = options
    with pytest.raises(NstError, match=r"model\.width cannot be -1\n  got:   model\.width=-1\n"):
        generations.configurations(job_from(GenerationsJob, cfg))


def test_the_table_fits_80_columns_uncut(capsys: pytest.CaptureFixture[str]):
    rows = [
        {"generation": number, "model": model, "width": 0.65, "depth": 0.5, "parameters": 480e6, "labeled": 1281167,
         "unlabeled": 81000000, "top1": 87.4, "ece": 12.34, "gain": 2.4}
        for number, model in enumerate(("small", "efficientnet_b7"))
    ]  # fmt: skip
    Console(width=80).print(table(rows))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    for text in ("small w0.65 d0.5", "efficientnet_b7", "480.00M", "1281167", "81000000", "87.40", "12.3", "+2.40"):
        assert text in out


@pytest.mark.parametrize("robust", [{}, {"corruption_error": 45.3, "flip_rate": 10.3}])
@pytest.mark.parametrize("model", ["tf_efficientnet_lite0", "tf_efficientnet_l2.ns_jft_in1k"])
def test_a_long_name_is_folded_before_a_number_is_cut(model: str, robust: dict, capsys: pytest.CaptureFixture[str]):
    suites = {name: "a suite" for name in ("corruption_suite", "perturbation_suite") if robust}
    rows = [
        {"generation": number, "model": model, "width": None, "depth": None, "parameters": 480e6, "labeled": 1000,
         "unlabeled": 14000, "top1": 88.42, "ece": 12.3, "gain": gain, **robust, **suites}
        for number, gain in ((0, None), (1, -13.42), (2, 10.90), (CONTROL, 15.20))
    ]  # fmt: skip
    Console(width=80).print(table(rows))
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out
    numbers = [line.split() for line in lines if "14000" in line]
    assert [line[0] for line in numbers] == ["0", "1", "2", "ctrl"]
    gains = [next(word for word in line[-3:] if word[0] in "+-") for line in numbers]
    assert gains == ["-", "-13.42", "+10.90", "+15.20"]
    assert all({"480.00M", "1000", "88.42", "12.3", *map(str, robust.values())} <= set(line) for line in numbers)


def test_the_table_with_robustness_fits_80_columns_uncut(capsys: pytest.CaptureFixture[str]):
    rows: list[dict[str, Any]] = [
        {"generation": number, "model": "small", "width": 0.65, "depth": 0.5, "parameters": 480e6, "labeled": 1281167,
         "unlabeled": 81000000, "top1": 87.4, "ece": 12.34, "gain": 12.4}
        for number in range(3)
    ]  # fmt: skip
    rows[0] |= {"corruption_suite": "c_onthefly", "corruption_error": 41.23}
    rows[1] |= {"corruption_suite": "c_onthefly", "corruption_error": 35.04, "flip_rate": 4.56,
                "perturbation_suite": "p_onthefly"}  # fmt: skip
    Console(width=80).print(table(rows))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    cells = [line.split()[-3:] for line in out.splitlines() if "small" in line]
    assert cells == [["-", "41.2", "-"], ["+12.40", "35.0", "4.6"], ["+12.40", "-", "-"]]
    for text in ("corr.", "flip", "mean corruption error, not normalised (c_onthefly)", "(p_onthefly)"):
        assert text in out


def compared(first: list[str], second: list[str], teacher: Path, student: str = "alike") -> Any:
    """eval of a second generation, after it was made comparable with the first."""
    teacher_job, job = (job_from(EvaluateJob, compose_config([*TINY, *options])) for options in (first, second))
    return changed(job, generations.comparable(job, teacher_job, teacher, teacher / student)).eval.robustness


def test_a_student_is_measured_on_its_teacher_s_pictures_and_against_it_unless_options_say_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    share = {tmp_path: 0.875, tmp_path / "alike": 0.875, tmp_path / "other": 0.6}
    monkeypatch.setattr(generations, "final_weights", lambda run: run)
    monkeypatch.setattr(generations, "read_info", lambda run: SimpleNamespace(
        architecture=replace(timm_architecture("test_resnet"), crop_share=share[run])))  # fmt: skip
    (tmp_path / "evaluation").mkdir()
    write_json(tmp_path / "evaluation" / "result.json", {"image_size": 12})
    robust = ["eval=robustness_quick"]
    found = compared(robust, [*robust, "model.test_size=20"], tmp_path)
    assert (found.side, found.baseline) == (12, str(tmp_path))
    found = compared(robust, robust, tmp_path, "other")
    assert (found.side, found.baseline) == (12, None), "its network crops pictures in another way"
    named = [*robust, "eval.side=32", "eval.baseline=runs/other"]
    found = compared(named, named, tmp_path)
    assert (found.side, found.baseline) == (32, "runs/other")
    found = compared(robust, [*robust, "eval.max_images=7"], tmp_path)
    assert (found.side, found.baseline) == (None, None), "what is measured otherwise is not compared"
    assert compared(["eval=clean"], ["eval=clean"], tmp_path) is None


def test_robustness_of_every_generation_is_measured_alike_and_told(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The student sees 16 px where its teacher sees 12, and is still shown the same corrupted pictures."""
    options = [*TINY, f"data.root={digits}", f"run_dir={tmp_path / 'run'}", "student.steps=4", "eval=robustness_quick",
               "eval.max_images=10", "eval.max_clips=2", "select.min_confidence=0", "select.allow_empty_classes=true",
               "iterate.generations=[[],['model.test_size=16']]"]  # fmt: skip
    cfg = compose_config(options)
    cfg.overrides, cfg.stage = options, "iterate"
    iterate.main(cfg)
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    teacher, student = result["generations"]
    assert {"corruption_error", "flip_rate"} <= teacher.keys()
    assert student["corruption_error_to_baseline"] > 0
    assert "corruption_error_to_baseline" not in teacher
    assert result["corruption_error"] == student["corruption_error"]
    conditions = [json.loads((tmp_path / "run" / f"gen{number}" / "evaluation" / "result.json").read_text())
                  ["robustness"]["c_onthefly"]["conditions"] for number in (0, 1)]  # fmt: skip
    assert [found.pop("shown_at") for found in conditions] == [12, 16]
    assert conditions[0] == conditions[1]
    assert f"{student['corruption_error']:.1f}" in out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "corruption error (baseline run = 100)" in page
    assert 'aria-label="How often the answer changes' in page
    assert {"c_onthefly_errors.svg", "p_onthefly_strips.svg"} <= {
        path.name for path in (tmp_path / "run" / "figures").iterdir()
    }
    with open(tmp_path / "run" / "report.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["flip_rate"]) for row in rows] == [teacher["flip_rate"], student["flip_rate"]]


def test_without_a_list_the_teacher_is_trained_by_its_recipe_and_the_student_by_its_own():
    options = ["teacher=efficientnet_b7", "student=efficientnet_l0", "data=imagenet"]
    cfg = compose_config(options)
    cfg.overrides = options
    teacher, student = generations.configurations(job_from(GenerationsJob, cfg))
    assert (teacher.model.name, student.model.name) == ("efficientnet_b7", "efficientnet_l0")
    assert student.teacher.image_size is None, "the teacher of every generation labels at its own test size"


def test_generations_that_are_no_list_of_lists_and_unknown_options_in_them_are_explained():
    with pytest.raises(NstError, match=r"iterate\.generations cannot be[\s\S]*a list of lists of options"):
        compose_config(["iterate.generations=['model.width=0.5']"])
    cfg = compose_config(["iterate.generations=[['model.widht=0.5']]"])
    with pytest.raises(NstError, match=r"did you mean 'model.width'"):
        generations.configurations(job_from(GenerationsJob, cfg))


@pytest.mark.parametrize(
    ("student", "says"),
    [("student.schedule.warmup_epochs=99", "a cosine schedule must end after its warm-up"),
     ("model.pretrained=runs/none", "there is no network runs/none"),
     ("student=finetune,student.frozen_blocks=99", "blocks to freeze"),
     ("student.start=teacher,model.width=0.7", "at its teacher's weights is the same network")],
)  # fmt: skip
def test_a_mistake_in_a_later_generation_is_told_before_the_teacher_trains(
    student: str, says: str, digits: Path, tmp_path: Path
):
    options = [*TINY, f"data.root={digits}", f"run_dir={tmp_path / 'run'}", f"iterate.generations=[[],[{student}]]"]
    cfg = compose_config(options)
    cfg.overrides = options
    with pytest.raises(NstError, match=says):
        iterate.main(cfg)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "says"),
    [("run_dir=/tmp/x", "run_dir is of the run as a whole"),
     ("name=a", "name is of the run as a whole"),
     ("+iterate.control=true", "iterate.control is of the run"),
     ("report.examples=3", "report.examples is of the run"),
     ("data.source.root=x", "data.source.root is of the run"),
     ("teacher.run=runs/x", "teacher of a generation is the one before"),
     ("model.width=0.25,0.3", "'0.3' is not an option of a generation")],
)  # fmt: skip
def test_what_would_change_nothing_in_a_generation_is_refused(option: str, says: str):
    whole = [*TINY, f"iterate.generations=[[],[{option}]]"]
    cfg = compose_config(whole)
    cfg.overrides = whole
    with pytest.raises(UsageError, match=says):
        generations.configurations(job_from(GenerationsJob, cfg))


@pytest.mark.parametrize(
    ("selection", "says"),
    [(["select.max_confidence=0.2"], "max_confidence is a probability above min_confidence"),
     (["select.method=official", "select.min_confidence=0.333"], "works on a 0.01 grid")],
)  # fmt: skip
def test_rules_of_a_selection_are_told_before_the_teacher_trains(
    selection: list[str], says: str, digits: Path, tmp_path: Path
):
    whole = [*TINY, f"data.root={digits}", f"run_dir={tmp_path / 'run'}"]
    for options in ([*whole, *selection], [*whole, f"iterate.generations=[[],[{','.join(selection)}]]"]):
        with pytest.raises(UsageError, match=says):
            dispatch(["iterate", *options])
        assert not (tmp_path / "run").exists()


def test_proportions_of_labeled_images_that_are_elsewhere_are_asked_for_before_the_teacher_trains(digits: Path):
    job = job_from(SelectJob, compose_config([*TINY, "stage=select", "select.prior=labeled", f"data.root={digits}"]))
    select.check(job)
    with pytest.raises(NstError, match=r"select\.prior=labeled needs[\s\S]*data\.labeled=s3://bucket/labeled"):
        select.check(replace(job, data=replace(job.data, labeled="s3://bucket/labeled")))


@pytest.mark.parametrize(
    ("option", "generations", "more", "networks"),
    [("teacher.predictions", "[[],[],[]]", [], "gen0 and gen1"),
     ("teacher.selection", "[[],[],[]]", [], "gen0 and gen1"),
     ("evaluate.output", "[[],[]]", [], "gen0 and gen1"),
     ("evaluate.output", "[[],['evaluate.output={here}/other']]", ["iterate.control=true"], "gen1 and control")],
)  # fmt: skip
def test_a_folder_for_two_networks_is_told_before_the_teacher_trains(
    option: str, generations: str, more: list[str], networks: str, digits: Path, tmp_path: Path
):
    options = [*TINY, f"data.root={digits}", f"run_dir={tmp_path / 'run'}", f"{option}={tmp_path / 'x'}", *more]
    options += [f"iterate.generations={generations.format(here=tmp_path)}"]
    with pytest.raises(UsageError, match=rf"{option} is one folder for {networks}, and each") as caught:
        dispatch(["iterate", *options])
    assert not list(tmp_path.iterdir())
    told = whole(str(caught.value))
    if more:
        assert "leave evaluate.output out of the generations, or" in told
        return
    # the advice, followed: the command is not refused for this any more
    command = next(line for line in told.split("\n") if "nst iterate" in line)
    command = shlex.split(command.partition("nst iterate")[2])
    assert not [item for item in command if item.startswith(option)]
    with pytest.raises(NstError, match="a cosine schedule must end after its warm-up"):
        dispatch(["iterate", *command, "student.schedule.warmup_epochs=99"])


def test_a_folder_for_each_network_is_not_refused(digits: Path, tmp_path: Path):
    lists = [[f"{option}={tmp_path}/{option}{number}" for option in ("teacher.predictions", "evaluate.output")]
             for number in range(3)]  # fmt: skip
    options = [*TINY, f"data.root={digits}", f"run_dir={tmp_path / 'run'}", f"iterate.generations={lists}"]
    with pytest.raises(NstError, match="a cosine schedule must end after its warm-up"):
        dispatch(["iterate", *options, "student.schedule.warmup_epochs=99"])


def test_labels_of_others_in_the_folder_of_a_loop_are_told_of_by_its_option(tmp_path: Path):
    """run_dir=<folder> would keep the folder, and meet the same refusal."""
    config = {"stage": "train", "overrides": [f"teacher.predictions='{tmp_path}'"], "iterate": {"teacher": None}}
    assert option_of("label", config, tmp_path) == "teacher.predictions"
    assert option_of("label", config, tmp_path / "gen0" / "predictions") == "run_dir"
    assert option_of("train", {**config, "overrides": [f"run_dir={tmp_path}"]}, tmp_path) == "run_dir"
    shared = {**config, "iterate": {"teacher": str(tmp_path / "first")}}
    for stage in ("train", "label"):
        assert option_of(stage, shared, tmp_path / "first") == "iterate.teacher"
        assert option_of(stage, shared, tmp_path / "gen1") == "run_dir"
    by_hand = {**shared, "stage": "label"}
    assert option_of("label", by_hand, tmp_path / "first" / "predictions") == "teacher.predictions"


@pytest.mark.parametrize(
    ("options", "chosen_by"),
    [
        (["experiment=photos", "name=mine"], "name"),
        (["experiment=photos", "name=mine", "data.root=shards"], "data.root"),
        (["experiment=photos", "name=mine", "run_dir=runs/other"], "data.root"),
        (["experiment=eurosat"], "data.root"),  # datasets/eurosat-10-seed0, whatever the name is
    ],
)
def test_shards_of_other_pictures_in_the_folder_of_a_loop_are_told_of_by_what_moves_its_run_too(
    options: list[str], chosen_by: str
):
    """data.root=<folder> alone would make new shards, and then meet a run of the old ones."""
    config: dict[str, Any] = plain(compose_config(options), whole=False)
    config |= {"stage": "iterate", "shard": {"output": config["data"]["root"]}, "overrides": options}
    assert option_of("shard", config, Path(config["data"]["root"])) == chosen_by


# ---- kill -9


def test_a_loop_without_a_place_for_unlabeled_images_is_refused_in_words(tmp_path: Path):
    options = ["experiment=digits_demo", "data.unlabeled=null", f"run_dir={tmp_path}"]
    with pytest.raises(NstError, match=r"data\.unlabeled names no shards"):
        dispatch(["iterate", *options])
    dispatch(["plan", *options])  # says what it would need
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "says", "cure"),
    [(3, 0, "there are no unlabeled images", "data.labeled_per_class=1"), (0, 3, "there are no labeled images", None),
     (1, 0, "there are no unlabeled images", None)],
)  # fmt: skip
def test_pictures_that_make_no_loop_leave_nothing_that_refuses_the_cure(
    labeled: int, unlabeled: int, says: str, cure: str | None, tmp_path: Path
):
    for number in range(labeled + 1):
        for name in ("a", "b"):
            split = "train" if number < labeled else "test"
            put_picture(tmp_path / "p" / split / name / f"{number}.png", number)
    if not labeled:
        shutil.rmtree(tmp_path / "p" / "test")
    for number in range(unlabeled):
        put_picture(tmp_path / "p" / "unlabeled" / f"{number}.png", 50 + number)
    options = [*TINY, "data=folder", f"data.source.root={tmp_path / 'p'}", f"data.root={tmp_path / 'shards'}",
               "data.test_samples=null", "data.labeled_per_class=null", "data.unlabeled_samples=null"]  # fmt: skip
    with pytest.raises(NstError, match=says) as caught:
        iterate.make_shards(job_from(IterateJob, compose_config([*options, "stage=iterate"])))
    assert not (tmp_path / "shards").exists()
    assert ("data.labeled_per_class" in caught.value.next) == (cure is not None)
    if cure:
        assert cure in caught.value.next
        iterate.make_shards(job_from(IterateJob, compose_config([*options, cure, "stage=iterate"])))
        # and from then on nobody has to say of what the shards are
        again = [option for option in options if not option.startswith("data.source.root")]
        iterate.make_shards(job_from(IterateJob, compose_config([*again, "stage=iterate"])))
        assert (tmp_path / "shards" / "unlabeled" / "index.json").exists()


def put_picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (9 * number, 9, 200)).save(path)


@pytest.mark.usefixtures("undrawn")
def test_runs_share_a_teacher_and_select_for_themselves(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shared = tmp_path / "shared" / "teacher"
    common = [*TINY, f"data.root={digits}", f"iterate.teacher={shared}", "select.allow_empty_classes=true"]
    students = {"all": "select.min_confidence=0.0", "half": "select.fraction=0.5"}
    begin(tmp_path, "report.html")  # as `nst report run_dir=runs` leaves a list around the runs
    for name, difference in students.items():
        generations = f"iterate.generations=[[],[['select.min_confidence=0.0'],'{difference}']]"
        dispatch(["iterate", *common, generations, f"run_dir={tmp_path / name}"])
        assert (tmp_path / name / LIST).exists(), "which goes with a run that is moved"
    results = {name: json.loads((tmp_path / name / "result.json").read_text())["generations"] for name in students}
    assert results["all"][0] == results["half"][0]
    assert results["all"][1]["unlabeled"] > results["half"][1]["unlabeled"] > 0
    assert capsys.readouterr().out.count("gen0 train: 12/12 done") == 1, "trained once"
    for name in students:
        assert (tmp_path / name / "gen0").resolve() == shared
        page = (tmp_path / name / "report.html").read_text()
        assert f"{results[name][1]['unlabeled']} were" in page, "its own selection"
    assert not (shared / "selection").exists()
    # other options are not for generation 0, which both runs have, but for one elsewhere, or for the students
    other = [*common, "student.steps=6", "student.schedule.warmup_epochs=0", "select.min_confidence=0"]
    last = ["iterate", *other, f"run_dir={tmp_path / 'last'}"]
    with pytest.raises(NstError, match=r"'iterate\.generations=\[null,\[\]\]'[^\0]* another iterate\.teacher="):
        dispatch([*last, "iterate.generations=[[],[]]"])
    dispatch([*last, "iterate.generations=[[],[]]", f"iterate.teacher={tmp_path / 'other'}"])
    dispatch(["iterate", *other, "iterate.generations=[null,[]]", f"run_dir={tmp_path / 'given'}"])
    rows = json.loads((tmp_path / "given" / "result.json").read_text())["generations"]
    assert rows[0] == results["all"][0]


@pytest.mark.parametrize("link", [False, True])
def test_a_run_has_one_generation_0(digits: Path, tmp_path: Path, link: bool):
    (tmp_path / "run").mkdir()
    mine = tmp_path / "run" / "gen0"
    if link:  # of the user's own
        (tmp_path / "mine").mkdir()
        mine.symlink_to(tmp_path / "mine")
    else:
        mine.mkdir()
    with pytest.raises(NstError, match="is another generation 0 than"):
        dispatch(["iterate", *TINY, f"data.root={digits}", f"iterate.teacher={tmp_path / 'shared'}",
                  f"run_dir={tmp_path / 'run'}"])  # fmt: skip
    assert mine.is_symlink() == link
    assert mine.resolve() == (tmp_path / "mine" if link else mine)


def test_a_student_keeps_the_link_to_its_teacher(tmp_path: Path):
    (tmp_path / "run").mkdir()
    begin(tmp_path / "run")
    generations.Places(tmp_path / "run", tmp_path / "first").link()
    (tmp_path / "run" / "gen1").mkdir()
    with pytest.raises(NstError, match="is another generation 0 than"):
        generations.Places(tmp_path / "run", tmp_path / "other").link()
    assert (tmp_path / "run" / "gen0").resolve() == tmp_path / "first"


def test_suites_that_cannot_be_measured_are_told_before_the_teacher_is_trained(digits: Path, tmp_path: Path):
    common = ["iterate", *TINY, f"data.root={digits}", f"run_dir={tmp_path / 'run'}", "eval=robustness_quick"]
    for wrong, told in {
        "eval.corruptions=null eval.perturbations=null": "no suite of robustness is asked for",
        "eval.cifar_c=nowhere": "eval.cifar_c: no such folder: nowhere",
        "eval.baseline=nowhere": "no robustness results",
    }.items():
        with pytest.raises(NstError, match=told):
            dispatch([*common, *wrong.split()])
        with pytest.raises(NstError, match=told):  # also of a student alone
            dispatch([*common, f"iterate.generations=[['eval=clean'],[{','.join(wrong.split())}]]"])
    assert not (tmp_path / "run" / "gen0").exists()


def test_runs_wait_for_each_other_at_a_shared_teacher(tmp_path: Path):
    places = generations.Places(tmp_path / "run", tmp_path / "shared")
    order: list[str] = []

    def other() -> None:
        with places.turn(0):
            order.append("other")

    with places.turn(0):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.5)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]
    with places.turn(0), places.turn(1):  # a later generation is the run's own
        pass


def command(run: Path, digits: Path) -> list[str]:
    options = [*TINY, f"data.root={digits}", f"run_dir={run}", GENERATIONS, "select.min_confidence=0",
               "select.allow_empty_classes=true", "label.batch_size=16", "trainer.workers=1",
               "iterate.report=false"]  # fmt: skip
    return ["iterate", *options]


def artifacts(run: Path) -> dict[str, Any]:
    """Hashes of all weights, predictions and selections, the metrics, and every result."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.suffix in (".safetensors", ".parquet"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "metrics.csv":
            found[name] = [row for row in read_metrics(path) if not row[1].endswith(TIMING_METRICS)]
        elif path.name in ("result.json", "selection.json"):
            found[name] = json.loads(path.read_text())
    return found


KILLS = [
    "step:7",  # training the teacher, in the middle of a segment
    "file:*/gen0/predictions/*.parquet",  # labeling, after the first shard
    "file:*/gen0/selection/started.json",  # selecting
    "step:11",  # training the student, in the middle of a segment
    "file:*/gen2/checkpoints/trained.safetensors",  # between the weights and the end of the stage
]


@pytest.mark.timeout(1800)
def test_kill_9_in_every_stage_ends_as_if_it_had_not_happened(digits: Path, tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = forked.run(command(whole, digits))
    assert done.returncode == 0, done.stderr
    for point in KILLS:
        done = forked.run([*forked.PYTHON, "tests.killed_program", point, *command(killed, digits)])
        assert done.returncode == -signal.SIGKILL, (point, done.stderr)
    done = forked.run(command(killed, digits))
    assert done.returncode == 0, done.stderr
    expected = artifacts(whole)
    assert len(expected) > 15
    assert artifacts(killed) == expected
    assert not list(killed.rglob(".*.tmp-*"))


def test_sizes_that_the_shards_do_not_have_are_refused_where_nobody_looks_at_the_pictures(tmp_path: Path):
    for number in range(40):
        path = tmp_path / "pictures" / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), 10 + number).convert("RGB").save(path)
    shards = f"data.root={tmp_path / 'shards'}"
    made = ["data=folder", shards, "data.labeled_per_class=4", "data.test_samples=8"]
    assert dispatch(["shard", *made, f"data.source.root={tmp_path / 'pictures'}"]) == 0
    common = [*(option for option in TINY if not option.startswith("data.")), *made[:2], f"run_dir={tmp_path / 'run'}",
              GENERATIONS, "select.min_confidence=0", "student.steps=2"]  # fmt: skip
    with pytest.raises(
        UsageError, match=r"data\.labeled_per_class: 4 before, 2 now; data\.validation_samples: 0 before"
    ):
        dispatch(["iterate", *common, "data.labeled_per_class=2", "data.validation_samples=1"])
    assert not (tmp_path / "run" / "gen0").exists()
