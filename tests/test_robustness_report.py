"""Robustness in the report: numbers have the name of what they are, and only comparable networks stand side by side."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from PIL import Image

from nst.atomic import write_json
from nst.documents import read_json
from nst.errors import NstError
from nst.evaluation.results import row_numbers, scored, summary
from nst.report import robustness_figures
from nst.report.figures import series_color
from nst.report.records import open_runs
from nst.report.robustness_files import networks_of
from nst.report.robustness_section import _claim, _clip, _telling, robustness
from nst.robustness.baselines import ALEXNET, CORRUPTIONS, PERTURBATIONS
from nst.robustness.sheets import COLUMNS
from tests.reported import reported
from tests.test_report import make_run, page_of, words

CLASSES = ("cat", "dog & co", "<owl>")
MADE = {"images": 40, "digest": "d", "max_images": 40, "seed": 7, "side": 16, "shown_at": 16, "table": 32}
PICTURES = {"corruptions": list(CORRUPTIONS), "severities": [1, 2, 3, 4, 5], "jpeg_quality": None,
            "frost": "procedural"}  # fmt: skip
TILE = 4


def corruption_block(error: float, names: Any = CORRUPTIONS, suite: str = "c_onthefly", **more: Any) -> dict[str, Any]:
    """Errors that start at `error` and grow by two a severity; `more` goes to `scored`."""
    errors = {name: [error + 2 * severity + CORRUPTIONS.index(name) for severity in range(5)] for name in names}
    conditions = more.pop("conditions", MADE | PICTURES)
    measured = {"kind": "corruptions", "conditions": conditions, "errors": errors, "top5_errors": errors,
                "clean_error": error - 3}  # fmt: skip
    return scored(suite, measured, **more)


def perturbation_block(flip: float, **more: Any) -> dict[str, Any]:
    result = {"flip_probability": flip, "top5_distance": 1.0, "clips": 8, "frames": 40, "right": 20}
    conditions = MADE | {"perturbations": list(PERTURBATIONS), "difficulties": [1]}
    measured = {"kind": "perturbations", "conditions": conditions,
                "sequences": {name: {"1": dict(result)} for name in PERTURBATIONS}}  # fmt: skip
    return scored("p_onthefly", measured, **more)


def attack_block(top1: float) -> dict[str, Any]:
    conditions = {"images": 40, "digest": "d", "max_images": None, "seed": 7, "shown_at": 16}
    return {"kind": "attack", "conditions": conditions, "attack": "pgd", "epsilons": [0, 2, 16], "samples": 40.0,
            "top1": [top1, top1 / 2, top1 / 4], "steps": 10, "step_sizes": [1.0, 1.0, 1.6], "random_start": False,
            "seed": 7}  # fmt: skip


def give(generation: Path, blocks: dict[str, Any]) -> None:
    """Adds suites to a generation's evaluation, as `nst evaluate` does."""
    path = generation / "evaluation" / "result.json"
    result = read_json(path)
    every = {**result.get("robustness", {}), **blocks}
    write_json(path, {**result, **summary(every), "robustness": every})


