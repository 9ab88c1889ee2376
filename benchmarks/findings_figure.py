"""The findings as a figure: each effect on top-1 with its interval, by claim; right of zero is the claim's side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nst.errors import NstError
from nst.report.claims import CLAIMS, Claim
from nst.report.findings import HOLDS, NOT, UNTOLD, Effect, Evidence, effect, verdict
from nst.report.style import BLUE, INK, MUTED, PAPER, VERMILLION, panels, styled

COLORS = {HOLDS: BLUE, UNTOLD: MUTED, NOT: VERMILLION}
LEGEND = {HOLDS: "holds", UNTOLD: "cannot be told", NOT: "does not hold"}
LETTERS = 58  # of a line beside the axis
LINE = 0.27  # inches


@styled()
def draw(evidence: Evidence, claims: Sequence[Claim] = CLAIMS) -> Figure:
    """A line for each expectation of top-1 that has been run.

    Raises:
        NstError: there is none.
    """
    lines: list[tuple[str, Effect | None, str]] = []  # words, what was found, and its verdict; of a claim no effect
    for claim in claims:
        found = [(each, effect(each, evidence)) for each in claim.expectations if each.metric == "top1"]
        known = [(each, ours) for each, ours in found if ours is not None and ours.interval is not None]
        if known:
            lines.append((f"{claim.says} ({claim.place})", None, ""))
            lines += [(each.says, ours, verdict(each, ours)) for each, ours in known]
    if not lines:
        raise NstError("there is no finding to draw", valid="runs of the rows that a claim compares")
    words = [textwrap.wrap(text, LETTERS) for text, _, _ in lines]
    tall = [0.5 + 0.5 * len(part) for part in words]
    figure, (axes,) = panels("What our runs on photographs say of the claims", 1.3 + LINE * sum(tall))
    top = 0.0
    for part, height, (_, ours, said) in zip(words, tall, lines, strict=True):
        place = top + height / 2
        top += height
        weight = "bold" if ours is None else "normal"
        axes.text(
            -0.01, place, "\n".join(part), color=INK, fontsize=9, fontweight=weight,
            transform=axes.get_yaxis_transform(), ha="right", va="center",
        )  # fmt: skip
        if ours is not None:
            _interval(axes, place, ours, COLORS[said])
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set(ylim=(top, 0), yticks=[], xlabel="points of top-1, with the 95 % interval")
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    entries = [Line2D([], [], color=COLORS[said], marker="o", label=words) for said, words in LEGEND.items()]
    entries.append(Line2D([], [], color=MUTED, marker="o", markerfacecolor=PAPER, label="one seed: of its images"))
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries))
    return figure


def _interval(axes: Axes, place: float, ours: Effect, color: str) -> None:
    """Hollow where it is of one seed, and so says nothing of what another one would change."""
    assert ours.interval is not None
    axes.plot(ours.interval, [place, place], color=color, linewidth=2, solid_capstyle="round")
    inside = PAPER if len(ours.seeds) == 1 else color
    axes.plot(ours.points, place, marker="o", markersize=7, color=color, markerfacecolor=inside, markeredgewidth=1.6)
