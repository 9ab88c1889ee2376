"""The report says what the files say, leaves out what is not there, and needs nothing but itself."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import warnings
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import finish, select_from

from nst.atomic import write_config, write_json
from nst.config import compose_config
from nst.data.images import encode_png
from nst.data.prediction_files import write_predictions
from nst.data.predictions import PredictionMetadata, parquet_name
from nst.data.shard_set import load_index
from nst.data.shards import write_shards
from nst.data.source import Sample
from nst.documents import read_json
from nst.errors import NstError
from nst.evaluation.mistakes import write as write_mistakes
from nst.intervals import paired, unpaired, wilson
from nst.report import figures, gallery, page, sections
from nst.report.card import model_card
from nst.report.generation_rows import rows
from nst.report.paper import published
from nst.report.records import open_runs
from nst.report.robustness_section import FIGURES as ROBUSTNESS_FIGURES
from nst.report.style import inline_svg, save_png, svg_document
from nst.stages import report
from nst.written import LIST
from tests.reported import reported

UNLABELED, TEST = 120, 60
CLASSES = ("cat", "dog & co", "<owl>")
LIMIT_BYTES = 5_000_000


def make_data(folder, classes, *, size=8, seed=0):
    """unlabeled/ (two shards, truth.parquet) and test/ of random pictures; returns true classes of both."""
    rng = np.random.default_rng(seed)
    truth = {"unlabeled": np.arange(UNLABELED) % len(classes), "test": np.arange(TEST) % len(classes)}
    for part, labels in truth.items():
        pixels = rng.integers(0, 255, (len(labels), size, size, 3), dtype=np.uint8)
        samples = [
            Sample(f"{part}-{i:04d}", encode_png(picture), "png", int(label))
            for i, (picture, label) in enumerate(zip(pixels, labels, strict=True))
        ]
        write_shards(folder / part, part, samples, classes=classes, labeled=part == "test", name=part,
                     samples_per_shard=70)  # fmt: skip
    keys = [f"unlabeled-{i:04d}" for i in range(UNLABELED)]
    pq.write_table(pa.table({"key": keys, "label": truth["unlabeled"]}), folder / "unlabeled" / "truth.parquet")
    return truth


def noisy(truth, classes, right, rng):
    """Distributions (N, C) whose argmax is the truth for about a share `right` of the rows."""
    label = np.where(rng.random(len(truth)) < right, truth, rng.integers(0, classes, len(truth)))
    peak = rng.uniform(0.25, 0.99, len(truth))
    probs = np.repeat(((1 - peak) / (classes - 1))[:, None], classes, axis=1)
    probs[np.arange(len(truth)), label] = peak
    return probs.astype(np.float32)


def make_generation(folder, data, truth, classes, *, right, teacher=None, name="demo", labels=True, more=None):
    """One trained network's directory in the documented formats; `right` is its accuracy. Returns its sha256."""
    rng = np.random.default_rng(int(1000 * right))
    folder.mkdir(parents=True)
    sha = f"{int(1000 * right):064d}"
    config = {"name": name, "seed": 3, "data": {"name": "noise", "labeled": str(data / "labeled"),
              "unlabeled": str(data / "unlabeled"), "test": str(data / "test")}, "teacher": {"selection": None},
              **(more or {})}  # fmt: skip
    write_config(folder / "config.yaml", config)
    given = {"weights": teacher} if teacher else None
    started = {"stage": "train", "inputs": {"teacher": given}, "git": "abc123", "python": "3.11.7",
               "packages": {"torch": "2.9.0"}, "machine": {"system": "Linux", "cpus": 2}}  # fmt: skip
    write_json(folder / "started.json", started)
    result = {"stage": "train", "model": "small", "architecture": {"width": 0.5, "depth": 0.5}, "parameters": 663530,
              "labeled_samples": 50, "steps": 30, "top1": 100 * right, "weights_sha256": sha}  # fmt: skip
    write_json(folder / "result.json", result)
    (folder / "DONE").write_text("x")
    rows = ["step,metric,value"]
    for step in (10, 20, 30):
        rows += [f"{step},train/labeled_loss,{3 / step}", f"{step},train/unlabeled_loss,{2 / step if teacher else 0}",
                 f"{step},validation/top1,{right * step}"]  # fmt: skip
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n40,train/lab")  # cut short, as by a kill
    make_evaluation(folder, truth["test"], classes, right, rng)
    if labels:
        make_labels(folder, data, truth["unlabeled"], classes, right, rng, sha)
    return sha


