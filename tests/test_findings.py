"""`nst report --findings`: effects and intervals against other arithmetic, from CSV files that the tests write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import findings_figure, series
from benchmarks.series_lines import text_of
from nst.errors import NstError
from nst.intervals import over_seeds, paired, unpaired
from nst.report import evidence
from nst.report.claims import Claim, Contender, Expectation
from nst.report.evidence import COLUMNS, Line
from nst.report.findings import Evidence, effect, of_folder, table
from nst.report.style import BLUE, VERMILLION
from tests.forked import run

TEACHER, STUDENT, OTHER = Contender("s", "a", "gen0"), Contender("s", "a"), Contender("s", "b")
GAIN = Expectation("student − teacher", STUDENT, TEACHER)
ERRORS = Expectation("errors", STUDENT, OTHER, "corruption_error")


def line(seed: int = 0, network: str = "gen0", top1: float = 80.0, row: str = "a", **more: object) -> Line:
    return replace(Line("s", row, seed, network, {"top1": top1}, 200, {}, "abc"), **more)  # type: ignore[arg-type]


def seeds(*pairs: tuple[float, float]) -> list[Line]:
    """Teacher and student of each seed."""
    return [line(seed, f"gen{number}", top1) for seed, pair in enumerate(pairs) for number, top1 in enumerate(pair)]


def told(lines: list[Line], expectation: Expectation = GAIN) -> list[str]:
    """The cells of an expectation."""
    text = table(Evidence.of(lines), [Claim("it helps", "table 2", (expectation,))])
    return [cell.strip() for cell in text.splitlines()[2].split("|")[1:-1]]


def write(folder: Path, lines: list[Line], name: str = "s.csv") -> Path:
    (folder / name).write_text(text_of(lines, heads=True))
    return folder


def test_a_file_reads_as_it_was_written(tmp_path: Path):
    scores = {"top1": 88.6481, "corruption_error": 20.5, "pgd_16": 0.0}
    facts = {name: f"{name}, \"quoted\"\n'and' | barred" for name in evidence.FACTS}
    first = line(3, "gen1", scores=scores, pairs={"gen0": (9, 2), "t/b/gen1": (0, 0)}, facts=facts)
    write(tmp_path, [first, line(3)])
    again = evidence.read_folder(tmp_path)
    assert [replace(found, place="", facts=facts) for found in again] == [first, line(3, facts=facts)]
    assert again[0].facts == facts
    assert again[1].place == f"s.csv line {3 + len(facts)}"  # behind the breaks of the line before


def test_the_figure_draws_what_was_run_with_its_interval_and_verdict(tmp_path: Path):
    not_run = Claim("never run", "table 9", (Expectation("a − b", STUDENT, Contender("s", "missing")),))
    worse = Expectation("teacher − student", TEACHER, STUDENT)
    claims = (Claim("it helps", "table 2", (GAIN, worse, ERRORS)), not_run)
    found = Evidence.of(seeds((60, 63), (90, 93.5), (75, 77.5)))
    (axes,) = findings_figure.draw(found, claims).axes
    assert [text.get_text() for text in axes.texts] == ["it helps (table 2)", "student − teacher", "teacher − student"]
    gain, loss = axes.lines[0], axes.lines[2]
    assert list(gain.get_xdata()) == pytest.approx(over_seeds([3.0, 3.5, 2.5]))
    assert (gain.get_color(), loss.get_color()) == (BLUE, VERMILLION)
    with pytest.raises(NstError, match="no finding to draw"):
        findings_figure.draw(found, (not_run,))
    series.main(["--figure", str(tmp_path / "figure.png")])  # those of docs/results
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("count", [2, 3, 5, 11])
def test_the_interval_over_seeds_is_students_t(count: int):
    values = np.random.default_rng(count).normal(3, 2, count)
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert over_seeds(list(values)) == pytest.approx((low, high), abs=1e-3)


def test_an_effect_is_the_mean_of_the_differences_of_each_seed():
    """Accuracies that differ much between the seeds do not widen it: each seed is its own pair."""
    found = effect(GAIN, Evidence.of(seeds((60, 63), (90, 93.5), (75, 77.5))))
    assert found is not None
    assert found.points == pytest.approx(3.0)
    assert found.interval == pytest.approx(over_seeds([3.0, 3.5, 2.5]))
    assert told(seeds((60, 63), (90, 93.5), (75, 77.5))) == [
        "it helps (table 2)", "student − teacher", "+3.0 (+1.8 to +4.2)", "0, 1, 2", "holds",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([(80, 83), (80, 84), (80, 83.5)], "holds"),
        ([(80, 77), (80, 76), (80, 76.5)], "**does not**"),
        ([(80, 83), (80, 76), (80, 81)], "cannot be told"),
        ([(80, 83), (80, 84)], "cannot be told"),  # two seeds know their deviation too badly
    ],
)
def test_the_verdict_is_the_side_on_which_the_whole_interval_lies(pairs: list[tuple[float, float]], verdict: str):
    assert told(seeds(*pairs))[-1] == verdict


def test_fewer_errors_are_better():
    lines = [
        line(seed, "gen1", row=row, scores={"top1": 80.0, "corruption_error": error + seed})
        for seed in range(3)
        for row, error in (("a", 20.0), ("b", 25.0))
    ]
    assert told(lines, ERRORS)[2:] == ["−5.0 of corruption error (−5.0 to −5.0)", "0, 1, 2", "holds"]
    turned = replace(ERRORS, more=OTHER, less=STUDENT)
    assert told(lines, turned)[-1] == "**does not**"


def test_a_single_seed_has_the_interval_of_its_images_and_says_so():
    pairs = {"gen0": (20, 4)}  # of 200 images: 8 points
    low, high = paired(20, 4, 200)
    cells = told([line(2), line(2, "gen1", 88.0, pairs=pairs)])
    assert cells[2:] == [f"+8.0 (+{low:.1f} to +{high:.1f}, of one seed's images)", "2", "holds"]
    # the pair may stand on either of both lines
    assert told([line(2, pairs={"gen1": (4, 20)}), line(2, "gen1", 88.0)])[2:] == cells[2:]


def test_a_single_seed_without_pairs_is_compared_as_two_samples():
    found = effect(GAIN, Evidence.of([line(), line(0, "gen1", 88.0)]))
    assert found is not None
    assert found.interval == unpaired(80.0, 88.0, 200, 200)


def test_a_single_seed_of_another_metric_has_no_interval():
    lines = [line(0, "gen1", row=row, scores={"top1": 80.0, "corruption_error": error}) for row, error in (("a", 9), ("b", 20))]  # fmt: skip  # noqa: E501
    assert told(lines, ERRORS)[2:] == ["−11.0 of corruption error (no interval, of one seed)", "0", "cannot be told"]


def test_pairs_of_another_row_are_found_by_its_name():
    lines = [line(0, "gen1", 84.0), line(0, "gen1", 80.0, row="b", pairs={"a/gen1": (4, 12)})]
    found = effect(Expectation("rows", STUDENT, OTHER), Evidence.of(lines))
    assert found is not None
    assert found.interval == paired(12, 4, 200)


def test_only_seeds_that_both_have_count():
    lines = [*seeds((80, 83), (80, 84), (80, 83.5)), line(3, "gen0", 10.0), line(4, "gen1", 99.0)]
    assert told(lines)[2:] == told(seeds((80, 83), (80, 84), (80, 83.5)))[2:]


def test_what_was_not_run_is_said():
    assert told([])[2:] == ["", "", "not run"]
    assert told([line()])[2:] == ["", "", "not run"]
    of_others = [line(seed, f"gen{number}") for seed in (0, 1) for number in (0, 1)]
    assert told(of_others, ERRORS)[2:] == ["", "", "not run"]  # both networks, but not the metric


def test_seeds_by_which_recipes_were_chosen_are_no_evidence():
    chosen = [line(100 + found.seed, found.network, found.scores["top1"]) for found in seeds((80, 83), (80, 84))]
    assert told(chosen)[-1] == "not run"
    assert told([*seeds((80, 83)), *chosen])[3] == "0"


def test_the_last_network_is_the_highest_generation_and_never_the_control():
    lines = [line(0, name, top1) for name, top1 in (("gen10", 90.0), ("gen2", 85.0), ("gen0", 80.0), ("control", 99.0))]
    found = effect(GAIN, Evidence.of(lines))
    assert found is not None
    assert found.points == 10.0


def test_lines_that_contradict_each_other_are_refused_by_name(tmp_path: Path):
    write(tmp_path, [line()])
    write(tmp_path, [line(top1=81.0)], "t.csv")
    with pytest.raises(NstError, match="two numbers of s/a/0/gen0") as caught:
        of_folder(tmp_path)
    assert caught.value.got == "s.csv line 2 and t.csv line 2"


def test_equal_lines_count_once(tmp_path: Path):
    write(tmp_path, seeds((80, 83), (80, 84)))
    once = of_folder(tmp_path)
    assert of_folder(write(tmp_path, seeds((80, 83), (80, 84)), "t.csv")) == once


def test_seeds_with_other_options_are_refused(tmp_path: Path):
    write(tmp_path, [line(), line(1, options="def")])
    with pytest.raises(NstError, match="s/a was run with two sets of options"):
        of_folder(tmp_path)


GOOD = text_of([line(pairs={"gen1": (3, 4)})], heads=True)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("network,", "net,", "the columns are"),
        (",80,", ",eighty,", "line 2: could not convert"),
        (",80,", ",nan,", "top1 is no percentage"),
        (",80,", ",180,", "top1 is no percentage"),
        (",80,", ",,", "a line needs"),
        ("s,a,0,", "s,a,-1,", "seed is no whole number"),
        ("s,a,0,", "s,,0,", "a line needs"),
        (",200,", ",2e2,", "images is no whole number"),
        ("gen1:3:4", "gen1:3", "network:wins:losses"),
        ("gen1:3:4", "gen1:3:400", "more pairs than images"),
        ("s,a,0,gen0,80", "s,a,0", "cells instead of"),
        ("s,a,0,", '"s,a,0,', "line 2"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(before: str, after: str, words: str, tmp_path: Path):
    assert before in GOOD
    (tmp_path / "s.csv").write_text(GOOD.replace(before, after, 1))
    with pytest.raises(NstError, match=r"s\.csv is damaged") as caught:
        of_folder(tmp_path)
    assert words in str(caught.value)


def test_a_cut_file_is_damaged(tmp_path: Path):
    (tmp_path / "s.csv").write_text(GOOD[: len(",".join(COLUMNS)) + 20])
    with pytest.raises(NstError, match="is damaged"):
        of_folder(tmp_path)
    (tmp_path / "s.csv").write_text("")
    with pytest.raises(NstError, match="is damaged"):
        of_folder(tmp_path)


def test_a_folder_that_is_not_there_is_said():
    with pytest.raises(NstError, match="is no folder of results"):
        of_folder(Path("nowhere"))


def test_the_command_prints_the_table_of_a_folder_and_nothing_else(tmp_path: Path):
    named = [replace(found, series="eurosat_10", row="recipe") for found in seeds((80, 83), (80, 84), (80, 83.5))]
    write(tmp_path, named)
    made = run(["report", "--findings", "."], tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout == of_folder(tmp_path)
    assert "| +3.5 (+2.3 to +4.7) | 0, 1, 2 | holds |" in made.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]
