"""What README, CONTRIBUTING and docs/ say is true: commands compose, some are run, links lead somewhere, the Dockerfile
fits."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from PIL import Image

from nst.atomic import sha256_file
from nst.checking import kind_of
from nst.cli import dispatch
from nst.cloud import commands as tpu
from nst.config import compose_config, group_choices, groups, job_from, option_names, plain
from nst.data.shard_set import ShardSet
from nst.flags import flags_as_options
from nst.report import findings
from nst.settings.job import GenerationsJob
from nst.settings.learning import StudentOptions
from nst.stage_table import STAGES
from nst.stages.generations import configurations
from nst.training.phases import Length, schedule_for
from tests import forked
from tests.composing import made
from tests.conftest import TINY, read_by

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
README = (ROOT / "README.md").read_text()
STARTERS = (".venv/bin/torchrun", "srun")
NO_OVERRIDES = {"-m", "--multirun", "--cfg", "--help", "-h"}


def commands(page: Path, section: str = "") -> Iterator[str]:
    """The commands in the page's bash blocks, one a line, placeholders like <folder> filled in.

    Args:
        section: begin of the heading of the only section that is read; all are if it is empty.
    """
    text = page.read_text()
    if section:
        text = re.split(r"^## ", text.split(f"\n## {section}")[1], flags=re.MULTILINE)[0]
    for block in re.findall(r"^ *```bash\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"<[^<>]+>", "placeholder", line), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and words[0] in STARTERS:  # of the ranks of a command
                words = ["nst", *words[[Path(word).name for word in words].index("nst") + 1 :]]
            if words:
                yield shlex.join(words)


COMMANDS = [(page.name, command) for page in PAGES for command in commands(page)]
# extending.md makes choices that are not in conf/: tests/test_extending.py composes its commands
OURS = [
    (page, command) for page, command in COMMANDS if re.match(r"(bin/\w+|nst)( |$)", command) and page != "extending.md"
]
# appended to a command that is run; it still says all else itself
SMALLEST = [
    *(option for option in TINY if not option.startswith(("experiment=", "eval=", "model.width="))),
    "eval.max_images=10",
    "eval.max_clips=2",
    "select.min_confidence=0",
    "select.allow_empty_classes=true",
]


def swept(item: Override) -> list[str]:
    """The values of a swept option; of a pattern the first and last file that it fits."""
    pattern = item.value()
    if not isinstance(pattern, Glob):
        return list(item.sweep_string_iterator())
    fitting = pattern.filter(group_choices(item.key_or_group))
    assert fitting, item.input_line
    return [fitting[0], fitting[-1]]


def jobs(overrides: list[str]) -> Iterator[list[str]]:
    """Every combination of the swept options, as `-m` runs them."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    yield from map(
        list,
        itertools.product(
            *(
                [f"{item.get_key_element()}={value}" for value in swept(item)]
                if item.is_sweep_override()
                else [item.input_line or ""]
                for item in parsed
            )
        ),
    )


def check_stage(stage: str, options: list[str]) -> int:
    """Composes and resolves all that `nst <stage> <options>` would run; how many configurations that were."""
    assert stage in STAGES
    overrides = flags_as_options(stage, [item for item in options if item not in NO_OVERRIDES])
    sweeps = "-m" in options or "--multirun" in options
    composed = 0
    for job in jobs(overrides) if sweeps else [overrides]:
        config = compose_config([*job, f"stage={stage}"])
        config.overrides = job
        for part in [config, *(configurations(job_from(GenerationsJob, config)) if stage == "iterate" else [])]:
            assert plain(part)
            composed += 1
    return composed


def test_there_are_pages_and_commands_to_check():
    assert {"README.md", "CONTRIBUTING.md", "own_data.md", "reading_results.md", "architecture.md", "tpu.md"} <= {
        page.name for page in PAGES
    }
    stages = {shlex.split(command)[1] for _, command in OURS if command.startswith(("bin/nst ", "nst "))}
    assert stages == set(STAGES), "every stage is shown at work"
    assert {"bin/demo", "bin/test"} <= {command for _, command in OURS}
    shown = {shlex.split(command)[1] for _, command in OURS if command.startswith("bin/tpu ")}
    assert shown == set(re.findall(r"^    (\w+)  ", tpu.parser().format_help(), re.MULTILINE))