def make_evaluation(folder, truth, classes, right, rng):
    predicted = noisy(truth, len(classes), right, rng).argmax(axis=1)
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (truth, predicted), 1)
    wrong = np.flatnonzero(predicted != truth)
    mistakes = [{"confidence": 0.9, "key": f"test-{i:04d}", "label": int(truth[i]), "predicted": int(predicted[i])}
                for i in wrong]  # fmt: skip
    top1 = 100 * float((predicted == truth).mean())
    result = {"stage": "evaluate", "top1": top1, "top5": 99.0, "ece": 5.5, "loss": 0.5, "samples": float(TEST),
              "classes": list(classes), "confusion": confusion.tolist(), "mistakes": mistakes}  # fmt: skip
    (folder / "evaluation").mkdir()
    write_json(folder / "evaluation" / "result.json", result)
    write_json(folder / "evaluation" / "started.json", {"stage": "evaluate", "inputs": {"test": "digest"}})
    entries = [(entry["confidence"], entry["key"], entry["label"], entry["predicted"]) for entry in mistakes]
    write_mistakes(folder / "evaluation" / "mistakes.csv", entries, classes)


def make_labels(folder, data, truth, classes, right, rng, sha):
    probs = noisy(truth, len(classes), right, rng)
    for start, listed in zip(range(0, UNLABELED, 70), load_index(data / "unlabeled").shards, strict=True):
        rows, shard = np.arange(start, min(UNLABELED, start + 70)), listed.name
        write_predictions(
            folder / "predictions" / parquet_name(shard), index=rows - start, probs=probs[rows], keep=0.0,
            keys=[f"unlabeled-{i:04d}" for i in rows],
            metadata=PredictionMetadata(sha, list(classes), 8, shard, listed.sha256),
        )  # fmt: skip
    finish(folder / "predictions")
    select_from(folder / "predictions", folder / "selection", min_confidence=0.45, images_per_class=None,
               allow_empty_classes=True, unlabeled=data / "unlabeled", threads=1)  # fmt: skip


