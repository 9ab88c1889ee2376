"""A run knows what it is: data and kind of pictures come from it, and options that change nothing are refused."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import TINY
from PIL import Image

from nst import cli
from nst.advice import note_command, whole
from nst.atomic import write_config
from nst.documents import read_config, read_json
from nst.errors import NstError, UsageError
from nst.shown import as_typed
from tests.helpers import require_names

TRAINING = [option for option in TINY if not option.startswith("data.")]
CPU = ["trainer.workers=0"]


@pytest.fixture(scope="module")
def teacher(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on the digits, whose shards lie where no default looks; labeled and selected from."""
    run = tmp_path_factory.mktemp("teacher") / "run"
    cli.run_stage(
        "train", [*TRAINING, f"data.root={digits}", "data.test_samples=100", f"run_dir={run}", "student.steps=40"]
    )
    cli.run_stage("label", [f"teacher.run={run}", *CPU])
    cli.run_stage("select", [f"teacher.run={run}", "select.min_confidence=0", "select.allow_empty_classes=true",
                             "select.images_per_class=null"])  # fmt: skip
    return run


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands are given where there are no data sets."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_label_and_select_took_the_pictures_of_the_run(teacher, digits):
    summary = read_json(teacher / "predictions" / "result.json")
    assert summary["images"] == 240
    for step in ("predictions", "selection"):
        config = yaml.safe_load((teacher / step / "config.yaml").read_text())
        assert config["data"]["unlabeled"] == f"{digits}/unlabeled"
        assert config["data"]["pictures"]["small"] is True


def test_what_a_run_depends_on_is_told_by_options(teacher):
    for stage, folder in (("train", ""), ("label", "predictions"), ("select", "selection")):
        require_names(stage, read_json(teacher / folder / "started.json")["inputs"])


def test_select_takes_as_many_of_a_class_as_the_run_says(digits, tmp_path, capsys):
    """An experiment's recipe says how labels are selected; by hand it is the same, but for what is typed."""
    few = ["select.images_per_class=7", "select.min_confidence=0", "select.allow_empty_classes=true"]
    run, data = tmp_path / "run", f"data.root={digits}"
    made = ["data.test_samples=100", "data.unlabeled_samples=240"]
    options = [*TRAINING, data, *made, *few, f"run_dir={run}", "student.steps=4", "iterate.report=false"]
    cli.run_stage("iterate", options)
    with pytest.raises(NstError) as caught:
        cli.run_stage("select", [f"teacher.run={run}"])
    advised = str(caught.value.next).rpartition(": nst select ")[2]
    assert advised == f"teacher.run={run}/gen1"
    cli.run_stage("select", shlex.split(advised))
    cli.run_stage("label", [f"teacher.run={run}", *CPU])
    capsys.readouterr()
    cli.run_stage("select", [f"teacher.run={run}"])
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"selection as in \S+: min_confidence=0, images_per_class=7, allow_empty_classes=true", said)
    cli.run_stage("select", [f"teacher.run={run}", f"teacher.selection={tmp_path / 's'}", "select.images_per_class=3"])
    asked = [read_json(folder / "selection.json")["images_per_class"] for folder in (run / "selection", tmp_path / "s")]
    assert asked == [7, 3]


def test_evaluate_needs_no_data_and_gives_what_the_training_gave(teacher, digits, tmp_path, capsys):
    cli.run_stage("evaluate", [f"model.checkpoint={teacher}", f"evaluate.output={tmp_path / 'e'}", *CPU])
    assert read_json(tmp_path / "e" / "result.json")["top1"] == read_json(teacher / "result.json")["top1"]
    said = " ".join(capsys.readouterr().out.split())
    assert f"data as in {teacher}: digits in {digits}, small pictures" in said


