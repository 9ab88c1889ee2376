"""The paper's tables and figures from runs: where runs are found, what is averaged, what is shown."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from nst.atomic import write_config, write_json
from nst.cli import dispatch
from nst.config import compose_config
from nst.errors import NstError
from nst.recipes import EXHIBITS
from nst.report import paper, paper_figures
from nst.stages import report

DIGITS = "digits, 50 labeled and 1,247 unlabeled images of 16 px"


def make_run(
    folder: Path,
    where: str,
    row: str,
    columns: list[str | None],
    results: list[dict[str, Any]],
    *,
    seed: int = 0,
    stage: str = "iterate",
    scale: str | None = DIGITS,
) -> None:
    """A finished run as far as tables look at it; its trainings carry the same block."""
    config = {"stage": stage, "seed": seed, "scale": {"label": scale} if scale else None,
              "paper": {"places": [where], "row": row, "columns": columns}}  # fmt: skip
    for directory, of in ((folder, stage), (folder / "gen0", "train")):
        directory.mkdir(parents=True)
        write_config(directory / "config.yaml", {**config, "stage": of})
        write_json(directory / "result.json", {"top1": 1.0})
    result = {"generations": results} if stage == "iterate" else results[0]
    write_json(folder / "result.json", result)


def network(top1: float, width: float = 0.5, parameters: float = 0.66e6) -> dict[str, Any]:
    return {"top1": top1, "top5": 99.0, "model": "small", "width": width, "depth": 0.5, "parameters": parameters}


def noise_runs(root: Path) -> Path:
    for seed, (teacher, student) in enumerate(((80.0, 90.0), (82.0, 94.0))):
        noisy = ("table 6", "Noisy Student (B5)", [None, "130M unlabeled"], [network(teacher), network(student)])
        make_run(root / "sweep" / f"full,seed={seed}", *noisy, seed=seed)
        make_run(
            root / f"alone-{seed}", "table 6", "EfficientNet-B5", ["130M unlabeled"], [network(teacher)], seed=seed
        )
    return root


def made_cells(where: paper.Exhibit) -> paper.Cells:
    """Two runs in each cell of the last three rows."""
    rows = list(where.rows)[-3:] or ["0.0 to 0.4", "0.4 to 0.6", "0.6 to 0.8"]
    names = [*where.metrics, "fgsm_1", "fgsm_16"] if where.name == "figure 3" else list(where.metrics)

    def measured(row: str, column: str, seed: int) -> paper.CellResult:
        place = rows.index(row)
        metrics = {"params_m": 1.0 + place, **dict.fromkeys(names, 50.0 + place + seed)}
        return paper.CellResult(DIGITS, row, column, seed, "small", metrics, Path())

    return {
        (row, column): paper.Cell(tuple(measured(row, column, seed) for seed in range(2)))
        for row in rows
        for column in where.columns
    }


def note_of(figure: Figure) -> str:
    """The text between a figure's panels and its legend."""
    (legend,) = figure.legends
    return " ".join(legend.get_title().get_text().split())


def test_seeds_are_averaged_wherever_their_runs_lie(tmp_path: Path):
    found = paper.collect(paper.exhibit("table", 6), [noise_runs(tmp_path)])
    cells = found[DIGITS]
    assert set(cells) == {("Noisy Student (B5)", "130M unlabeled"), ("EfficientNet-B5", "130M unlabeled")}
    cell = cells["Noisy Student (B5)", "130M unlabeled"]
    assert cell.seeds == 2
    assert cell.value("top1") == (92.0, pytest.approx(2**0.5 * 2))
    assert cell.value("params_m") == (0.66, 0.0)
    assert cell.value("mce") is None


def test_twins_of_other_data_and_full_size_have_tables_of_their_own(tmp_path: Path):
    make_run(tmp_path / "a", "table 6", "EfficientNet-B5", ["130M unlabeled"], [network(83.9)], scale=None)
    make_run(tmp_path / "b", "table 6", "EfficientNet-B5", ["130M unlabeled"], [network(70.0)], scale="CIFAR-10")
    make_run(tmp_path / "c", "table 6", "EfficientNet-B5", ["130M unlabeled"], [network(80.0)])
    found = paper.collect(paper.exhibit("table", 6), [tmp_path])
    assert list(found) == ["full size", "CIFAR-10", DIGITS]
    assert [cells["EfficientNet-B5", "130M unlabeled"].value("top1") for cells in found.values()] == [
        (83.9, None), (70.0, None), (80.0, None),
    ]  # fmt: skip