def make_run(tmp_path, classes=CLASSES, accuracies=(0.6, 0.75, 0.9), *, name="demo", **more):
    """A finished chain of generations; returns its directory."""
    data, directory = tmp_path / "data", tmp_path / name
    truth = make_data(data, classes) if not data.exists() else {
        "unlabeled": np.arange(UNLABELED) % len(classes), "test": np.arange(TEST) % len(classes)}  # fmt: skip
    teacher = None
    for number, right in enumerate(accuracies):
        last = number == len(accuracies) - 1
        teacher = make_generation(directory / f"gen{number}", data, truth, classes, right=right, teacher=teacher,
                                  labels=not last or len(accuracies) == 1, name=name, **more)  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three generations, reported."""
    directory = make_run(tmp_path_factory.mktemp("finished"))
    return directory, reported(directory, stage="iterate", overrides=["experiment=demo", "name=it's"])


def page_of(directory):
    return (directory / "report.html").read_text(encoding="utf-8")


def words(html):
    """The text that a reader sees, on one line."""

    class Text(HTMLParser):
        found: list[str] = []  # noqa: RUF012
        hidden = 0

        def handle_starttag(self, tag, attributes):
            self.hidden += tag in ("style", "svg")

        def handle_endtag(self, tag):
            self.hidden -= tag in ("style", "svg")

        def handle_data(self, data):
            if not self.hidden:
                self.found.append(data)

    reader = Text()
    reader.found = []
    reader.feed(html.replace("<wbr>", ""))
    return " ".join(" ".join(reader.found).split())


def test_page_is_one_file_that_loads_nothing(finished):
    html = page_of(finished[0])
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(sources) > 50
    links = [source for source in sources if not source.startswith(("data:image/", "#"))]
    assert links == ["gen2/evaluation/mistakes.csv"], "which is followed by a click, and not loaded"
    assert f'<a href="{links[0]}">' in html
    assert (finished[0] / links[0]).is_file()
    assert not re.search(r"<script|@import|url\((?!#)", html)
    assert len(html) < LIMIT_BYTES


def test_page_has_unique_ids_and_no_dangling_links(finished):
    html = page_of(finished[0])
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids)) > 100
    used = set(re.findall(r'href="#([^"]+)"', html)) | set(re.findall(r"url\(#([^)]+)\)", html))
    assert used
    assert used <= set(ids)


def test_every_section_has_an_id_of_its_own_whatever_classes_are_called():
    titles = ["Classes", "cat 1", "cat-1", "classes", "classes-1", "Provenance"]
    html = page.render(page.Page("a", "", [], [page.Section(title) for title in titles], {}, None, {}))
    ids = re.findall(r'<section id="([^"]+)"', html)
    assert ids[:4] == ["classes", "cat-1", "cat-1-1", "classes-1"]
    assert len(set(ids)) == len(titles) + 1
    assert re.findall(r'<a href="#([^"]+)"', html) == ids


def test_a_table_of_many_columns_is_dense_and_its_names_may_break(finished):
    html = page_of(finished[0])
    assert re.search(r'<table class="wide dense">\s*<thead><tr>\s*<th scope="col">run<', html)
    few = page.render(
        page.Page("a", "", [], [page.Section("t", blocks=[page.Table(["a", "b"] * 4, [["x"] * 8])])], {}, None, {})
    )
    many = page.Table(["a", "b"] * 5, [["x", "tf_efficientnet_lite0", *"12345678"]])
    assert "dense" not in few.partition("</style>")[2]
    many_html = page.render(page.Page("a", "", [], [page.Section("t", blocks=[many])], {}, None, {}))
    assert '<td class="long">tf_<wbr>efficientnet_<wbr>lite0</td>' in many_html


def test_page_tells_numbers_of_the_run(finished):
    directory, result = finished
    text = words(page_of(directory))
    rows = result["rows"][0]
    for entry in rows:
        top1 = json.loads((directory / entry["run"] / "evaluation" / "result.json").read_text())["top1"]
        assert f"{top1:.2f}" in text
    assert f"{rows[-1]['gain']:+.2f}" in text
    assert "nst iterate experiment=demo 'name=it'\"'\"'s'" in text
    assert "abc123" in text
    totals = json.loads((directory / "gen1" / "selection" / "selection.json").read_text())["totals"]
    assert f"{totals['selected']} ({totals['copies']})" in text


def test_class_names_are_text_not_markup(finished):
    html = page_of(finished[0])
    assert "<owl>" not in html
    assert "&lt;owl&gt;" in html


def test_table_of_numbers_is_exact(finished):
    directory, _ = finished
    with open(directory / "report.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["gen0", "gen1", "gen2"]
    scores = [json.loads((directory / f"gen{i}/evaluation/result.json").read_text())["top1"] for i in range(3)]
    assert [float(row["top1"]) for row in rows] == scores
    assert float(rows[2]["gain"]) == scores[2] - scores[0]
    accuracy = json.loads((directory / "gen0/selection/selection.json").read_text())["accuracy"]["after"]["accuracy"]
    assert rows[0]["pseudo_label_accuracy"] == ""
    assert float(rows[1]["pseudo_label_accuracy"]) == 100 * accuracy


def test_all_figures_are_written_twice_and_shown(finished):
    directory, result = finished
    names = {path.stem for path in result["figures"]}
    assert names == set(report.FIGURES) - {"runs_compared", *ROBUSTNESS_FIGURES}
    assert {path.name for path in (directory / "figures").iterdir()} == {
        f"{n}.{e}" for n in names for e in ("png", "svg")
    }
    assert page_of(directory).count('<svg class="figure"') == len(names)


def test_same_files_give_the_same_bytes(finished):
    directory, _ = finished
    made = [*(directory / "figures").iterdir(), directory / "report.html", directory / "report.csv"]
    before = {path: path.read_bytes() for path in made}
    reported(directory, stage="iterate", overrides=["experiment=demo", "name=it's"])
    assert {path: path.read_bytes() for path in made} == before


def test_galleries_show_the_chosen_pictures(finished):
    directory, _ = finished
    html = page_of(directory)
    for title in ("Selected and wrong", "Sure", "Barely kept", "Rejected", "Changed", "Mistakes"):
        assert f"<h3>{title}</h3>" in html
    mistakes = json.loads((directory / "gen2/evaluation/result.json").read_text())["mistakes"]
    shown = html[html.index("<h3>Mistakes</h3>") :]
    assert shown.count("<img") == len(mistakes) > 0
    assert shown.count("✗ is ") == len(mistakes)


def test_single_training_has_no_student_sections(tmp_path):
    directory = make_run(tmp_path, accuracies=(0.7,))
    for path in ("predictions", "selection"):
        for file in (directory / "gen0" / path).iterdir():
            file.unlink()
    (directory / "gen0" / "metrics.csv").unlink()
    result = reported(directory / "gen0")
    text = words(page_of(directory / "gen0"))
    assert {path.stem for path in result["figures"]} == {"confusion"}
    assert "No training kept a table of its metrics" in text
    assert "no student has been taught" in text
    assert "No predictions for unlabeled images" in text
    assert "The command line was not recorded" in text


@pytest.mark.usefixtures("undrawn")
def test_report_without_its_data_says_so(tmp_path):
    directory = make_run(tmp_path)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    reported(directory)
    text = words(page_of(directory))
    assert "the unlabeled shards are not in" in text
    assert "the test shards are not in" in text
    assert "not there any more" in text
    assert "<img" not in page_of(directory)


@pytest.mark.usefixtures("undrawn")
def test_unfinished_generation_is_named_not_counted(tmp_path):
    directory = make_run(tmp_path)
    (directory / "gen2" / "DONE").unlink()
    (directory / "gen2" / "evaluation" / "result.json").unlink()
    result = reported(directory)
    assert [row["run"] for row in result["rows"][0]] == ["gen0", "gen1"]
    assert "Not finished yet: student 2." in words(page_of(directory))


@pytest.mark.usefixtures("undrawn")
def test_nothing_finished_still_makes_a_page(tmp_path):
    directory = make_run(tmp_path, accuracies=(0.7,))
    (directory / "gen0" / "DONE").unlink()
    reported(directory)
    assert "No training of" in words(page_of(directory))


@pytest.mark.usefixtures("undrawn")
def test_other_shards_of_the_same_name_show_no_wrong_pictures(tmp_path):
    directory = make_run(tmp_path)
    samples = [Sample(f"other-{i}", encode_png(np.zeros((8, 8), np.uint8)), "png", None) for i in range(90)]
    shutil.rmtree(tmp_path / "data" / "unlabeled")  # which are not the set's to delete
    write_shards(tmp_path / "data" / "unlabeled", "unlabeled", samples, classes=["x"], labeled=False, name="other")
    reported(directory)
    assert "are not those that were labeled" in words(page_of(directory))


@pytest.mark.usefixtures("undrawn")
def test_a_network_of_which_released_sets_alone_were_evaluated_is_reported(tmp_path):
    directory = make_run(tmp_path, accuracies=(0.6, 0.75))
    path = directory / "gen0" / "evaluation" / "result.json"
    known = read_json(path)
    write_json(path, {"stage": "evaluate", "test": None, "weights": known.get("weights"), "classes": known["classes"]})
    reported(directory)
    assert "What to try next" in words(page_of(directory))


@pytest.mark.usefixtures("undrawn")
def test_published_figures_stand_beside_ours(tmp_path):
    paper = {"places": ["table 2"], "row": "Noisy Student (L2)", "columns": [None, "ImageNet"]}
    directory = make_run(tmp_path, more={"paper": paper})
    reported(directory)
    text = words(page_of(directory))
    assert "published: ImageNet table 2, Noisy Student (L2) 87.40 98.20" in text
    assert "full size" in text
    assert published(None) == ("", [])
    [experiment] = open_runs(directory)
    table = next(block for block in sections.generations(experiment, rows(experiment), None).blocks
                 if isinstance(block, page.Table))  # fmt: skip
    cells = dict(zip(table.columns, table.rows[-1], strict=True))
    told = {heading.replace("\u00a0", " ").replace("\u2011", "-"): cell for heading, cell in cells.items() if cell}
    assert {"top-1 %": "87.40", "top-5 %": "98.20"}.items() <= told.items()
    assert set(told) == {"run", "model", "top-1 %", "top-5 %"}


@pytest.mark.usefixtures("undrawn")
def test_runs_are_compared_and_the_best_is_shown(tmp_path):
    runs = [make_run(tmp_path, accuracies=(0.5, right), name=name)
            for name, right in (("noise=none", 0.6), ("noise=full", 0.95))]  # fmt: skip
    result = reported(tmp_path / "comparison", f"report.runs={[*map(str, runs)]}")
    assert "runs_compared" in {path.stem for path in result["figures"]}
    text = words(page_of(tmp_path / "comparison"))
    assert "2 runs, best: noise=full" in text
    assert len(result["rows"]) == 2
    # the folder above them, as a sweep leaves it, is the same report
    assert reported(tmp_path)["rows"] == result["rows"][::-1]
    runs.append(make_run(tmp_path, accuracies=(0.5, 0.95), name="noise=more"))
    reported(tmp_path / "comparison", f"report.runs={[*map(str, runs)]}")
    assert "3 runs, shown: noise=full" in words(page_of(tmp_path / "comparison")), "none is better"


def test_chain_of_trainings_is_recognised_by_its_weights(tmp_path):
    truth = make_data(tmp_path / "data", ("a", "b"))
    first = make_generation(tmp_path / "one", tmp_path / "data", truth, ("a", "b"), right=0.6)
    make_generation(tmp_path / "two", tmp_path / "data", truth, ("a", "b"), right=0.8, teacher=first)
    runs = [tmp_path / "one", tmp_path / "two"]
    assert [[g.title for g in e.generations] for e in open_runs(tmp_path, runs)] == [["one", "two"]]
    assert [[g.title for g in e.generations] for e in open_runs(tmp_path, runs[::-1])] == [["two"], ["one"]]


@pytest.mark.parametrize(("several", "kept"), [(True, True), (True, False), (False, False)])
def test_a_student_of_a_list_of_teachers_is_reported_and_has_a_card(tmp_path, undrawn, several, kept):
    """Several have no common folder: their labels are where the options say, or nowhere if they label online."""
    directory = make_run(tmp_path, accuracies=(0.6,))
    teacher = directory / "gen0"
    named = {"run": [str(teacher)] * (2 if several else 1),
             **({name: str(teacher / name) for name in ("predictions", "selection")} if kept else {})}  # fmt: skip
    make_generation(tmp_path / "student", tmp_path / "data", make_data(tmp_path / "data", CLASSES), CLASSES, right=0.8,
                    teacher="+".join(["1" * 64, "2" * 64]), labels=False, more={"teacher": named})  # fmt: skip
    started = read_json(tmp_path / "student" / "started.json")
    started["inputs"]["teacher"] |= {"mode": "offline" if kept or not several else "online", "targets": "soft"}
    write_json(tmp_path / "student" / "started.json", started)
    reported(tmp_path / "student")
    text = words(page_of(tmp_path / "student"))
    who = "the teachers" if several else "the teacher"
    assert (f"images that {who} labeled" in text) == (kept or not several)
    assert ("labels were made online" in text) == (several and not kept)
    card = model_card(tmp_path / "student", title="student", network={}, use="", classes=CLASSES)
    assert "by the mean of 2 teacher networks" in card
    assert f"{'1' * 12}, {'2' * 12}" in card


def test_names_in_any_script_are_drawn_without_warnings(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.confusion(["赤い四角", "緑"], {"教師": np.eye(2, dtype=int)})
        save_png(figure, tmp_path / "a.png")
        assert "赤い四角" in svg_document(figure)


def test_figures_that_no_longer_apply_are_removed(tmp_path):
    directory = make_run(tmp_path)
    (directory / LIST).touch()  # as `nst iterate` begins it
    reported(directory)
    for number in range(3):
        (directory / f"gen{number}" / "metrics.csv").unlink()
    (directory / "figures" / "mine.png").write_bytes(b"x")
    reported(directory)
    left = {path.name for path in (directory / "figures").iterdir()}
    assert "learning_curves.png" not in left
    assert {"mine.png", "generations.png"} <= left


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir(), lambda path: (path / "x").mkdir(parents=True)]
)
def test_folder_without_a_run_is_refused_with_the_next_command(tmp_path, make):
    make(tmp_path / "empty")
    with pytest.raises(NstError, match="no run to report") as error:
        reported(tmp_path / "empty")
    assert "nst iterate" in str(error.value)


def test_damaged_file_is_named(tmp_path):
    directory = make_run(tmp_path, accuracies=(0.7,))
    (directory / "gen0" / "evaluation" / "result.json").write_text('{"top1": ')
    with pytest.raises(NstError, match=r"evaluation/result\.json"):
        reported(directory)


def test_many_classes_still_fit(tmp_path):
    classes = tuple(f"a rather long class name {i}" for i in range(120))
    directory = make_run(tmp_path, classes, accuracies=(0.5, 0.8))
    result = reported(directory, "report.examples=12")
    assert "confusion" not in {path.stem for path in result["figures"]}
    assert "The most frequent confusions" in words(page_of(directory))
    assert len(page_of(directory)) < LIMIT_BYTES


@pytest.mark.usefixtures("undrawn")
def test_iterate_s_call_shows_its_command_and_a_later_one_reads_it(tmp_path, capsys):
    directory = make_run(tmp_path, accuracies=(0.7,))
    cfg = compose_config([f"run_dir='{directory}'", "stage=iterate", "report.examples=0"])
    cfg.overrides = ["experiment=digits_demo"]
    report.main(cfg)
    assert "report.html" in capsys.readouterr().out
    assert "nst iterate experiment=digits_demo" in words(page_of(directory))
    assert "<img" not in page_of(directory)
    write_config(directory / "config.yaml", {"stage": "iterate", "overrides": ["seed=4"]})
    report.main(compose_config([f"run_dir='{directory}'", "stage=report", "report.examples=0"]))
    assert "nst iterate seed=4" in words(page_of(directory))


def labeled(label, confidence, copies):
    count = len(label)
    return gallery.Labeled(
        ["a", "b", "c"], np.full(count, "s"), np.array([f"k{i}" for i in range(count)]),
        np.array(label), np.array(confidence, float), np.array(copies), np.full(count, gallery.UNKNOWN), True,
    )  # fmt: skip


def test_choice_takes_turns_over_the_classes():
    images = labeled([0, 0, 0, 1, 2, 2], [0.5, 0.9, 0.7, 0.2, 0.6, 0.8], [1] * 6)
    everything = np.ones(6, bool)
    assert gallery.choose(images, everything, 3, most_confident=True).tolist() == [1, 3, 5]
    assert gallery.choose(images, everything, 4, most_confident=False).tolist() == [0, 2, 3, 4]
    assert gallery.choose(images, images.label == 0, 2, most_confident=True).tolist() == [1, 2]
    assert gallery.choose(images, ~everything, 2, most_confident=True).tolist() == []
    assert set(images.label[gallery.choose(images, everything, 2, most_confident=True)]) == {0}


def test_small_pictures_are_enlarged_without_blur():
    pixels = np.array([[0, 255], [255, 0]], np.uint8)
    shown = read_uri(gallery.data_uri(encode_png(pixels)))
    assert shown.shape[:2] == (96, 96)
    assert set(np.unique(shown)) == {0, 255}
    assert (shown[::48, ::48, 0] == pixels).all()
    large = read_uri(gallery.data_uri(encode_png(np.zeros((600, 300), np.uint8))))
    assert large.shape[:2] == (192, 96)
    assert gallery.data_uri(b"\xff\xd8 not a picture") is None


def read_uri(uri):
    import base64

    from nst.data.images import decode

    return decode(base64.b64decode(uri.partition("base64,")[2]))


@pytest.mark.parametrize(("percent", "samples", "expected"), [
    (80.0, 100, (71.1170, 86.6633)), (100.0, 10, (72.2467, 100.0)), (0.0, 10, (0.0, 27.7533)),
])  # fmt: skip
def test_interval_is_wilson_s(percent, samples, expected):
    assert wilson(percent, samples) == pytest.approx(expected, abs=1e-3)


def test_interval_of_nothing_is_unknown(tmp_path):
    directory = make_run(tmp_path, accuracies=(0.7,))
    path = directory / "gen0" / "evaluation" / "result.json"
    write_json(path, {name: value for name, value in read_json(path).items() if name != "samples"})
    entry = rows(open_runs(directory)[0])[0]
    assert entry["top1"] is not None
    assert (entry["top1_low"], entry["top1_high"], entry["gain_low"]) == (None, None, None)


def test_paired_interval_is_agresti_and_min_s():
    # half an image in each of the four cells: 12.5 gained and 4.5 lost of 102
    share = (12.5 - 4.5) / 102
    half = 1.959964 * np.sqrt((12.5 + 4.5) / 102 - share**2) / np.sqrt(102)
    assert paired(12, 4, 100) == pytest.approx((100 * (share - half), 100 * (share + half)), abs=1e-3)
    assert paired(0, 0, 100)[0] < 0 < paired(0, 0, 100)[1]
    assert paired(40, 0, 100)[0] > 0


def test_unpaired_interval_is_newcombe_s():
    # Newcombe 1998, table II, example (a): 56/70 - 48/80 has method 10 limits 0.0524 to 0.3339
    assert unpaired(60.0, 80.0, 80, 70) == pytest.approx((5.24, 33.39), abs=0.01)


def test_titles_follow_the_data():
    def title(top1):
        return figures.generations(["a", "b"], top1, [(None, None)] * 2).get_suptitle()

    assert title([80.0, 85.0]) == "Students gain on their teacher: +5.00 points"
    assert title([85.0, 80.0]) == "The students do not beat their teacher: -5.00 points"


def test_the_control_stands_beside_the_students_and_not_at_the_end_of_their_line():
    top1 = [80.0, 85.0, 60.0]
    figure = figures.generations(["a", "b", "control"], top1, [(None, None)] * 3, control=True)
    assert figure.get_suptitle() == "Students gain on their teacher: +5.00 points"
    drawn = [list(line.get_ydata()) for line in figure.axes[0].lines]
    assert drawn == [[80.0, 85.0], [60.0], [60.0, 60.0]]


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure = figures.generations(["a", "b"], [1.0, 2.0], [(None, None)] * 2)
    save_png(figure, tmp_path / "x.png")
    document = svg_document(figure)
    assert "var(" not in document
    assert "<dc:date>" not in document
    element = inline_svg(document, "x", 'a < "b"')
    assert element.startswith("<svg")
    assert 'aria-label="a &lt; &quot;b&quot;"' in element
    assert "var(--ink)" in element
    assert 'id="x-axes_1"' in element
    assert "#ffffff" in document
    assert "#ffffff" not in element
    assert dict(matplotlib.rcParams) == before


def test_report_does_not_import_torch():
    code = "import sys; import nst.stages.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