def test_pictures_are_shown_as_the_network_was_trained_whatever_the_data_say(teacher, digits, tmp_path, capsys):
    other = ["data=folder", f"data.root={digits}", *CPU]
    cli.run_stage("evaluate", [f"model.checkpoint={teacher}", f"evaluate.output={tmp_path / 'e'}", *other])
    assert "was trained: small=true, flip=false" in " ".join(capsys.readouterr().out.split())
    assert read_json(tmp_path / "e" / "result.json")["top1"] == read_json(teacher / "result.json")["top1"]
    alone = shutil.copy(teacher / "checkpoints" / "trained.safetensors", tmp_path / "alone.safetensors")
    cli.run_stage("evaluate", [f"model.checkpoint={alone}", f"evaluate.output={tmp_path / 'f'}", *other])
    assert read_json(tmp_path / "f" / "result.json")["top1"] == read_json(teacher / "result.json")["top1"]
    typed = [*other, "data.pictures.small=false"]
    cli.run_stage("evaluate", [f"model.checkpoint={alone}", f"evaluate.output={tmp_path / 'g'}", *typed])
    inputs = read_json(tmp_path / "g" / "started.json")["inputs"]
    assert inputs["pictures"]["small"] is False, "what is typed counts"


def test_weights_without_a_run_never_stand_for_the_digits(teacher, tmp_path):
    alone = shutil.copy(teacher / "checkpoints" / "trained.safetensors", tmp_path / "alone.safetensors")
    for stage, option in (("label", "teacher.checkpoint"), ("evaluate", "model.checkpoint")):
        with pytest.raises(UsageError, match="which pictures"):
            cli.run_stage(stage, [f"{option}={alone}", f"name={tmp_path.name}"])
    with pytest.raises(NstError, match="there is no network at"):
        cli.run_stage("evaluate", ["model.checkpoint=runs/typo"])
    assert not list(tmp_path.glob("runs*"))


def shown(capsys: pytest.CaptureFixture[str], stage: str, *overrides: str) -> dict:
    """What `--cfg` prints, which is YAML and nothing else."""
    cli.run_stage(stage, list(overrides), show_only=True)
    return yaml.safe_load(capsys.readouterr().out)


def test_what_is_typed_goes_before_what_the_run_knows(teacher, digits, tmp_path, capsys):
    data = shown(capsys, "label", f"teacher.run={teacher}", "data.unlabeled=mine")["data"]
    assert data["unlabeled"] == "mine"
    assert data["test"] == f"{digits}/test"
    data = shown(capsys, "label", f"teacher.run={teacher}", "data.root=moved")["data"]
    assert [data[part] for part in ("labeled", "unlabeled", "test")] == [
        "moved/labeled",
        "moved/unlabeled",
        "moved/test",
    ]
    assert data["pictures"]["small"] is True
    data = shown(capsys, "evaluate", f"model.checkpoint={teacher}", "data.pictures.small=false")["data"]
    assert data["pictures"]["small"] is False
    assert data["pictures"]["flip"] is False
    weights = teacher / "checkpoints" / "trained.safetensors"
    assert shown(capsys, "evaluate", f"model.checkpoint={weights}")["data"]["root"] == str(digits)
    assert shown(capsys, "train", f"teacher.run={teacher}")["data"]["root"] == str(digits)


def test_a_choice_that_names_no_pictures_leaves_those_of_the_run(teacher, digits, tmp_path, capsys):
    run = f"teacher.run={teacher}"
    for stage in ("train", "label"):
        assert shown(capsys, stage, run, "experiment=photos", "name=st")["data"]["root"] == str(digits)
    for named in ("data=digits", "data.source.root=pictures", "data.root=d"):
        data = shown(capsys, "train", run, "experiment=photos", "name=st", named)["data"]
        assert data["root"] != str(digits), "which pictures is said, though they are not there yet"
    (tmp_path / "datasets" / "st-seed0").mkdir(parents=True)
    assert shown(capsys, "train", run, "experiment=photos", "name=st")["data"]["root"] == "datasets/${name}-seed${seed}"