@pytest.mark.parametrize(("page", "command"), OURS)
def test_documented_command_composes(page: str, command: str, capsys: pytest.CaptureFixture[str]):
    program, *options = shlex.split(command)
    if program == "bin/tpu":
        assert tpu.main([options[0], "--dry-run", *options[1:]]) == 0
        assert "gcloud compute tpus" in capsys.readouterr().out
        if options[0] != "run":
            return
        program, options = "nst", options[options.index("--") + 1 :]
    if program == "bin/demo":
        program, options = "nst", ["iterate", "experiment=digits_demo", *options]
    if program in ("nst", "bin/nst"):
        if options and options[0].startswith("-"):
            assert options[0] in ("--help", "-h", "--version")
        else:
            assert check_stage(options[0], options[1:]) > 0
        return
    assert (ROOT / program).stat().st_mode & 0o111, f"{program} is not there to be run"
    assert all((ROOT / path).exists() for path in options if path.startswith("tests/"))


def test_a_sweep_is_checked_job_by_job_and_a_wrong_one_is_noticed():
    assert check_stage("train", ["-m", "noise=full,none", "seed=0,1"]) == 4
    with pytest.raises(Exception, match="unknwon"):
        check_stage("train", ["-m", "noise=full,unknwon"])
    with pytest.raises(Exception, match=r"model\.widht"):
        check_stage("iterate", ["iterate.generations=[['model.widht=1']]"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_named_in_the_text_exist(page: Path):
    """`group=choice` and `a.b=value` between backticks."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for option in re.findall(r"`([a-z][\w.]*=[^`\n]*)`", text):
        name, _, value = option.partition("=")
        if re.search(r"<[^<>]+>|…|^N?$", value) and name not in groups():  # stands for a value
            assert kind_of(name) is not None, option
        elif value and name in groups():
            assert compose_config([option]), option
        elif name not in groups():
            # choices that have all options of their group
            assert compose_config(["data=folder", "eval=robustness", option]), option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_images_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings}, target


def test_the_findings_are_what_the_raw_numbers_say():
    """`bin/nst report --findings` makes the table anew."""
    assert f"\n{findings.of_folder(ROOT / 'docs' / 'results')}\n" in (ROOT / "docs" / "results.md").read_text()


def test_every_room_and_module_of_the_house_stands_in_its_picture():
    """Modules inside a room are told by their own first lines."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    names = {path.stem if path.suffix else f"{path.name}/" for path in (ROOT / "nst").iterdir()}
    assert not [name for name in names - {"__init__", "__main__", "__pycache__/"} if f"`{name}`" not in page]


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\(([^)#\s]+)", README))
    assert not [page.name for page in PAGES if page.parent.name == "docs" and f"docs/{page.name}" not in linked]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_path_of_somebodys_machine(page: Path):
    found = re.findall(r"(?<![\w.:/])/(?:home|root|work|mnt|media|Users|tmp|data|scratch|var)/\S*", page.read_text())
    assert not found


def test_readme_is_short_and_starts_with_own_pictures_and_the_demo():
    lines = README.splitlines()
    assert len(lines) <= 120
    picture = "docs/images/digits_generations.png"
    demo = ("bin/demo", "bin/test", picture, "<!-- demo table -->", "<!-- /demo table -->")
    parts = ("git clone", "experiment=photos", "nst predict", "| EuroSAT, top-1 %", *demo, "## What it does")
    places = [README.index(part) for part in parts]
    assert places == sorted(places)


def test_a_page_lists_every_configuration_group():
    table = (ROOT / "docs" / "using.md").read_text().partition("| group |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == groups()


def test_paths_of_the_repository_named_in_the_text_exist():
    named = {
        path
        for page in PAGES
        for path in re.findall(r"`((?:nst|conf|bin|tests|docker|docs)/[\w./]*)`", page.read_text())
    }
    assert len(named) > 10
    assert not [path for path in named if not (ROOT / path).exists()]


OWN_DATA = ROOT / "docs" / "own_data.md"
# appended to the commands of docs/own_data.md: what makes them a matter of seconds, and needs no weights
SECONDS = [
    *("model.name=test_resnet", "model.pretrained=false", "model.train_size=32", "model.test_size=32"),
    *("student.steps=2", "student.labeled_batch_size=4", "student.unlabeled_ratio=1", "trainer.workers=0"),
    "iterate.generations=[[],[],[]]",
]


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders that docs/own_data.md draws, in the working directory."""
    rng = np.random.default_rng(0)
    for folder in ("train/daisy", "train/rose", "test/daisy", "test/rose", "unlabeled/any", "unlabeled"):
        file = tmp_path / "placeholder" / folder / "0.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        for number in range(12):
            pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
            pixels[..., 0] //= 4 if "rose" in folder else 1
            Image.fromarray(pixels).save(file.with_name(f"{number}.png"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "placeholder"


def test_every_command_for_own_pictures_runs(
    photographs: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
):
    """From the folders that the page draws to predictions that are corrected and given back."""
    ran = []
    for command in commands(OWN_DATA):
        words = shlex.split(command)[1:]
        if any(word.startswith("experiment=eurosat") for word in words):
            continue  # a download
        words = ["trainer=cpu" if word == "trainer=gpu" else word for word in words]
        if "data=csv" in words:
            correct(Path("runs/mine/best/predict/unlabeled/predictions.csv"))
        start = "model.pretrained=false"  # unless the command starts from a run of its own
        known = [option for option in SECONDS if option != start or "model.pretrained=runs" not in command]
        known = known if words[0] == "iterate" else []
        assert dispatch([*words, *known]) == 0, command
        ran.append((words[0], capsys.readouterr().out))
        if words[0] == "iterate":
            request.getfixturevalue("undrawn")  # as the figures of the first report have been
    assert [stage for stage, _ in ran] == ["shard", "iterate", "iterate", "predict", "iterate", "iterate", "iterate"]
    assert "tensors from runs/mine/best; the classifier of the same classes too" in ran[5][1]
    assert re.search(
        r"datasets/mine-seed0: 14 labeled, 24 unlabeled, 24 test, 10 validation images of 2 classes", ran[0][1]
    )
    for said in ("selected labels: ", " the control", "best: gen", "ctrl", "report: runs/mine/report.html"):
        assert said in ran[1][1]
    sets = {
        name: ShardSet.open(f"datasets/mine-seed0/{name}") for name in ("labeled", "unlabeled", "test", "validation")
    }
    counts = {"labeled": 14, "unlabeled": 24, "test": 24, "validation": 10}
    assert {name: shards.samples for name, shards in sets.items()} == counts
    assert sets["labeled"].classes == ("daisy", "rose")
    assert not sets["unlabeled"].labeled
    again = (
        ShardSet.open("datasets/again-seed0/labeled").samples,
        ShardSet.open("datasets/again-seed0/unlabeled").samples,
    )
    assert again == (20 - 2 - 10, 4), "20 with a class, of which the test and validation pictures"
    assert Path("runs/again/report.html").is_file()


def correct(table: Path) -> None:
    """As a person would: ten pictures of each class, and four of which nothing can be said."""
    lines = [line.split(",") for line in table.read_text().splitlines()]
    for number, cells in enumerate(lines[1:]):
        cells[1] = "" if number < 4 else ("daisy", "rose")[number % 2]
    table.write_text("\n".join(map(",".join, lines)))


def test_the_hints_for_own_pictures_are_taken(photographs: Path, capsys: pytest.CaptureFixture[str]):
    """--exclude and --verify after the command that makes shards; fewer pictures to compare with."""
    make = next(shlex.split(command)[1:] for command in commands(OWN_DATA))
    for more in ([], ["--exclude"], ["--verify"]):
        assert dispatch([*make, "data.validation_samples=2", *more]) == 0
    assert "as index.json lists them" in capsys.readouterr().out


def test_doctor_has_nothing_against_the_recipe_for_photographs(photographs: Path, capsys: pytest.CaptureFixture[str]):
    """With the page's own 15 labels of two classes, beside those for validation, and pictures of usual size."""
    for name in ("daisy", "rose"):
        for number in range(20):
            pixels = np.full((240, 320, 3), (number, 2 * number, len(name)), np.uint8)
            Image.fromarray(pixels).save(photographs / "train" / name / f"{number}.png")
    options = ["experiment=photos", "name=mine", f"data.source.root={photographs}"]
    assert dispatch(["shard", *options]) == 0
    assert "30 labeled" in capsys.readouterr().out
    assert dispatch(["doctor", *options]) == 0
    assert capsys.readouterr().out.startswith("nothing found")


def smallest(words: list[str]) -> list[str]:
    """A command with those of the `SMALLEST` options that it has."""
    known = option_names(words)
    others = ("select.",) if words[0] == "train" else ()  # which a training without a teacher refuses
    return [*words, *(option for option in read_by(words[0], SMALLEST)
                      if option.partition("=")[0] in known and not option.startswith(others))]  # fmt: skip


def test_the_loop_by_hand_and_both_exports_run(tmp_path: Path):
    """Every stage as a command of its own, in a folder of its own."""
    loop = [*commands(ROOT / "docs" / "using.md", "The loop by hand"), *commands(ROOT / "docs" / "export.md", "Out")]
    for command in loop:
        words = smallest(shlex.split(command.replace("placeholder", "runs/student"))[1:])
        for given in [words, [*words, "--verify"]] if words[0] == "shard" else [words]:
            done = forked.run(given, tmp_path)
            assert done.returncode == 0, (given, done.stderr)
            assert done.stderr == "" or words[0] == "export", given
            assert max((len(line) for line in done.stdout.splitlines()), default=0) < 200, given
        if words[0] == "evaluate":
            assert "top-1" in done.stdout
    assert [shlex.split(command)[1] for command in loop] == [
        *("shard", "train", "label", "select", "train", "evaluate", "report", "doctor", "export", "export")
    ]
    made = [
        *(f"datasets/digits-5-seed0/{part}/index.json" for part in ("labeled", "unlabeled", "test")),
        "runs/teacher/checkpoints/trained.safetensors",
        "runs/teacher/predictions/predictions.json",
        "runs/teacher/selection/selection.json",
        "runs/student/checkpoints/trained.safetensors",
        "runs/student/evaluation/result.json",
        "runs/by_hand/report.html",
        "runs/student/export/timm/model.safetensors",
        "runs/student/export/timm/README.md",
        "runs/student/export/onnx/model.onnx",
    ]
    assert not [name for name in made if not (tmp_path / name).is_file()]
    student = json.loads((tmp_path / "runs/student/started.json").read_text())["inputs"]
    assert student["teacher"]["weights"] == sha256_file(tmp_path / "runs/teacher/checkpoints/trained.safetensors")
    assert student["architecture"]["width"] == 0.5
    assert json.loads((tmp_path / "runs/student/evaluation/result.json").read_text())["robustness"]


IMAGENET = list(commands(ROOT / "docs" / "imagenet.md", "4. Teacher"))
IMAGES = 1_281_167  # ImageNet's labeled ones


def test_teacher_and_student_of_imagenet_follow_the_papers_recipes():
    """As the page says: what the recipes are, how long they take, where the rate ends."""
    teacher, student = (compose_config(shlex.split(command)[2:]) for command in IMAGENET if " train " in command)
    for cfg, name, ratio, steps in ((teacher, "b0", 1, 1_751_595), (student, "b1", 3, 7_006_382)):
        assert (cfg.model.name, cfg.student.unlabeled_ratio) == (f"efficientnet_{name}", ratio)
        assert (cfg.student.epochs, cfg.noise.randaugment.num_ops) == (700, 0)
        assert Length.of(made(StudentOptions, cfg.student), IMAGES).steps == steps
    assert (teacher.teacher.run, student.teacher.run) == (None, teacher.run_dir)
    alone = compose_config(["data=imagenet", "model=efficientnet_b1"])
    assert (alone.student.epochs, alone.noise.randaugment.magnitude, alone.noise.randaugment.num_ops) == (350, 27, 2)
    short = ["student.epochs=90"]
    gentle = [*short, "student.schedule.final_rate_per_256=0.0002"]
    rates = [rate_at_the_end(["student=efficientnet_b1", *more]) for more in ([], short, gentle)]
    assert rates == pytest.approx([0.00019, 0.0092, 0.00016], rel=0.03)


def rate_at_the_end(options: list[str]) -> float:
    recipe = made(StudentOptions, compose_config(options).student)
    length = Length.of(recipe, IMAGES)
    last = schedule_for(recipe, length).learning_rate(length.steps - 1)
    return last * 256 / recipe.labeled_batch_size


def test_the_commands_for_imagenet_run(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On digits and a CPU, with small networks; the doctor finds no error in the student's options."""
    monkeypatch.chdir(tmp_path)
    small = [
        *("model.width=0.25", "model.depth=0.25", "model.train_size=32", "model.test_size=32", "student.steps=4"),
        *("trainer.workers=0", f"data.root={digits}"),
    ]
    own = {"label": ["label.keep=0"], "select": ["select.min_confidence=0", "select.allow_empty_classes=true"]}
    for command in IMAGENET:
        words = shlex.split(command.replace("placeholder", str(digits / "unlabeled")))[1:]
        words = ["trainer=cpu" if word == "trainer=gpu" else word for word in words]
        if words[0] == "train":
            assert dispatch(["doctor", *words[1:], *small]) == 0, command
        assert dispatch([*words, *small, *own.get(words[0], [])]) == 0, command
    student = json.loads((tmp_path / "runs/b1/started.json").read_text())["inputs"]
    assert student["recipe"]["unlabeled_ratio"] == 3
    assert student["teacher"]["selection"]
    assert json.loads((tmp_path / "runs/b1/evaluation/result.json").read_text())["samples"] == 100


def stages_of_dockerfile() -> dict[str, str]:
    """Instructions of every named stage and those it begins with, continuation lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    parts = re.split(r"^FROM +(\S+) +AS +(\w+)$", text, flags=re.MULTILINE)
    stages: dict[str, str] = {}
    for base, name, body in zip(*[iter(parts[1:])] * 3, strict=True):
        stages[name] = stages.get(base, f"FROM {base}") + body
    return stages


@pytest.mark.parametrize(
    ("target", "base"), [("cpu", "python:3.11-slim"), ("gpu", "nvidia/cuda:"), ("tpu", "python:3.11-slim")]
)
def test_container_target_installs_by_bin_install_and_is_not_root(target: str, base: str):
    stage = stages_of_dockerfile()[target]
    assert stage.startswith(f"FROM {base}")
    assert re.search(r"^RUN .*\bbin/install$", stage, re.MULTILINE)
    assert re.findall(r"^USER (\S+)$", stage, re.MULTILINE) == ["nst"]
    assert stage.index("bin/install") < stage.index("\nUSER ")
    assert 'ENTRYPOINT ["bin/nst"]' in stage


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_containers_have_the_compiler_that_trainer_compile_needs(target: str):
    assert re.search(r"^RUN .*apt-get install .* g\+\+ ", stages_of_dockerfile()[target], re.MULTILINE)


def test_the_container_for_tpus_is_that_of_the_cpu_with_the_tpu_runtime():
    stages = stages_of_dockerfile()
    assert re.search(r"^RUN NST_EXTRAS=tpu bin/install$", stages["tpu"], re.MULTILINE)
    assert "PJRT_DEVICE=TPU" in stages["tpu"]
    assert "tpu" not in stages["cpu"].lower()
    assert list(stages)[-1] == "cpu", "the last target is what a build without --target makes"


def test_the_commands_in_the_head_of_the_dockerfile_are_true():
    stages = stages_of_dockerfile()
    built = re.findall(r"^# +docker build .*--target (\w+) -t nst:(\w+) ", DOCKERFILE, re.MULTILINE)
    assert {target for target, _ in built} == {"cpu", "gpu", "tpu"} <= set(stages)
    run = re.findall(r"^# +docker run (.*) nst:(\w+) (\w+) (.*)$", DOCKERFILE, re.MULTILINE)
    assert {target for _, target, _, _ in run} == {"cpu", "gpu", "tpu"}
    for flags, target, stage, options in run:
        assert options == "--help" or check_stage(stage, options.split()) > 0
        assert ("--privileged --net=host" in flags) == (target == "tpu")


def test_container_copies_what_the_installation_needs():
    copied = re.findall(r"^COPY (?!--from)(.+) /\S*$", DOCKERFILE, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    locks = {f"requirements{which}.lock" for which in ("", "-xla", "-tpu")}
    assert names >= {"pyproject.toml", *locks, "bin", "conf", "nst"}
    assert {"README.md", "LICENSE"} <= names, "pyproject.toml names them"
    assert all((ROOT / name).exists() for name in names)