def test_two_runs_of_one_cell_and_seed_are_not_averaged(tmp_path: Path):
    for name, top1 in (("a", 80.0), ("b", 81.0)):
        make_run(tmp_path / name, "table 6", "EfficientNet-B5", ["130M unlabeled"], [network(top1)])
    with pytest.raises(NstError, match="two runs have seed 0") as error:
        paper.collect(paper.exhibit("table", 6), [tmp_path])
    assert str(tmp_path / "a") in str(error.value)
    assert str(tmp_path / "b") in str(error.value)


def test_what_is_missing_is_told_with_the_command_that_makes_it(tmp_path: Path):
    with pytest.raises(NstError, match="no finished run belongs to table 8") as error:
        paper.collect(paper.exhibit("table", 8), [noise_runs(tmp_path)])
    assert "experiment=glob(small_table8_*)" in str(error.value)
    with pytest.raises(NstError, match="no table 1 ") as error:
        paper.exhibit("table", 1)
    assert "table 2, table 3" in str(error.value)


def test_ours_stand_below_the_published_row_in_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    noise_runs(tmp_path / "runs")
    dispatch(["report", "--table", "6", f"report.runs=['{tmp_path / 'runs'}']", f"run_dir={tmp_path / 'out'}"])
    assert f"table 6: {tmp_path / 'out' / 'table6.md'}" in capsys.readouterr().out.replace("\n", "")
    where = paper.exhibit("table", 6)
    for scale, cells in paper.collect(where, [tmp_path / "runs"]).items():
        Console(width=80).print(paper.terminal_table(where, scale, cells))
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [" ".join(line.split()) for line in lines]
    place = next(number for number, line in enumerate(rows) if line.startswith("Noisy Student (B5)"))
    assert rows[place] == "Noisy Student (B5) 83.9 84.9"
    assert rows[place + 1] == "ours: small w0.5 d0.5, 2 seeds 92.0 ± 2.8"
    assert "scaled down (digits" in " ".join(rows)
    assert "without Aug, SD, Dropout 83.2 84.3" in rows, "a row that is still missing is shown as published"
    text = (tmp_path / "out" / "table6.md").read_text()
    assert "|   ours: small w0.5 d0.5, 2 seeds |  | 92.0 ± 2.8 |" in text
    with open(tmp_path / "out" / "table6.csv", newline="") as file:
        numbers = {(row["row"], row["metric"]): row for row in csv.DictReader(file)}
    assert float(numbers["Noisy Student (B5)", "top1"]["ours"]) == 92.0
    assert float(numbers["Noisy Student (B5)", "top1"]["published"]) == 84.9
    assert numbers["EfficientNet-B5", "top1"]["seeds"] == "2"
    for ending in ("png", "svg"):
        assert (tmp_path / "out" / "figures" / f"table6.{ending}").stat().st_size > 5000