def test_an_option_of_a_step_that_was_taken_is_refused_if_it_says_otherwise(teacher, tmp_path, capsys):
    with pytest.raises(UsageError, match=r"select\.min_confidence=0\.3 changes nothing here") as caught:
        cli.run_stage("train", [f"teacher.run={teacher}", "select.min_confidence=0.3", f"run_dir={tmp_path / 'r'}"])
    assert f"nst select teacher.run={teacher} select.min_confidence=0.3 overwrite=true" in str(caught.value)
    assert not (tmp_path / "r").exists()
    with pytest.raises(UsageError, match=r"was made with null\n(.|\n)*select\.images_per_class=null, or without it"):
        cli.run_stage("train", [f"teacher.run={teacher}", "select.images_per_class=9"])
    with pytest.raises(UsageError, match=r"label\.keep=0\.5 changes nothing here"):
        cli.run_stage("select", [f"teacher.run={teacher}", "label.keep=0.5"])
    assert shown(capsys, "train", f"teacher.run={teacher}", "select.min_confidence=0")
    apart = [
        f"teacher.predictions={teacher}/predictions",
        f"teacher.selection={tmp_path / 's'}",
        f"data.root={tmp_path}",
    ]
    with pytest.raises(UsageError, match=r"label\.keep=0\.5 changes nothing here"):
        cli.run_stage("select", [*apart, "label.keep=0.5"])
    with pytest.raises(UsageError, match=r"teacher\.views=all changes nothing here") as caught:
        cli.run_stage("train", [f"teacher.run={teacher}", "teacher.views=all", "data.pictures.flip=true"])
    assert f"nst label teacher.run={teacher} teacher.views=all overwrite=true" in str(caught.value)
    assert shown(capsys, "train", f"teacher.run={teacher}", "teacher.views=all", "teacher.mode=online")