def show(
    generation: Path, suite: str, part: str, entries: list[dict[str, Any]], frames: list[int] | None = None
) -> None:
    """A part with its shown answers, and a sheet whose n-th tile is of the grey value n."""
    folder = generation / "evaluation" / "robustness" / suite / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    columns = len(frames) if frames else COLUMNS
    tiles = len(entries) * (len(frames) if frames else 1)
    values = np.zeros(-(-tiles // columns) * columns, np.uint8)
    values[:tiles] = np.arange(tiles)
    sheet = values.reshape(-1, columns).repeat(TILE, axis=0).repeat(TILE, axis=1)
    Image.fromarray(np.stack([sheet] * 3, axis=2)).save(folder / f"{part}.png")
    facts = {"file": f"{part}.png", "tile": TILE, "columns": columns, "frames": frames}
    write_json(folder / f"{part}.json", {"kept": {}, "bad": [], "sheet": facts, "shown": entries})


def entry(key: str, caption: str, label: str | None, *predicted: str) -> dict[str, Any]:
    confidence = [round(0.9 - 0.01 * len(key), 4)] * len(predicted)
    return {"key": key, "caption": caption, "label": label, "predicted": list(predicted), "confidence": confidence}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three generations with corruptions, sequences and an attack; answers of the teacher and the last student."""
    directory = make_run(tmp_path, CLASSES)
    teacher = corruption_block(30.0)
    flips = perturbation_block(9.0)
    for number, error in enumerate((30.0, 26.0, 22.0)):
        own = {"c_onthefly": corruption_block(error, baseline=teacher if number else None),
               "p_onthefly": perturbation_block(9.0 - 2 * number, baseline=flips if number else None),
               "pgd": attack_block(60.0 + number)}  # fmt: skip
        give(directory / f"gen{number}", own)
    said = {0: ("cat", "<owl>", "cat"), 2: ("dog & co", "dog & co", "<owl>")}
    for number, (one, two, three) in said.items():
        entries = [entry("a", "fog 3", "dog & co", one), entry("b", "snow 3", "dog & co", two),
                   entry("c", "frost 3", "cat", three)]  # fmt: skip
        show(directory / f"gen{number}", "c_onthefly", "images-000000", entries)
        clip = entry("a", "tilt", "cat", "cat", *(["cat", "<owl>"] if number == 0 else ["cat", "cat"]), "cat")
        show(directory / f"gen{number}", "p_onthefly", "tilt", [clip], frames=[0, 1, 3])
    return directory


def test_a_row_takes_the_benchmark_before_what_was_made_on_the_fly_and_only_whole_ones():
    made, released = corruption_block(30.0), corruption_block(50.0, suite="imagenet_c", imagenet=True)
    found = row_numbers({"c_onthefly": made, "imagenet_c": released, "p_onthefly": perturbation_block(4.0)})
    assert found["corruption_suite"] == "imagenet_c"
    assert found["mce"] == released["mce"]
    assert found["corruption_error"] == released["mean_error"]
    assert (found["perturbation_suite"], found["flip_rate"]) == ("p_onthefly", 4.0)
    part = corruption_block(50.0, CORRUPTIONS[:4], suite="imagenet_c", imagenet=True)
    assert row_numbers({"c_onthefly": made, "imagenet_c": part}) == {
        "corruption_suite": "c_onthefly", "corruption_error": made["mean_error"]
    }  # fmt: skip
    assert row_numbers({"imagenet_c": part}) == row_numbers({}) == {}


def test_page_figures_and_table_tell_the_robustness_of_every_generation(run: Path):
    result = reported(run)
    text = words(page_of(run))
    # 30, 34, ... 38 at corruption 0 and one more at each of the fifteen: 34 + 7
    assert "mean corruption error %, unnormalised c_onthefly 41.00 37.00 33.00 -8.00" in text
    assert "flip rate %, unnormalised p_onthefly 9.00 7.00 5.00 -4.00" in text
    assert f"flip rate (baseline run = 100) p_onthefly – {700 / 9:.2f} {500 / 9:.2f} –" in text
    assert "top-1 % at ε = 16/255 pgd 15.00 15.25 15.50 +0.50" in text
    assert "40 images, a subset in proportion to the classes (seed 7); made on the fly at 16 px" in text
    assert "severities of 32 px; no JPEG step; frost: procedural" in text
    assert "10 steps of 1 to 1.6/255, growing with ε, from the image itself" in text
    assert "Corruption error 33.0 % teacher 41.0 %, unnormalised mean, c_onthefly" in text
    names = {"c_onthefly_errors", "c_onthefly_severities", "p_onthefly_flips", "p_onthefly_strips", "attacks"}
    assert names <= {path.stem for path in result["figures"]}
    assert all((run / "figures" / f"{name}.{ending}").stat().st_size for name in names for ending in ("png", "svg"))
    with open(run / "report.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["corruption_error"]) for row in rows] == [41.0, 37.0, 33.0]
    assert [row["flip_rate_to_baseline"] for row in rows[:1]] == [""]
    assert [float(row["flip_rate"]) for row in rows] == [9.0, 7.0, 5.0]
    assert {row["corruption_suite"] for row in rows} == {"c_onthefly"}


@pytest.mark.usefixtures("undrawn")
def test_what_was_made_on_the_fly_is_never_called_mce(run: Path):
    reported(run)
    assert "mCE" not in words(page_of(run))
    assert "AlexNet" not in words(page_of(run))


@pytest.mark.usefixtures("undrawn")
def test_the_benchmark_s_files_give_an_mce_with_its_source(tmp_path: Path):
    directory = make_run(tmp_path, CLASSES, (0.6, 0.8))
    released = {"images": 50, "digest": "d", "max_images": None, "seed": 0, "held": {}, "side": 224, "shown_at": 224}
    for number, error in enumerate((60.0, 50.0)):
        block = corruption_block(error, suite="imagenet_c", imagenet=True, conditions=released)
        give(directory / f"gen{number}", {"imagenet_c": block})
    reported(directory)
    text = words(page_of(directory))
    assert "mCE (AlexNet = 100) imagenet_c" in text
    assert "the released files of 224 px" in text
    assert ALEXNET.source[:40] in text
    assert "Corruption error against AlexNet" in text


@pytest.mark.usefixtures("undrawn")
def test_missing_corruptions_are_named_and_no_mean_is_given(tmp_path: Path):
    directory = make_run(tmp_path, CLASSES, (0.6, 0.8))
    for number in range(2):
        names = [name for name in CORRUPTIONS if name not in ("fog", "snow")]
        give(directory / f"gen{number}", {"c_onthefly": corruption_block(30.0 - number, names)})
    result = reported(directory)
    text = words(page_of(directory))
    assert "c_onthefly is not whole, so no mean over the benchmark is given. Missing: snow, fog." in text
    assert "mean corruption error" not in text
    assert "mean error % of what was measured c_onthefly" in text
    assert all("corruption_error" not in row for row in result["rows"][0])


@pytest.mark.usefixtures("undrawn")
def test_one_network_alone_has_no_comparison(tmp_path: Path):
    directory = make_run(tmp_path, CLASSES, (0.7,))
    give(directory / "gen0", {"c_onthefly": corruption_block(30.0), "p_onthefly": perturbation_block(9.0)})
    show(directory / "gen0", "p_onthefly", "tilt", [entry("a", "tilt", None, "cat", "<owl>")], frames=[0, 1])
    result = reported(directory / "gen0")
    text = words(page_of(directory / "gen0"))
    assert "mean corruption error %, unnormalised c_onthefly 41.00" in text
    assert "Chosen for the most flips among the 1 sequences" in text
    section = text[text.index("mean corruption error") : text.index("Pictures Under")]
    assert "change" not in section.lower().replace("changes", "")
    assert "Right where" not in section
    assert "p_onthefly_strips" in {path.stem for path in result["figures"]}


@pytest.mark.usefixtures("undrawn")
def test_without_an_evaluation_the_page_says_how_to_get_one(tmp_path: Path):
    for name, quote in (("run", ""), ("my run", "'")):
        directory = make_run(tmp_path, CLASSES, (0.6, 0.8), name=name)
        reported(directory)
        text = words(page_of(directory))
        assert "Robustness was not measured." in text
        assert f"nst evaluate eval=robustness {quote}model.checkpoint={directory / 'gen1'}{quote}" in text


@pytest.mark.usefixtures("undrawn")
def test_a_network_under_other_conditions_is_left_out_by_name(run: Path):
    give(
        run / "gen1", {"c_onthefly": corruption_block(26.0, conditions=MADE | PICTURES | {"side": 20, "shown_at": 20})}
    )
    give(run / "gen2", {"c_onthefly": corruption_block(22.0, conditions=MADE | PICTURES | {"shown_at": 24})})
    shown, apart = networks_of(open_runs(run)[0], "c_onthefly")
    assert [network.title for network in shown] == ["teacher", "student 2"], "only the size that it is shown at differs"
    assert apart == ["student 1 was measured on c_onthefly under other conditions: side."]
    reported(run)
    text = words(page_of(run))
    assert apart[0] in text
    assert "mean corruption error %, unnormalised c_onthefly 41.00 – 33.00 -8.00" in text
    figure = next(block.figure for block in robustness(open_runs(run)[0], 4).blocks if block.block == "drawing")
    drawn = {bar.get_facecolor() for bar in figure.axes[0].patches}
    assert drawn == {to_rgba(series_color(0)), to_rgba(series_color(2))}, "each network keeps its colour"


@pytest.mark.usefixtures("undrawn")
def test_swept_runs_are_compared_by_robustness_too(tmp_path: Path):
    runs = [make_run(tmp_path, CLASSES, (0.5, right), name=name)
            for name, right in (("noise=none", 0.6), ("noise=full", 0.95))]  # fmt: skip
    give(runs[1] / "gen1", {"c_onthefly": corruption_block(22.0), "p_onthefly": perturbation_block(5.0)})
    reported(tmp_path)
    text = words(page_of(tmp_path))
    assert "ECE % corruption error % flip rate %" in text
    lines = text[text.index("flip rate %") : text.index("± is half")]
    assert "33.00 5.00" in lines
    assert "5.50 – –" in lines


@pytest.mark.usefixtures("undrawn")
def test_the_gallery_shows_what_only_the_student_gets_right(run: Path):
    reported(run)
    html = page_of(run)
    text = words(html)
    assert "student 2 gets right and the teacher wrong: 2 of the 3" in text
    assert "the other way round 1." in text
    start = html.index("<h3>Right where the teacher is wrong, c_onthefly</h3>")
    shown = html[start : html.index("</ul>", start)]
    assert shown.count("<img") == 2
    assert "<s>cat</s> → <b>dog &amp; co</b>" in shown
    assert "<s>&lt;owl&gt;</s> → <b>dog &amp; co</b>" in shown
    assert "fog 3" in shown
    assert "frost 3" not in shown
    reported(run, "report.examples=0")
    assert "Right where" not in page_of(run)


def test_frames_of_a_strip_are_cut_out_with_what_is_said_of_them(run: Path):
    (first, _, last), _ = networks_of(open_runs(run)[0], "p_onthefly")
    (before,), (after,) = first.answers, last.answers
    assert (before.predicted, after.predicted) == (("cat", "cat", "cat"), ("cat", "cat", "cat"))
    assert before.frames == (0, 1, 3)
    assert (before.flips, after.flips) == (2, 0), "counted over all frames, those without a picture too"
    clip = _clip(first, last, before, after)
    assert clip is not None
    assert [int(frame.mean()) for frame in clip.frames] == [0, 1, 2]
    assert all(frame.shape == (TILE, TILE, 3) for frame in clip.frames)
    assert list(clip.predicted) == ["teacher", "student 2"]


def test_noise_flips_are_counted_against_the_first_frame(tmp_path: Path):
    directory = make_run(tmp_path, CLASSES, (0.7,))
    give(directory / "gen0", {"p_onthefly": perturbation_block(9.0)})
    said = ("cat", "<owl>", "<owl>", "cat")
    for name in ("shot_noise", "tilt"):
        show(directory / "gen0", "p_onthefly", name, [entry("a", name, "cat", *said)], frames=[0, 3])
    (network,), _ = networks_of(open_runs(directory)[0], "p_onthefly")
    assert {answer.caption: answer.flips for answer in network.answers} == {"shot_noise": 2, "tilt": 2}
    said = ("cat", "<owl>", "<owl>", "<owl>")
    for name in ("shot_noise", "tilt"):
        show(directory / "gen0", "p_onthefly", name, [entry("a", name, "cat", *said)], frames=[0, 3])
    (network,), _ = networks_of(open_runs(directory)[0], "p_onthefly")
    assert {answer.caption: answer.flips for answer in network.answers} == {"shot_noise": 3, "tilt": 1}


def test_strips_are_of_different_perturbations_and_images(run: Path):
    steady, shaky = ["cat"] * 6, ["cat", "<owl>"] * 3
    for number, said in ((0, shaky), (2, steady)):
        for name in ("tilt", "scale"):
            entries = [entry(key, name, "cat", *said) for key in ("a", "b", "c")]
            show(run / f"gen{number}", "p_onthefly", name, entries, frames=[0, 5])
    (first, _, last), _ = networks_of(open_runs(run)[0], "p_onthefly")
    pairs = list(zip(first.answers, last.answers, strict=True))
    chosen = [(before.caption, before.key) for before, _ in _telling(pairs, alone=False)]
    assert len(chosen) == len({caption for caption, _ in chosen}) == len({key for _, key in chosen}) == 2


@pytest.mark.usefixtures("undrawn")
def test_pictures_that_are_gone_cost_only_their_gallery_and_damaged_ones_are_named(run: Path):
    parts = run / "gen2" / "evaluation" / "robustness" / "c_onthefly" / "parts"
    sheet = parts / "images-000000.png"
    sheet.write_bytes(b"\x89PNG cut short")
    with pytest.raises(NstError, match=r"images-000000\.png"):
        reported(run)
    sheet.unlink()
    reported(run)
    assert "Right where" not in page_of(run)
    assert "mean corruption error %, unnormalised" in words(page_of(run))


def test_titles_follow_the_data():
    verbs = ("Errors", "makes fewer errors", "makes more errors")
    values = {"teacher": [10.0, 20.0, None], "student 1": [5.0, 22.0, 7.0]}
    assert _claim(values, verbs, "corruptions") == (
        "Student 1 makes fewer errors under 1 of 2 corruptions: 15.0 → 13.5 % on average"
    )
    values["student 1"] = [11.0, 22.0, 7.0]
    assert "makes more errors under 2 of 2 corruptions" in _claim(values, verbs, "corruptions")
    assert _claim({"teacher": [10.0]}, verbs, "corruptions") == "Errors under corruptions"


def test_axes_hold_all_curves():
    rising = [10.0, 20.0, None, 40.0, 60.0, 90.0]
    curves = [robustness_figures.Panel(name, range(6), {"teacher": errors})
              for name, errors in (("all", [10.0] * 6), ("noise", rising))]  # fmt: skip
    colors = {"teacher": "red"}
    figure = robustness_figures.severity_curves(curves, colors)
    assert all(panel.get_ylim()[0] == 0 and panel.get_ylim()[1] >= 90 for panel in figure.axes)
    found = [robustness_figures.Panel(name, [0, 8], {"teacher": top1})
             for name, top1 in (("FGSM", [30.0, 20.0]), ("PGD", [90.0, 1.0]))]  # fmt: skip
    figure = robustness_figures.attacks(found, colors)
    assert all(panel.get_ylim()[0] == 0 and panel.get_ylim()[1] >= 90 for panel in figure.axes)
    assert figure.get_suptitle() == "Top-1 under attack, PGD at ε = 8: 1.0 %"


def test_long_class_names_stay_under_their_frame():
    name = "German short-haired pointer of the old kind"
    frames = [np.zeros((8, 8, 3), np.uint8)] * 6
    clip = robustness_figures.StripData("shot_noise", name, frames, range(6), {"teacher": [name] * 5 + ["owl"]})
    figure = robustness_figures.strips("title", [clip])
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts if "German" in text.get_text()]
    assert len(boxes) == 6
    said = sorted(boxes[1:], key=lambda box: box.x0)
    assert all(left.x1 < right.x0 for left, right in pairwise(said))


def test_severities_that_were_not_measured_are_left_out_of_the_means(tmp_path: Path):
    directory = make_run(tmp_path, CLASSES, (0.7,))
    errors = {"fog": [None, None, 30.0, None, 50.0], "snow": [None, None, 20.0, None, None]}
    measured = {"kind": "corruptions", "conditions": MADE | PICTURES, "errors": errors, "top5_errors": errors,
                "clean_error": None}  # fmt: skip
    give(directory / "gen0", {"c_onthefly": scored("c_onthefly", measured)})
    section = robustness(open_runs(directory)[0], 4)
    bars, curves = [block.figure for block in section.blocks if block.block == "drawing"]
    assert [bar.get_height() for bar in bars.axes[0].patches] == [20.0, 40.0]  # type: ignore[attr-defined]
    assert [panel.get_title(loc="left") for panel in curves.axes] == ["weather (1)"], "snow lacks a severity of fog's"
    assert curves.axes[0].lines[0].get_xydata().tolist() == [[3, 30.0], [5, 50.0]]  # type: ignore[union-attr]