def test_evaluations_have_the_numbers_of_their_suites(tmp_path: Path):
    """Tables 3 to 5 and figure 3: of one suite each, whatever else was measured with it, before or after."""
    robustness = {
        "imagenet_a": {"kind": "answers", "top1": 60.0, "top5": 80.0},
        "imagenet_c": {"kind": "corruptions", "top1": 70.0, "mean_error": 30.0, "mce": 40.0},
        "c_onthefly": {"kind": "corruptions", "top1": 75.0, "mean_error": 25.0, "mce": None},
        "p_onthefly": {"kind": "perturbations", "top1": 91.0, "mfr": None, "mean_flip_probability": 3.0},
        "pgd": {"kind": "attack", "epsilons": [0, 16], "top1": [90.0, 2.0]},
        "imagenet_val": {"kind": "answers", "top1": 86.0, "top5": 97.0},
    }
    expected = {
        ("table 3", "ImageNet-A"): {"top1": 60.0, "top5": 80.0},
        ("table 4", "224 px"): {"top1": 70.0, "corruption_error": 30.0, "mce": 40.0},
        ("table 4", "made on the fly"): {"top1": 75.0, "corruption_error": 25.0},
        ("table 4", "299 px"): {},  # was not measured
        ("table 5", "made on the fly"): {"top1": 91.0, "flip_rate": 3.0},
        ("figure 3", "adversarial"): {"top1": 93.0, "top5": 99.5, "pgd_0": 90.0, "pgd_16": 2.0},
    }
    for number, ((where, column), metrics) in enumerate(expected.items()):
        result = {"top1": 93.0, "top5": 99.5, "robustness": robustness}
        folder = tmp_path / str(number)
        make_run(folder / "run", where, "EfficientNet-L2", [column], [result], stage="evaluate")
        found = paper.collect(paper.exhibit(*where.split()), [folder])[DIGITS]  # type: ignore[arg-type]
        assert found["EfficientNet-L2", column].measurements[0].metrics == metrics


def test_every_column_with_a_suite_is_one():
    for where in EXHIBITS.values():
        assert set(where.suites) <= set(where.columns)


def test_every_heading_that_is_explained_is_one():
    for where in EXHIBITS.values():
        assert set(where.twin_headings) <= {*where.rows, *where.columns}


def test_a_twin_says_what_the_papers_headings_are_of_it(tmp_path: Path):
    where = paper.exhibit("table", 6)
    cells = paper.collect(where, [noise_runs(tmp_path)])[DIGITS]
    note = paper.twin_note(where, DIGITS, cells)
    assert '"130M unlabeled" is all of the selected images, with RandAugment' in note
    assert "1.3M" not in note, "nothing of ours stands below it"
    assert paper.markdown(where, DIGITS, cells).endswith(f"|\n\n*{note}*\n")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(paper.terminal_table(where, DIGITS, cells))
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    assert note in " ".join(shown.split())


def test_at_full_size_the_papers_headings_are_true(tmp_path: Path):
    where = paper.exhibit("table", 6)
    cells = paper.collect(where, [noise_runs(tmp_path)])[DIGITS]
    assert paper.twin_note(where, paper.FULL_SIZE, cells) == ""
    assert "Scaled down" not in paper.markdown(where, paper.FULL_SIZE, cells)
    assert paper.terminal_table(where, paper.FULL_SIZE, cells).caption is None
    text = note_of(paper_figures.draw(where, paper.FULL_SIZE, cells))
    assert re.fullmatch(r"Bars begin at [\d.]+ \(ours\) and 81.7 \(the paper\), not at 0\.", text)


@pytest.mark.parametrize(
    ("recipe", "share", "augment"), [("noise_full_1m", 0.1, "standard"), ("noise_full_130m", 1.0, "randaugment")]
)
def test_twins_of_table_6_are_what_their_headings_are_said_to_be(recipe: str, share: float, augment: str):
    cfg = compose_config([f"experiment=small_table6_{recipe}"])
    assert (cfg.select.fraction, cfg.noise.unlabeled.augment) == (share, augment)


@pytest.mark.parametrize("where", list(EXHIBITS.values()), ids=lambda where: where.file_name)
def test_notes_of_a_figure_are_not_cut_and_lie_upon_nothing(where: paper.Exhibit):
    figure = paper_figures.draw(where, DIGITS, made_cells(where))
    FigureCanvasAgg(figure).draw()
    panels = [axes.get_tightbbox() for axes in figure.axes if axes.get_visible()]
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(panel) for panel in panels)
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
    assert ("Scaled down" in note_of(figure)) == bool(where.twin_headings)


@pytest.mark.parametrize("where", list(EXHIBITS.values()), ids=lambda where: where.file_name)
def test_every_place_has_its_figure(where: paper.Exhibit):
    figure = paper_figures.draw(where, DIGITS, made_cells(where))
    assert isinstance(figure, Figure)
    drawn = [line for axes in figure.axes for line in [*axes.get_lines(), *axes.patches]]
    assert len(drawn) >= len(where.columns)