def test_labels_that_are_older_than_an_option_were_made_without_it(teacher, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(teacher / "predictions", old)
    config = read_config(old / "config.yaml")
    del config["teacher"]["views"]
    write_config(old / "config.yaml", config)
    with pytest.raises(UsageError, match=r"teacher\.views=all changes nothing here"):
        cli.run_stage("train", [f"teacher.run={teacher}", f"teacher.predictions={old}", "teacher.views=all"])


def test_all_options_that_change_nothing_are_left_out_at_once(teacher, capsys):
    with pytest.raises(SystemExit):
        cli.main(["evaluate", f"model.checkpoint={teacher}", "model.width=0.5", "student.steps=3"])
    said = " ".join(capsys.readouterr().err.split())
    assert "model.width, student.steps change nothing: nst evaluate does not read them" in said
    assert said.endswith(f"next: nst evaluate model.checkpoint={teacher}")


@pytest.mark.parametrize(("stage", "named"), [("label", "teacher.run"), ("predict", "model.checkpoint"),
                                              ("evaluate", "model.checkpoint")])  # fmt: skip
def test_options_of_a_training_are_refused_by_what_only_asks_a_network(stage, named, teacher, tmp_path):
    more = {"predict": [f"predict.input={tmp_path}"], "evaluate": ["eval=robustness_quick"]}.get(stage, [])
    for option in ("trainer.accumulate=4", "trainer.compile=true", *(["eval.every=3"] if stage == "evaluate" else [])):
        with pytest.raises(UsageError, match=f"changes nothing: nst {stage} does not read it"):
            cli.run_stage(stage, [f"{named}={teacher}", *more, option])


def test_predict_refuses_options_that_it_does_not_read(teacher):
    for option in ("data=cifar10", "data.root=x", "student.steps=3", "teacher.run=x", "noise=none",
                   "max_bad_fraction=0.5"):  # fmt: skip
        with pytest.raises(UsageError, match="changes nothing: nst predict does not read it"):
            cli.run_stage("predict", [f"model.checkpoint={teacher}", "predict.input=x", option])


@pytest.mark.parametrize(
    ("stage", "option"),
    [("train", "predict.top=7"), ("train", "report.examples=3"), ("train", "export.format=onnx"),
     ("iterate", "predict.top=7"), ("iterate", "export.input=normalized")],
)  # fmt: skip
def test_a_training_refuses_options_that_no_part_of_it_reads(stage, option, digits, tmp_path, capsys):
    given = [*TRAINING, f"data.root={digits}", f"run_dir={tmp_path / 'r'}"]
    command = refused(capsys, stage, *given, option)
    assert command == [stage, *given]
    assert not list(tmp_path.iterdir())
    name, _ = option.split("=")
    as_it_is = {"top": 3, "examples": 24, "format": "timm", "input": "uint8"}[name.partition(".")[2]]
    assert shown(capsys, stage, *given, f"{name}={as_it_is}"), "what is so anyway"


@pytest.mark.parametrize(
    "option", ["select.min_confidence=0.5", "label.keep=0.5", "teacher.targets=hard", "teacher=online",
               "teacher.selection=x"],
)  # fmt: skip
def test_a_training_without_a_teacher_refuses_options_that_only_a_students_reads(
    option, teacher, digits, tmp_path, capsys
):
    given = [*TRAINING, f"data.root={digits}", f"run_dir={tmp_path / 'r'}"]
    with pytest.raises(UsageError, match="changes nothing: nst train without a teacher does not read it") as caught:
        cli.run_stage("train", [*given, option])
    assert caught.value.valid == "teacher.run=<run directory>, by whose labels a student learns"
    assert refused(capsys, "train", *given, option) == ["train", *given]
    assert not list(tmp_path.iterdir())
    if not option.startswith(("select.", "label.", "teacher.selection")):  # which say otherwise than the teacher's
        assert shown(capsys, "train", *given, f"teacher.run={teacher}", option)
    name = option.partition("=")[0]
    if "." in name:
        group, _, entry = name.partition(".")
        as_it_is = shown(capsys, "train", *given)[group][entry]
        assert shown(capsys, "train", *given, f"{name}={as_typed(as_it_is)}"), "what is so anyway"


def test_recipes_that_say_how_a_student_is_taught_train_its_teacher_too(digits, capsys):
    for experiment in ("eurosat", "photos", "digits_demo"):
        assert shown(capsys, "train", f"experiment={experiment}", f"data.root={digits}")


def test_options_of_the_report_are_read_where_iterate_writes_one(digits, capsys):
    assert shown(capsys, "iterate", f"data.root={digits}", "report.examples=3")
    assert refused(capsys, "iterate", f"data.root={digits}", "report.examples=3", "iterate.report=false")


@pytest.fixture
def folder(tmp_path, elsewhere) -> Path:
    """Shards of a folder: two classes with 4 labels each, 4 unlabeled."""
    for place in ("train/ant", "train/bee", "test/ant", "test/bee", "unlabeled"):
        (tmp_path / "photos" / place).mkdir(parents=True)
        for number in range(4):
            pixels = np.full((16, 16, 3), (13 * number, len(place), 99), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / place / f"{number}.png")
    cli.run_stage("shard", ["data=folder", "data.source.root=photos", "data.root=shards"])
    return tmp_path


OWN = ["data=folder", "data.root=shards"]


@pytest.mark.parametrize("option", ["data.labeled_per_class=3", "data.validation_samples=1", "data.unlabeled_samples=2",
                                    "data.source.root=zzz", "data.source.ignore=[a]"])  # fmt: skip
def test_shards_that_are_there_are_not_said_to_be_others(option, folder, teacher, tmp_path, capsys):
    of_a_run = [*TRAINING, f"teacher.run={teacher}", "data.root=shards"]
    for train in ([*TRAINING, *OWN], *([] if ".source." in option else [of_a_run])):
        command = refused(capsys, "train", *train, option)
        assert command == ["train", *train], "without it"
    with pytest.raises(UsageError, match=r"changes? nothing"):
        cli.run_stage("evaluate", [f"model.checkpoint={teacher}", *OWN, option])
    if option != "data.source.root=zzz":
        with pytest.raises(UsageError, match="holds shards that were made otherwise"):
            cli.run_stage("iterate", [*TRAINING, *OWN, option])
        assert refused(capsys, "plan", *TRAINING, *OWN, option) == ["plan", *TRAINING, *OWN]
        for given, stage in ([], "iterate"), ([f"teacher.run={teacher}"], "train"):
            with pytest.raises(NstError, match="this would not work"):
                cli.run_stage("doctor", [*TRAINING, *OWN, *given, option])
            said = " ".join(capsys.readouterr().out.split())
            assert f"changes nothing: nst {stage} reads the shards in shards as they are; got: made with" in said


def test_what_is_so_of_the_shards_may_be_said(folder, teacher, capsys):
    for same in ("data.labeled_per_class=4", "data.labeled_per_class=null", "data.unlabeled_samples=4",
                 "data.validation_samples=0", "data.source.root=photos",
                 f"data.source.root={folder / 'photos'}"):  # fmt: skip
        for stage, named in (("train", []), ("plan", []), ("evaluate", [f"model.checkpoint={teacher}"])):
            assert shown(capsys, stage, *named, *OWN, same)


def test_shards_that_iterate_would_make_anew_may_be_planned_otherwise(folder, capsys):
    anew = [*OWN, "data.labeled_per_class=3", "overwrite=true"]
    assert shown(capsys, "plan", *anew, "data.source.root=photos")
    with pytest.raises(UsageError, match=r"changes nothing: nst plan reads the shards"):
        cli.run_stage("plan", anew)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The command that nst advises instead of one that it refuses, as a shell reads it."""
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert re.search("changes? nothing: nst ", said), said
    return shlex.split(said.rpartition("next:")[2])[1:]


# stage, options that it does not read there, and what helps instead
UNREAD = [
    ("evaluate", "model.test_size=24", "eval.image_size=24"),
    ("label", "model.test_size=24", "teacher.image_size=24"),
    *[(stage, option, "") for stage in ("label", "evaluate", "predict", "export", "report", "select")
      for option in ("model.width=0.5", "model.pretrained=true", "noise.dropout=0.3", "student.steps=3",
                     "data.labeled_per_class=7", "+data.source.root=x", "iterate.control=true")],
    *[(stage, "data.pictures.small=false", "") for stage in ("predict", "export", "report", "select")],
    *[(stage, "seed=3", "") for stage in ("label", "evaluate", "predict", "export", "report")],
    ("predict", "model.test_size=24", ""), ("predict", "model.depth=2", ""), ("label", "teacher.targets=hard", ""),
    ("select", "trainer.workers=3", ""), ("label", "select.min_confidence=0.9", ""), ("label", "eval.batch_size=3", ""),
    ("label", "trainer.precision=bf16-mixed", ""), ("predict", "trainer.precision=bf16-mixed", ""),
    ("label", "label.ray.cpus=2", ""),
    ("label", "run_dir=r", "teacher.predictions=r"), ("select", "run_dir=r", "teacher.selection=r"),
    ("evaluate", "run_dir=r", "evaluate.output=r"), ("export", "run_dir=r", "export.output=r"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "option", "instead"), UNREAD)
def test_an_option_that_the_stage_does_not_read_is_refused_and_the_command_given_without_it(
    stage, option, instead, teacher, tmp_path, capsys
):
    source = {"label": "teacher.run", "select": "teacher.run", "report": "run_dir"}.get(stage, "model.checkpoint")
    command = refused(capsys, stage, f"{source}={teacher}", option)
    assert command == [stage, f"{source}={teacher}", *([instead] if instead else [])]
    assert not list(tmp_path.iterdir())
    cli.run_stage(stage, command[1:], show_only=True)


TAKES_A_RUN = {"label": "teacher.run", "select": "teacher.run", "report": "run_dir"}


@pytest.mark.parametrize("stage", ["label", "select", "evaluate", "predict", "export", "report"])
def test_a_run_in_the_option_of_another_stage_is_advised_in_that_of_this_one(stage, teacher, tmp_path, capsys):
    own = TAKES_A_RUN.get(stage, "model.checkpoint")
    for option in {"model.checkpoint", "teacher.run", "iterate.teacher"} - {own}:
        assert refused(capsys, stage, f"{option}={teacher}") == [stage, f"{own}={teacher}"]
    named = refused(capsys, stage, f"{own}={teacher}", "iterate.teacher=other")
    assert named == [stage, f"{own}={teacher}"], "it has one already"
    inside = teacher / "checkpoints" / "trained.safetensors"
    if own != "model.checkpoint":
        assert refused(capsys, stage, f"model.checkpoint={inside}") == [stage, f"{own}={teacher}"]
    alone = shutil.copy(inside, tmp_path / "my network.safetensors")
    advised = refused(capsys, stage, f"iterate.teacher={alone}")[1:]
    assert advised == {"label": [f"teacher.checkpoint={alone}"], "select": [], "report": []}.get(
        stage, [f"{own}={alone}"]
    )


def test_options_of_ray_and_of_xla_are_read_there(teacher):
    for options in (["label.engine=ray", "label.ray.cpus=2"], ["trainer=xla_cpu", "trainer.precision=bf16-mixed"]):
        cli.run_stage("label", [f"teacher.run={teacher}", *options], show_only=True)


def test_an_evaluation_in_another_precision_is_another(teacher, tmp_path):
    asked = [f"model.checkpoint={teacher}", f"evaluate.output={tmp_path / 'e'}", *CPU]
    cli.run_stage("evaluate", asked)
    with pytest.raises(NstError, match=r"trainer\.precision: 32-true before, bf16-mixed now"):
        cli.run_stage("evaluate", [*asked, "trainer.precision=bf16-mixed"])


def test_the_command_that_is_advised_asks_at_that_size(teacher, tmp_path, capsys):
    asked = ("evaluate", f"model.checkpoint={teacher}", "model.test_size=24", f"evaluate.output={tmp_path / 'e'}", *CPU)
    stage, *options = refused(capsys, *asked)
    cli.run_stage(stage, options)
    assert read_json(tmp_path / "e" / "result.json")["image_size"] == 24


def test_a_network_alone_says_its_size_and_width_too(teacher, tmp_path, capsys):
    alone = shutil.copy(teacher / "checkpoints" / "trained.safetensors", tmp_path / "alone.safetensors")
    for network in (alone, f"[{alone}]", f"[{teacher},{alone}]", "resnet18"):
        for option in ("model.test_size=24", "model.width=0.5"):
            with pytest.raises(UsageError, match=r"changes nothing: nst predict does not read it"):
                cli.run_stage("predict", [f"model.checkpoint={network}", option])


def test_an_option_may_repeat_what_the_run_says_what_holds_anyway_and_what_others_refer_to(teacher, digits, capsys):
    run = f"model.checkpoint={teacher}"
    for option in ("model.test_size=12", "model.width=0.25", "student.steps=40", "student.unlabeled_ratio=3", "seed=0"):
        assert shown(capsys, "evaluate", run, option)
    assert shown(capsys, "predict", f"model.checkpoint=[{teacher}]", "model.test_size=12")
    named = "model.checkpoint=" + str(teacher.parent).replace(teacher.parent.name, "${student.steps}")
    assert shown(capsys, "evaluate", named, "student.steps=7", "data=digits")
    assert shown(capsys, "label", f"teacher.run={teacher}", "experiment=digits_demo", "student=small", "noise=none")
    assert shown(capsys, "label", f"teacher.run={teacher}", "data=digits", "data.labeled_per_class=7")
    assert shown(capsys, "train", f"teacher.run={teacher}", "student.steps=7", "iterate.control=true")


def test_advice_repeats_no_option_that_another_stage_does_not_read(teacher, monkeypatch):
    monkeypatch.setattr("nst.advice._command", [])
    note_command(["train", f"teacher.run={teacher}", "student.steps=7", "data.root=x", "trainer=cpu",
                  "trainer.precision=bf16-mixed"])  # fmt: skip
    assert (
        whole("nst label overwrite=true") == f"nst label teacher.run={teacher} data.root=x trainer=cpu overwrite=true"
    )
    assert whole("nst iterate").endswith("student.steps=7 data.root=x trainer=cpu trainer.precision=bf16-mixed")


@pytest.mark.parametrize("stage", ["doctor", "plan"])
def test_doctor_and_plan_look_at_options_and_not_at_the_digits_for_a_run(teacher, digits, stage):
    """Of a run without its options they would look at the default data, which are the digits."""
    for named in (f"run_dir={teacher}", f"model.checkpoint={teacher}"):
        with pytest.raises(UsageError, match="looks at options") as caught:
            cli.run_stage(stage, [named])
        assert f"data.root={digits}" in shlex.split(caught.value.next)
        assert not [word for word in shlex.split(caught.value.next) if word.startswith("run_dir=")]
    given = shlex.split(caught.value.next)
    assert given[:2] == ["nst", stage]
    assert cli.run_stage(stage, [f"run_dir={teacher}", *given[2:]]) == 0
