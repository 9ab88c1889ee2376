"""What a report answers: is it better, which labels are wrong, which classes fail, and what to try next."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from nst.atomic import atomic_path, write_config, write_json
from nst.config import compose_config
from nst.documents import read_json
from nst.errors import NstError
from nst.evaluation import mistakes
from nst.intervals import unpaired
from nst.report import class_tables, labels_section, next_steps, page, sections, summary, terminal
from nst.report.generation_rows import control_row, rows
from nst.report.records import open_runs, opening
from nst.stages import report
from nst.training.callbacks import training_note
from tests.reported import reported
from tests.test_report import TEST, UNLABELED, make_data, make_generation, make_run, page_of, words

CLASSES = ("cat", "dog & co", "<owl>")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path, CLASSES)


def add_control(directory: Path, right: float, tmp_path: Path) -> None:
    truth = {"test": np.arange(60) % len(CLASSES), "unlabeled": np.arange(UNLABELED) % len(CLASSES)}
    make_generation(directory / "control", tmp_path / "data", truth, CLASSES, right=right, labels=False)


def wrong_keys(generation: Path) -> set[str]:
    return {entry["key"] for entry in read_json(generation / "evaluation" / "result.json")["mistakes"]}


# ---- is it better ------------------------------------------------------------------------------------------------


def test_a_gain_has_the_interval_of_the_images_that_changed(run: Path):
    first, _, last = rows(open_runs(run)[0])
    before, after = wrong_keys(run / "gen0"), wrong_keys(run / "gen2")
    whole, difference = 62, len(before - after) - len(after - before)
    half = 1.959964 * np.sqrt(len(before ^ after) + 1 - difference**2 / whole) / whole
    assert last["gain_low"] == pytest.approx(100 * (difference / whole - half), abs=1e-3)
    assert last["gain_high"] == pytest.approx(100 * (difference / whole + half), abs=1e-3)
    assert first["gain_low"] is None, "nothing is compared with itself"


def test_without_the_mistakes_or_on_other_images_the_interval_is_of_two_accuracies(run: Path):
    narrow = rows(open_runs(run)[0])[-1]
    (run / "gen0" / "evaluation" / "mistakes.csv").rename(run / "kept.csv")
    first, _, wide = rows(open_runs(run)[0])
    assert (wide["gain_low"], wide["gain_high"]) == unpaired(first["top1"], wide["top1"], 60, 60)
    assert wide["gain_low"] != narrow["gain_low"]
    (run / "kept.csv").rename(run / "gen0" / "evaluation" / "mistakes.csv")
    assert rows(open_runs(run)[0])[-1] == narrow
    write_json(run / "gen0" / "evaluation" / "started.json", {"stage": "evaluate", "inputs": {"test": "another"}})
    assert rows(open_runs(run)[0])[-1] == wide


@pytest.mark.usefixtures("undrawn")
def test_a_gain_within_its_interval_is_not_praised(tmp_path: Path):
    directory = make_run(tmp_path, CLASSES, (0.7, 0.71))
    reported(directory)
    text = words(page_of(directory))
    assert "that is no sure difference." in text
    assert "which these images cannot tell from no difference" in text
    assert "60 test images cannot tell the last student from its teacher" in text
    figure = sections.generations(open_runs(directory)[0], rows(open_runs(directory)[0]), None).blocks[1]
    assert figure.figure.get_suptitle().startswith("No sure difference between students and teacher")  # type: ignore[union-attr]


@pytest.mark.usefixtures("undrawn")
def test_the_control_is_a_row_and_is_compared_with_the_last_student(run: Path, tmp_path: Path):
    add_control(run, 0.85, tmp_path)
    result = reported(run)
    text = words(page_of(run))
    (control,) = result["controls"]
    student = result["rows"][0][-1]
    assert control["beaten_by"] == student["top1"] - control["top1"]
    assert f"Student 2 has {abs(control['beaten_by']):.2f} points" in text
    assert "than the control, which learned from the labels alone (95 % interval" in text
    assert "control small w0.5 d0.5 0.66M 50" in text
    assert [row["run"] for row in result["rows"][0]] == ["gen0", "gen1", "gen2"], "it is no generation"
    assert f"Over the control {control['beaten_by']:+.2f} points over labels alone, 95 % interval" in text
    assert "The control learned from the labels alone." in text, "below the figure"
    lines = (run / "report.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines] == ["run", "gen0", "gen1", "gen2", "control"]


def test_the_generation_that_validation_chose_is_told(run: Path):
    best = {"generation": 1, "validation_images": 1200, "validation_top1": 81.25}
    write_json(run / "result.json", {"stage": "iterate", "best": best})
    experiment = open_runs(run)[0]
    text = sections.generations(experiment, rows(experiment), None).text
    assert "Best of them on the 1,200 validation images, and chosen by these alone: student 1, 81.25 %." in text


@pytest.mark.usefixtures("undrawn")
def test_what_was_foretold_of_a_selection_stands_in_the_report(run: Path):
    """As the terminal said it before the student trained: how right, with an interval, and what speaks against it."""
    path = run / "gen0" / "selection" / "selection.json"
    document = read_json(path)
    right = {"share": 0.43, "low": 0.11, "high": 0.83, "pictures": 7}
    shares = dict.fromkeys(("labeled", "answers", "selected"), [1 / 3] * 3)
    told = {"right": right, "validation_pictures": 15, "shares": shares, "per_class": [[1, 2]] * 3, "elsewhere": 0.5,
            "missing": ["<owl>"]}  # fmt: skip
    relaxed = {"class": "cat", "labeled": 20, "sure": 0, "taken": 3, "from_confidence": 0.3}
    write_json(path, {**document, "forecast": told, "relaxed": [relaxed, {**relaxed, "class": "<owl>", "taken": 0}]})
    reported(run)
    text = words(page_of(run))
    for said in (
        "Selected labels: 43 % right (95 % interval 11 to 83, 7 validation pictures), foretold of the teacher before",
        "The teacher was sure of too few images of cat; their surest were taken.",
        "Warning: the selected labels are too often wrong: 43 % right",
        "Warning: the selection moves 50 % of its entries to other classes",
        "Warning: nothing is selected of 1 of the classes: '<owl>'",
    ):
        assert said in text, said
    write_json(path, {name: value for name, value in document.items() if name not in ("forecast", "relaxed")})
    reported(run)
    assert "foretold of the teacher" not in words(page_of(run)), "a selection of an older version"


def test_a_control_that_goes_on_is_not_told(run: Path, tmp_path: Path):
    add_control(run, 0.85, tmp_path)
    (run / "control" / "DONE").unlink()
    experiment = open_runs(run)[0]
    assert control_row(experiment, rows(experiment)) is None


def test_runs_that_the_test_images_cannot_tell_apart_are_named(tmp_path: Path):
    for name, right in (("seed=0", 0.8), ("seed=1", 0.81), ("noise=none", 0.3)):
        make_run(tmp_path, CLASSES, (0.5, right), name=name)
    experiments = open_runs(tmp_path)
    rows_of = [rows(experiment) for experiment in experiments]
    text = sections.comparison(experiments, rows_of, experiments[0]).text
    best, other = sorted((entries[-1] for entries in rows_of[1:]), key=lambda row: -row["top1"])
    assert (
        f"by top-1, {best['experiment']}, cannot be told apart on these test images from {other['experiment']}." in text
    )
    alone = sections.comparison(experiments[:2], rows_of[:2], experiments[0]).text
    assert "is better than all others by more than the test images alone explain" in alone


@pytest.mark.parametrize(("data", "told"), [
    ({"name": "digits"}, "of digits"), ({"name": "folder", "source": {"root": "/home/me/my birds"}}, "of my birds"),
])  # fmt: skip
def test_own_pictures_have_the_name_of_their_folder(run: Path, data: dict[str, Any], told: str):
    for folder in run.glob("gen*"):
        write_config(folder / "config.yaml", {"name": "demo", "data": data})
    experiment = open_runs(run)[0]
    assert f"50 labeled images {told}. " in summary.sentence(experiment, rows(experiment))


# ---- labels ------------------------------------------------------------------------------------------------------


def test_labels_by_class_are_those_of_the_selection(run: Path):
    teacher = open_runs(run)[0].generations[1]
    table = labels_section.labels_by_class(teacher)
    document = read_json(run / "gen1" / "selection" / "selection.json")
    assert [row[0] for row in table.rows] == list(CLASSES)
    for row, entry, right in zip(
        table.rows, document["per_class"], document["accuracy"]["after"]["per_class"], strict=True
    ):
        assert row[1] == f"{entry['lowest_confidence']:.2f}"
        assert [int(cell) for cell in row[2:5]] == [entry["labeled"], entry["selected"], entry["copies_total"]]
        assert row[5] == f"{entry['copies_total'] / entry['selected']:.1f}"
        assert row[7] == f"{100 * right:.1f}"


@pytest.mark.usefixtures("undrawn")
def test_the_surest_of_the_selected_and_wrong_come_first(run: Path):
    reported(run)
    labeled = open_runs(run)[0].generations[1].labeled
    assert labeled is not None
    truth = np.array([int(key[-4:]) % len(CLASSES) for key in labeled.key])
    wrong = (labeled.copies > 0) & (labeled.label != truth)
    html = page_of(run)
    shown = html[html.index("<h3>Selected and wrong</h3>") : html.index("<h3>Sure</h3>")]
    assert f"{wrong.sum()} of the {(labeled.copies > 0).sum()} images" in words(shown)
    order = sorted(np.flatnonzero(wrong), key=lambda row: (-labeled.confidence[row], labeled.key[row]))
    assert [key in shown for key in labeled.key[order]] == [True] * len(order)
    places = [shown.index(f'title="{labeled.key[row]}"') for row in order]
    assert places == sorted(places)
    assert shown.count("✗ is") == len(order) > 0


def test_the_confusion_of_labels_counts_selected_images_once(run: Path):
    labeled = open_runs(run)[0].generations[1].labeled
    assert labeled is not None
    matrix = labeled.confusion()
    assert matrix is not None
    truth = np.array([int(key[-4:]) % len(CLASSES) for key in labeled.key])
    for row in range(len(CLASSES)):
        for column in range(len(CLASSES)):
            counted = (labeled.copies > 0) & (truth == row) & (labeled.label == column)
            assert matrix[row, column] == counted.sum()


@pytest.mark.usefixtures("undrawn")
def test_a_sweep_of_trainings_tells_what_their_teacher_labeled(tmp_path: Path):
    data = tmp_path / "data"
    truth = make_data(data, CLASSES)
    sha = make_generation(tmp_path / "teacher", data, truth, CLASSES, right=0.7)
    for name in ("noise=full", "noise=none"):
        given = {"run": str(tmp_path / "teacher"), "predictions": None, "selection": None}
        make_generation(tmp_path / "sweep" / name, data, truth, CLASSES, right=0.8, teacher=sha, labels=False,
                        more={"teacher": given})  # fmt: skip
    result = reported(tmp_path / "sweep")
    totals = read_json(tmp_path / "teacher" / "selection" / "selection.json")["totals"]
    for (row,) in result["rows"]:
        assert (row["unlabeled"], row["unlabeled_with_copies"]) == (totals["selected"], totals["copies"])
        assert row["pseudo_label_accuracy"] is not None
    text = words(page_of(tmp_path / "sweep"))
    assert "labels were made online" not in text
    assert f"Of {totals['images']} images that the teacher labeled, {totals['selected']} were selected" in text
    assert "<h3>Selected and wrong</h3>" in page_of(tmp_path / "sweep")


@pytest.mark.usefixtures("undrawn")
def test_a_sweep_of_trainings_that_were_not_tested_says_so(tmp_path: Path):
    data = tmp_path / "data"
    truth = make_data(data, CLASSES)
    for name in ("noise=full", "noise=none"):
        run = tmp_path / "my sweep" / name
        make_generation(run, data, truth, CLASSES, right=0.8)
        shutil.rmtree(run / "evaluation")
        write_json(run / "result.json", {**read_json(run / "result.json"), "top1": 50.0})
    seen = reported(tmp_path / "my sweep")["rows"]
    assert (
        "not evaluated, top-1 of what the training held out: noise=full, noise=none" in terminal.compared(seen).caption
    )
    text = words(page_of(tmp_path / "my sweep"))
    assert "reached 50.00 % top-1 on the images that its training held out" in text
    assert "interval of its test" not in text
    assert "Top-1 is of the images that the training held out for noise=full, noise=none" in text
    assert f"nst evaluate 'model.checkpoint={tmp_path}/my sweep/noise=full' tests it." in text
    make_generation(tmp_path / "my sweep" / "tested", data, truth, CLASSES, right=0.9)
    reported(tmp_path / "my sweep")
    assert "3 runs, shown: tested" in words(page_of(tmp_path / "my sweep")), "of two kinds of images none is the best"


def test_labels_that_labeled_pictures_speak_against_are_told_where_the_truth_is_not_known(run: Path):
    path = run / "gen1" / "selection" / "selection.json"
    document = read_json(path)
    del document["accuracy"]
    document["forecast"] = {"right": {"share": 0.2, "low": 0.1, "high": 0.4, "pictures": 12}}
    write_json(path, document)
    assert "By 12 validation pictures, only 20 % of the pseudo-labels are right" in advised(run)
    document["forecast"]["right"]["high"] = 0.9
    write_json(path, document)
    assert "validation pictures" not in advised(run)


def test_a_sentence_begins_with_the_name_of_a_run_as_it_is():
    names = {
        "teacher": "Teacher",
        "student 2": "Student 2",
        "the teacher": "The teacher",
        "stu=2": "stu=2",
        "control=1": "control=1",
    }
    assert {name: opening(name) for name in names} == names
    assert opening("control=1") == "control=1"


@pytest.mark.usefixtures("undrawn")
def test_labels_that_were_made_online_and_those_that_are_gone_are_told_apart(tmp_path: Path):
    data = tmp_path / "data"
    truth = make_data(data, CLASSES)
    given = {"run": str(tmp_path / "teacher"), "predictions": None, "selection": None}
    make_generation(tmp_path / "student", data, truth, CLASSES, right=0.8, teacher="0", labels=False,
                    more={"teacher": given})  # fmt: skip
    reported(tmp_path / "student")
    assert f"{tmp_path / 'teacher' / 'selection'} is not there any more" in words(page_of(tmp_path / "student"))
    path = tmp_path / "student" / "started.json"
    started = read_json(path)
    write_json(path, {**started, "inputs": {"teacher": {"weights": "0", "mode": "online"}}})
    reported(tmp_path / "student")
    assert "labels were made online" in words(page_of(tmp_path / "student"))


# ---- classes and mistakes ----------------------------------------------------------------------------------------


def test_precision_and_recall_are_of_columns_and_rows():
    matrix = np.array([[8, 2, 0], [1, 9, 0], [3, 0, 0]])
    precision, recall = class_tables.precision_and_recall(matrix)
    assert precision[:2] == pytest.approx([100 * 8 / 12, 100 * 9 / 11])
    assert np.isnan(precision[2]), "nothing is taken for it"
    assert recall == pytest.approx([80.0, 90.0, 0.0])
    table = class_tables.by_class(["a", "b", "c"], {"teacher": matrix})
    assert table.rows[2] == ["c", "3", "–", "0.0"]


def test_of_very_many_classes_the_worst_are_listed():
    count = class_tables.CLASSES_LISTED + 5
    matrix = 10 * np.eye(count, dtype=int)
    matrix[3, 3], matrix[3, 4] = 1, 9
    table = class_tables.by_class([f"c{place}" for place in range(count)], {"teacher": matrix})
    assert len(table.rows) == class_tables.CLASSES_LISTED
    assert "c3" in {row[0] for row in table.rows}
    assert f"Of {count} classes the {class_tables.CLASSES_LISTED} of the lowest recall" in table.note


def test_all_mistakes_are_a_table_with_names(tmp_path: Path):
    path = tmp_path / "mistakes.csv"
    found = [(0.91, 'a,"b"\n', 0, 2), (0.5, "river/ü", 2, 1)]
    mistakes.write(path, found, CLASSES)
    assert mistakes.read(path) == {'a,"b"\n': 0.91, "river/ü": 0.5}
    assert path.read_text().endswith("\nriver/ü,<owl>,dog & co,0.500000\n")
    assert mistakes.read(tmp_path / "none.csv") is None
    path.write_text("key,class\nx,y\n")
    with pytest.raises(NstError, match=r"mistakes\.csv"):
        mistakes.read(path)


def test_where_nothing_is_mistaken_no_table_and_no_link_is_empty(tmp_path: Path):
    directory = make_run(tmp_path, CLASSES, (1.0, 1.0))
    for generation in directory.glob("gen*"):
        path = generation / "evaluation" / "result.json"
        write_json(path, read_json(path) | {"confusion": np.diag([20, 20, 20]).tolist(), "mistakes": []})
        mistakes.write(path.parent / "mistakes.csv", [], CLASSES)
    section = sections.classes(open_runs(directory)[0], directory)
    assert not section.links
    assert all(block.rows for block in section.blocks if isinstance(block, page.Table))
    assert section.missing == ["No test image was taken for another class."]


@pytest.mark.usefixtures("undrawn")
def test_the_mistakes_are_linked_from_wherever_the_page_is(run: Path, tmp_path: Path):
    reported(tmp_path / "elsewhere", f"report.runs=['{run}']")
    assert '<a href="../demo/gen2/evaluation/mistakes.csv">' in page_of(tmp_path / "elsewhere")


@pytest.mark.usefixtures("undrawn")
def test_a_name_of_a_run_is_no_address(tmp_path: Path):
    run = make_run(tmp_path, CLASSES, name="javascript:alert(1)")
    reported(tmp_path, f"report.runs=['{run}']")
    assert 'href="javascript%3Aalert%281%29/gen2/evaluation/mistakes.csv"' in page_of(tmp_path)


def test_long_names_break_between_their_words():
    assert page.breakable("HerbaceousVegetation") == "Herbaceous<wbr>Vegetation"
    assert page.breakable("river_bank/<b>") == "river_<wbr>bank/&lt;b&gt;"
    assert page.breakable("cat") == "cat"


LONG = ("HerbaceousVegetationAlongTheNorthernRiverBanksOfTheLowlands", "x" * 60)
# the page in windows of both widths, and what of it does not fit
MEASURED = """<iframe width="400" height="900"></iframe><iframe width="1280" height="900"></iframe><pre></pre><script>
const told = [...document.querySelectorAll("iframe")].map(frame => {
  frame.contentDocument.write(PAGE); frame.contentDocument.close();
  const body = frame.contentDocument, right = body.documentElement.clientWidth;
  const cells = [...body.querySelectorAll("tbody td.number")].filter(it => it.getBoundingClientRect().right > right);
  return [body.documentElement.scrollWidth - right, cells.length];
});
document.querySelector("pre").textContent = JSON.stringify(told);
</script>"""


def page_of_long_names() -> str:
    counts = np.array([[30, 2], [4, 24]])
    tables = [class_tables.by_class(LONG, {"gen0": counts}),
              class_tables.frequent_confusions(LONG, {"gen0": counts}, "", ("class", "taken for"))]  # fmt: skip
    entry = page.Section(LONG[0], "text", blocks=list(tables))
    return page.render(page.Page("title", "summary", [("1", LONG[0], LONG[1])], [entry], {}, None, {}))


def test_long_names_of_classes_break_within_their_cell():
    html = page_of_long_names()
    for name in LONG:
        assert f'<th scope="row" class="long">{name}</th>' in html
    assert f'<td class="long">{LONG[0]}</td>' in html
    assert re.search(r"tbody \.long \{[^}]*white-space: normal; overflow-wrap: anywhere;", html)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser")
def test_long_names_of_classes_leave_the_numbers_in_sight_at_400_and_1280_px(tmp_path: Path):
    text = json.dumps(page_of_long_names()).replace("</", "<\\/")
    (tmp_path / "page.html").write_text(MEASURED.replace("PAGE", text))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    seen = subprocess.run([*command, f"file://{tmp_path}/page.html"], capture_output=True, text=True, check=True)
    (told,) = re.findall(r"<pre>(.*?)</pre>", seen.stdout)
    assert json.loads(told) == [[0, 0], [0, 0]]


# ---- what to try next --------------------------------------------------------------------------------------------


def advised(directory: Path, lead: tuple[float, float, float] | None = None, **last: Any) -> str:
    """`lead` of the last student over the control: the difference and its interval."""
    experiment = open_runs(directory)[0]
    entries = rows(experiment)
    entries[-1].update(last)
    control = control_row(experiment, entries)
    if control and lead:
        control |= dict(zip(("beaten_by", "beaten_low", "beaten_high"), lead, strict=True))
    return " ".join(next_steps.section(experiment, entries, control).points)


def test_advice_follows_from_what_was_measured(run: Path, tmp_path: Path):
    quiet = advised(run, unlabeled=1000)
    assert "worse than its teacher" not in quiet
    assert "hardly better than chance" not in quiet
    assert "worse than its teacher by 20.0 points" in advised(run, gain=-20.0, gain_low=-30.0, gain_high=-10.0)
    assert "The last student saw 10 unlabeled images beside 50 labeled ones" in advised(run, unlabeled=10)
    add_control(run, 0.95, tmp_path)
    even = (0.5, -1.0, 2.0)
    assert "does as well: what the students gained may be of their size or time" in advised(run, even, gain=2.0)
    assert "does as well: the pseudo-labels did not help" in advised(run, even, gain=-2.0)
    assert "is better by 4.6 points: what the students gained" in advised(run, (-4.6, -6.0, -3.0), gain=2.0)
    assert "learned from the labels alone" not in advised(run, (4.6, 3.0, 6.0), gain=2.0)


def test_classes_without_labels_and_repeated_ones_are_named(run: Path):
    path = run / "gen1" / "selection" / "selection.json"
    document = read_json(path)
    document["per_class"][0] |= {"selected": 0, "copies_total": 0}
    document["per_class"][2] |= {"selected": 2, "copies_total": 90}
    document["accuracy"]["after"] |= {"accuracy": 0.5, "per_class": [None, 0.4, 0.6]}
    write_json(path, document)
    text = advised(run)
    assert "No pseudo-label is of cat" in text
    assert "repeated often in <owl> (up to 45 times each)" in text
    assert "Only 50.0 % of the pseudo-labels are right. Least right are those of dog & co." in text


def test_advice_is_not_for_more_and_for_less_confidence_at_once(run: Path):
    path = run / "gen1" / "selection" / "selection.json"
    document = read_json(path)
    document["per_class"][0] |= {"selected": 0, "copies_total": 0}
    document["accuracy"]["after"] |= {"accuracy": 1.0, "per_class": [None, 1.0, 1.0]}
    write_json(path, document)
    right = advised(run, unlabeled=10)
    assert "Label more images there, or lower select.min_confidence." in right
    assert "More of them, or a smaller select.min_confidence, give it more" in right
    document["accuracy"]["after"] |= {"accuracy": 0.5, "per_class": [None, 0.4, 0.6]}
    write_json(path, document)
    for text in (advised(run, unlabeled=10), advised(run, unlabeled=10, gain=-20.0, gain_low=-30.0, gain_high=-10.0)):
        assert "A larger select.min_confidence" in text
        assert "No pseudo-label is of cat" in text
        assert "beside 50 labeled ones. More of them give it more" in text
        assert not re.search(r"(lower|smaller) select\.min_confidence", text)


def test_a_teacher_that_guesses_is_told(tmp_path: Path):
    directory = make_run(tmp_path, CLASSES, (0.02,))
    top1 = rows(open_runs(directory)[0])[0]["top1"]
    told = f"The teacher is hardly better than chance: {top1:.1f} % of {TEST} test images, where"
    assert told in advised(directory)
    alone = directory / "gen0"
    alone.rename(tmp_path / "baseline")
    assert f"baseline is hardly better than chance: {top1:.1f} %" in advised(tmp_path / "baseline")


# ---- the command line, the terminal, files -----------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_the_command_that_repeats_a_run_deletes_nothing(run: Path):
    write_config(run / "config.yaml", {"stage": "iterate", "overrides": ["overwrite=true", "seed=4"]})
    reported(run)
    assert "The same again: nst iterate seed=4 " in words(page_of(run))


@pytest.mark.usefixtures("undrawn")
def test_the_terminal_has_the_table_and_the_verdict(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(report, "console", Console(width=80, highlight=False, markup=False))
    add_control(run, 0.85, tmp_path)
    report.main(compose_config([f"run_dir='{run}'", "stage=report", "report.examples=0"]))
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(len(line) for line in lines if str(run) not in line) <= 80
    assert [line.split()[0] for line in lines if "small w0.5" in line] == ["0", "1", "2", "ctrl"]
    assert "ctrl: the last student's network, trained on the labels alone" in out
    assert "Student 2 has" in out
    assert "than the control" in out


def test_names_of_runs_are_folded_and_numbers_stay_whole(run: Path, capsys: pytest.CaptureFixture[str]):
    entries = rows(open_runs(run)[0])
    named = [{**entry, "experiment": "noise=full,student.steps=1000,seed=3"} for entry in entries]
    Console(width=80).print(terminal.compared([named]))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert f"{entries[-1]['top1']:.2f}" in out
    assert "…" not in out
    assert "".join(line.split()[0] for line in out.splitlines() if line.strip()).count("noise=full") == 1


def test_the_losses_of_both_sides_are_shown_and_not_their_sum():
    latest = {"train/loss": 17.9, "train/labeled_loss": 1.25, "train/unlabeled_loss": 2.5, "validation/top1": 61.26}
    assert training_note(latest) == "loss 1.250 pseudo-labels 2.500 top-1 61.3"
    assert training_note({"train/loss": 1.5, "train/labeled_loss": 1.5, "train/unlabeled_loss": 0.0}) == "loss 1.500"
    assert training_note({}) == ""


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_files_have_the_mode_of_the_umask_whoever_writes_them(tmp_path: Path, umask: int, mode: int):
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "weights.safetensors") as temporary:
            save_file({"x": np.zeros(1, np.float32)}, temporary)
            temporary.chmod(0o600)  # as safetensors leaves it
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "weights.safetensors").stat().st_mode) == mode