def test_leftovers_of_single_seeds_have_no_deviation(tmp_path: Path):
    make_run(tmp_path / "a", "table 6", "EfficientNet-B5", ["130M unlabeled"], [network(80.0)])
    where = paper.exhibit("table", 6)
    made = report.of_the_paper(where, tmp_path / "out", [tmp_path / "a"])
    _, rows = paper.lines(where, made["cells"][DIGITS])
    assert rows[1] == ["  ours: small w0.5 d0.5, 1 seed", "", "80.0"]


def test_published_figures_of_a_recipe():
    block = {
        "places": ["figure 1", "table 9"],
        "row": "EfficientNet-B3",
        "columns": ["supervised", "itself as teacher"],
    }
    where, figures = paper.published(block)
    assert where == "figure 1, EfficientNet-B3"
    assert [(name, scores["top1"]) for name, scores in figures] == [("supervised", 81.7), ("itself as teacher", 82.4)]
    assert paper.published(None) == ("", [])
    with pytest.raises(NstError, match="is not one"):
        paper.published({"table": 2})


@pytest.mark.parametrize("where", list(EXHIBITS.values()), ids=lambda where: where.file_name)
def test_no_figure_is_drawn_of_what_no_run_measured(where: paper.Exhibit):
    row = next(iter(where.rows), "0.0 to 0.4")

    def one(column: str, metrics: dict[str, float]) -> paper.Cells:
        return {(row, column): paper.Cell((paper.CellResult(DIGITS, row, column, 0, "", metrics, Path()),))}

    known = "fgsm_8" if where.name == "figure 3" else next(iter(where.metrics))
    assert paper_figures.draw(where, DIGITS, one(where.columns[-1], {"other": 1.0})) is None
    assert paper_figures.draw(where, DIGITS, one("of no such column", {known: 50.0})) is None
    assert paper_figures.draw(where, DIGITS, one(where.columns[-1], {known: 50.0})) is not None
    cells = made_cells(where)
    column = where.columns[-1]
    cells["not in the paper", column] = cells[next(key for key in cells if key[1] == column)]
    cells |= one(column, {})  # beside those that were measured
    assert paper_figures.draw(where, DIGITS, cells) is not None


def test_a_table_without_a_measured_figure_is_written_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    asked = ["report", "--table", "4", f"report.runs=['{tmp_path / 'runs'}']", f"run_dir={out}"]
    result = {"top1": 93.0, "robustness": {"imagenet_c": {"kind": "corruptions", "top1": 70.0, "mce": 40.0}}}
    make_run(tmp_path / "runs" / "a", "table 4", "EfficientNet-L2", ["224 px"], [result], stage="evaluate")
    dispatch(asked)
    assert "no figure" not in capsys.readouterr().out
    assert (out / "figures" / "table4.png").exists()
    write_json(tmp_path / "runs" / "a" / "result.json", {"top1": 93.0})
    dispatch(asked)
    told = " ".join(capsys.readouterr().out.split())
    assert f"table 4, {DIGITS}: no figure, as no run measured what it shows" in told
    assert "EfficientNet-L2" in (out / "table4.md").read_text()
    assert (out / "table4.csv").exists()
    assert not list((out / "figures").iterdir()), "that of the runs as they were"


@pytest.mark.parametrize(
    "block",
    [{"places": ["table 6"]}, {"places": ["table 6"], "row": "a", "columns": None}, {"places": "table 6"}, "table 6"],
)
def test_a_paper_block_that_is_none_is_told_with_its_file(tmp_path: Path, block: Any):
    write_config(tmp_path / "config.yaml", {"stage": "evaluate", "seed": 0, "paper": block})
    write_json(tmp_path / "result.json", {"top1": 80.0})
    with pytest.raises(NstError, match="is not one") as error:
        paper.collect(paper.exhibit("table", 6), [tmp_path])
    assert str(tmp_path / "config.yaml") in error.value.what
    assert "report.runs=" in (error.value.next or "")
    with pytest.raises(NstError, match="is not one"):
        paper.published(block)
