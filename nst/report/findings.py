"""`nst report --findings`: each claim of the paper, and what the raw numbers of our runs say of it.

An effect is the mean of the differences of each seed that both networks have, with the 95 % interval of that mean
(Student's t). Of a single seed it is the interval of its test images, in pairs where the answers to each are known
(`nst.intervals`), and the table says so. A claim holds where the whole interval is on its side, does not where it is on
the other, and cannot be told where it is on both. Recipes are chosen on seeds from 100 on, which are no evidence and
left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from nst.intervals import Interval, over_seeds, paired, unpaired
from nst.report.claims import CLAIMS, LAST, Claim, Contender, Expectation
from nst.report.evidence import METRICS, Line, read_folder
from nst.shown import in_markdown

HOLDS, NOT, UNTOLD, NOT_RUN = "holds", "**does not**", "cannot be told", "not run"
HEADS = ("claim of the paper", "here", "effect, points (95 % interval)", "seeds", "verdict")
CHOOSING = 100  # seeds from here on
Seeds = dict[int, Line]


@dataclass(frozen=True)
class Effect:
    """What an expectation came to.

    Args:
        points: of the metric that `more` has more than `less`, mean over the seeds.
        interval: of it; None of a single seed of a metric that has none.
        seeds: that both networks have.
    """

    points: float
    interval: Interval | None
    seeds: Sequence[int]


@dataclass(frozen=True)
class Evidence:
    """The lines of all networks by row."""

    runs: dict[tuple[str, str], dict[str, Seeds]]

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Evidence:
        runs: dict[tuple[str, str], dict[str, Seeds]] = defaultdict(lambda: defaultdict(dict))
        for line in lines:
            if line.seed < CHOOSING:
                runs[line.series, line.row][line.network][line.seed] = line
        return cls({key: dict(networks) for key, networks in runs.items()})

    def network(self, which: Contender) -> Seeds:
        """Seed → its line."""
        networks = self.runs.get((which.series, which.row), {})
        if which.network != LAST:
            return networks.get(which.network, {})
        numbers = {name: next(iter(seeds.values())).generation for name, seeds in networks.items()}
        generations = {number: name for name, number in numbers.items() if number is not None}
        return networks[generations[max(generations)]] if generations else {}


def effect(expectation: Expectation, evidence: Evidence) -> Effect | None:
    """None where no seed has both networks, also as they are one: of a run without a student the last is the first."""
    more, less = evidence.network(expectation.more), evidence.network(expectation.less)
    metric = expectation.metric
    both = [seed for seed in more.keys() & less.keys() if more[seed] is not less[seed]]
    seeds = sorted(seed for seed in both if metric in more[seed].scores and metric in less[seed].scores)
    if not seeds:
        return None
    differences = [more[seed].scores[metric] - less[seed].scores[metric] for seed in seeds]
    if len(seeds) > 1:
        return Effect(fmean(differences), over_seeds(differences), seeds)
    interval = of_images(more[seeds[0]], less[seeds[0]]) if metric == "top1" else None
    return Effect(differences[0], interval, seeds)


def of_images(more: Line, less: Line) -> Interval:
    """Interval of a difference of top-1 of a single seed, from its test images."""
    pair = more.pairs.get(name_for(more, less))
    if pair is None and (other := less.pairs.get(name_for(less, more))):
        pair = other[1], other[0]
    if pair is None or more.images != less.images:
        return unpaired(less.scores["top1"], more.scores["top1"], less.images, more.images)
    return paired(*pair, more.images)


def name_for(line: Line, other: Line) -> str:
    """What a network's pairs call another one: no more than distinguishes them."""
    if line.series != other.series:
        return f"{other.series}/{other.row}/{other.network}"
    return other.network if line.row == other.row else f"{other.row}/{other.network}"


def verdict(expectation: Expectation, found: Effect | None) -> str:
    if found is None:
        return NOT_RUN
    if found.interval is None:
        return UNTOLD
    low, high = found.interval if METRICS[expectation.metric][1] else (-found.interval[1], -found.interval[0])
    return HOLDS if low > 0 else NOT if high < 0 else UNTOLD


def table(evidence: Evidence, claims: Sequence[Claim] = CLAIMS) -> str:
    """The findings as a table in Markdown, a line for each expectation."""
    rows: list[Sequence[str]] = [HEADS, ("---", "---", "---", "---", "---")]
    for claim in claims:
        title = f"{claim.says} ({claim.place})"
        for expectation in claim.expectations:
            rows.append((in_markdown(title), expectation.says, *_told(expectation, effect(expectation, evidence))))
            title = ""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _told(expectation: Expectation, found: Effect | None) -> tuple[str, str, str]:
    if found is None:
        return "", "", NOT_RUN
    words = "" if expectation.metric == "top1" else f" of {METRICS[expectation.metric][0]}"
    between = "no interval"
    if found.interval:
        between = f"{_signed(found.interval[0])} to {_signed(found.interval[1])}"
    if len(found.seeds) == 1:
        between += ", of one seed" + ("'s images" if found.interval else "")
    seeds = ", ".join(map(str, found.seeds))
    return f"{_signed(found.points)}{words} ({between})", seeds, verdict(expectation, found)


def _signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def of_folder(folder: Path) -> str:
    """The table from the CSV files of a folder.

    Raises:
        NstError: there is no such folder, or one of its files is damaged or contradicts another.
    """
    return table(Evidence.of(read_folder(folder)))
