"""The section on robustness: headline numbers, errors under corruption, flips, film strips, attacks, pictures.

Single sequences and pictures are chosen for showing a difference, so the sentence beside them counts how often it is
the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from statistics import fmean

from nst.data.images import encode_png
from nst.evaluation.results import KINDS, kind_of
from nst.report import gallery, robustness_figures
from nst.report.figures import series_color
from nst.report.gallery import Picture
from nst.report.page import Drawing, Gallery, Section, Table, number
from nst.report.records import Experiment, opening
from nst.report.robustness_figures import Colors, Panel, StripData, readable
from nst.report.robustness_files import (
    Answer,
    Measured,
    answered_by_both,
    conditions,
    corruption_values,
    networks_of,
    severity_means,
    whole_rows,
)
from nst.robustness.baselines import CORRUPTION_GROUPS, CORRUPTIONS

FIGURES = (
    *(f"{suite}_{figure}" for kind in KINDS.values() for suite in kind.suites for figure in kind.figures),
    "attacks",
)
CHANGE_NOTE = "Change: last network less first. For errors and flips lower is better, for top-1 higher."
BASELINE_NOTE = "The baseline run is eval.baseline; nst iterate takes the teacher where none is named."
STRIPS = 3
SHORT_NAME = 7  # letters; under longer ones only every second frame has room
ERRORS = ("Errors", "makes fewer errors", "makes more errors")
FLIPS = ("Flips of the answer", "flips less often", "flips more often")


def robustness(experiment: Experiment, examples: int) -> Section:
    """Everything that the evaluations of robustness have left; or how to make them."""
    section = Section("Robustness")
    suites = list(dict.fromkeys(suite for generation in experiment.generations for suite in generation.robustness))
    if not suites:
        section.missing.append(
            "Robustness was not measured. nst iterate eval=robustness_quick (a few images) or eval=robustness with the "
            "options of this run adds it to what is there; so does, for one network, nst evaluate eval=robustness "
            f"{quote(f'model.checkpoint={experiment.last.directory}')}."
        )
        return section
    found = {suite: networks_of(experiment, suite) for suite in suites}
    networks = {suite: shown for suite, (shown, _) in found.items()}
    colors = {generation.title: series_color(place) for place, generation in enumerate(experiment.generations)}
    section.text = "The same pictures for all networks, without noise in the network and with its averaged weights."
    section.blocks.append(numbers_table(networks, list(colors)))
    for suite, shown in networks.items():
        kind = shown[0].block["kind"]
        if kind in DRAWN:
            section.blocks += DRAWN[kind](suite, shown, colors)
        if KINDS[kind].samples == "images" and len(shown) > 1 and examples:
            section.blocks += _corrected(suite, shown[0], shown[-1], examples)
        if lacks := dict.fromkeys(name for network in shown for name in network.block.get("missing", ())):
            text = f"{suite} is not whole, so no mean over the benchmark is given. Missing: {', '.join(lacks)}."
            section.missing.append(text)
    attacked = [shown for shown in networks.values() if shown[0].block["kind"] == "attack"]
    section.blocks += _attacks(attacked, colors) if attacked else []
    section.missing += [reason for _, apart in found.values() for reason in apart]
    return section


def numbers_table(networks: Mapping[str, Sequence[Measured]], every: Sequence[str]) -> Table:
    """A row per number, a column per measured network of `every`, and the change from first to last."""
    measured = {network.title for shown in networks.values() for network in shown}
    titles = [title for title in every if title in measured]
    rows, others = [], []
    for suite, shown in networks.items():
        blocks = {network.title: network.block for network in shown}
        kind = kind_of(shown[0].block)
        rows += [[name, suite, *_cells([values.get(title) for title in titles])]
                 for name, values in kind.compared(blocks).items()]  # fmt: skip
        if not kind.stated(shown[0].block):  # the others' stand below their figures
            others.append(conditions(suite, shown[0].block))
    change = ["change"] if len(titles) > 1 else []
    divided = any("(baseline run = 100)" in row[0] for row in rows)
    notes = [CHANGE_NOTE] * bool(change) + [BASELINE_NOTE] * divided
    return Table(["", "suite", *titles, *change], rows, note=" ".join([*notes, *others]))


def _cells(values: Sequence[float | None]) -> list[str]:
    cells = [number(value, ".2f") for value in values]
    if len(values) == 1:
        return cells
    first, last = values[0], values[-1]
    return [*cells, number(None if first is None or last is None else last - first, "+.2f")]


# ---- corruptions -------------------------------------------------------------------------------------------------


def _corruptions(suite: str, shown: Sequence[Measured], colors: Colors) -> list[Drawing]:
    names, values, normalised = corruption_values(shown)
    axis = "CE (% of AlexNet's error)" if normalised else "top-1 error (%)"
    figure = robustness_figures.bars(_claim(values, ERRORS, "corruptions"), names, values, axis, colors)
    what = "Corruption error against AlexNet's" if normalised else "Top-1 error, unnormalised"
    caption = (
        f"{what}, mean over severities; dashed lines are means over all shown. {conditions(suite, shown[0].block)}"
    )
    drawings = [Drawing(f"{suite}_errors", figure, caption)]
    groups = _groups(whole_rows(shown, names))
    if groups:
        curves = [Panel(name, range(6), {network.title: severity_means(network, members) for network in shown})
                  for name, members in groups.items()]  # fmt: skip
        figure = robustness_figures.severity_curves(curves, colors)
        drawings.append(Drawing(f"{suite}_severities", figure, f"Mean error of the corruptions of a kind, {suite}."))
    return drawings


def _groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Kinds of corruptions and how many of them there are → their names; first all together, without extra ones."""
    kinds = {kind: [name for name in members if name in names] for kind, members in CORRUPTION_GROUPS.items()}
    counted = [name for name in CORRUPTIONS if name in names]
    found = {"all": counted, **kinds} if len([kind for kind in kinds.values() if kind]) > 1 else kinds
    return {f"{kind} ({len(members)})": members for kind, members in found.items() if members}


def _claim(values: Mapping[str, Sequence[float | None]], verbs: tuple[str, str, str], conditions: str) -> str:
    """A sentence that compares the first and the last network, condition by condition.

    Args:
        verbs: for what is counted, for less of it, and for more of it.
    """
    rows = list(values.values())
    both = [(before, after) for before, after in zip(rows[0], rows[-1], strict=True)
            if before is not None and after is not None]  # fmt: skip
    if len(rows) == 1 or not both:
        return f"{verbs[0]} under {conditions}"
    title = list(values)[-1]
    fewer, more = sum(after < before for before, after in both), sum(after > before for before, after in both)
    means = f"{fmean(before for before, _ in both):.1f} → {fmean(after for _, after in both):.1f} %"
    verb, count = (verbs[1], fewer) if fewer >= more else (verbs[2], more)
    return f"{opening(title)} {verb} under {count} of {len(both)} {conditions}: {means} on average"


# ---- perturbation sequences --------------------------------------------------------------------------------------


def _perturbations(suite: str, shown: Sequence[Measured], colors: Colors) -> list[Drawing]:
    names = list(dict.fromkeys(name for network in shown for name in network.block["flip_probability"]))
    if not names:
        return []
    values = {network.title: [network.block["flip_probability"].get(name) for name in names] for network in shown}
    title = _claim(values, FLIPS, "perturbations")
    figure = robustness_figures.bars(title, names, values, "flip rate (%)", colors)
    caption = (
        "How often the answer changes between two frames of a sequence (noise: between a frame and the first); dashed "
        f"lines are means over all shown. {conditions(suite, shown[0].block)}"
    )
    return [Drawing(f"{suite}_flips", figure, caption), *_strips(suite, shown)]


def _strips(suite: str, shown: Sequence[Measured]) -> list[Drawing]:
    first, last = shown[0], shown[-1]
    pairs = answered_by_both(first, last)
    chosen = _telling(pairs, alone=len(shown) == 1)
    clips = [clip for pair in chosen if (clip := _clip(first, last, *pair)) is not None]
    if not clips:
        return []
    caption = "Numbers are frames. "
    if len(shown) == 1:
        caption += f"Chosen for the most flips among the {len(pairs)} sequences that were kept for showing."
    else:
        steadier, shakier = (
            sum(sign * (before.flips - after.flips) > 0 for before, after in pairs) for sign in (1, -1)
        )
        caption += (
            f"Chosen for the largest difference in favour of {last.named}. Among the {len(pairs)} sequences that were "
            f"kept for showing, it flips less often than {first.named} in {steadier} and more often in {shakier}."
        )
    title = "What the networks say along a sequence" if len(shown) > 1 else "What the network says along a sequence"
    return [Drawing(f"{suite}_strips", robustness_figures.strips(title, clips), caption)]


def _telling(pairs: Sequence[tuple[Answer, Answer]], *, alone: bool) -> list[tuple[Answer, Answer]]:
    """The few sequences, of different perturbations and images, that show the difference best."""
    ordered = sorted(pairs, key=lambda pair: (pair[1].flips - pair[0].flips, -pair[0].flips, pair[1].flips))
    if alone:
        ordered = sorted(pairs, key=lambda pair: -pair[0].flips)
    chosen: list[tuple[Answer, Answer]] = []
    for pair in ordered:
        if all(pair[0].caption != other.caption and pair[0].key != other.key for other, _ in chosen):
            chosen.append(pair)
    return chosen[:STRIPS]


def _clip(first: Measured, last: Measured, before: Answer, after: Answer) -> StripData | None:
    frames = after.pictures() or before.pictures()
    if not frames:
        return None
    longest = max(map(len, (*before.predicted, *after.predicted)))
    places = range(0, len(frames), 1 if longest <= SHORT_NAME else 2)
    said = {network.title: [answer.predicted[place] for place in places]
            for network, answer in ((first, before), (last, after))}  # fmt: skip
    numbers = [after.frames[place] for place in places]
    return StripData(after.caption, after.label, [frames[place] for place in places], numbers, said)


# ---- attacks -----------------------------------------------------------------------------------------------------


def _attacks(found: Sequence[Sequence[Measured]], colors: Colors) -> list[Drawing]:
    data = [Panel(shown[0].suite.upper().replace("_", " "), shown[0].block["epsilons"],
                  {network.title: network.block["top1"] for network in shown}) for shown in found]  # fmt: skip
    caption = " ".join(conditions(shown[0].suite, shown[0].block) for shown in found)
    return [Drawing("attacks", robustness_figures.attacks(data, colors), caption)]


# ---- pictures ----------------------------------------------------------------------------------------------------


def _corrected(suite: str, first: Measured, last: Measured, count: int) -> list[Gallery]:
    """Shown pictures that the last network gets right and the first one wrong, the most confident first."""
    pairs = [(before, after) for before, after in answered_by_both(first, last) if after.label is not None]
    corrected = [(before, after) for before, after in pairs if after.right and not before.right]
    spoiled = sum(before.right and not after.right for before, after in pairs)
    corrected.sort(key=lambda pair: (-pair[1].confidence[0], pair[1].key))
    pictures = [picture for pair in corrected[:count] if (picture := _picture(*pair)) is not None]
    if not pictures:
        return []
    text = (
        f"Pictures of {suite} that {last.named} gets right and {first.named} wrong: {len(corrected)} of the "
        f"{len(pairs)} that were kept for showing; the other way round {spoiled}. The most confident first."
    )
    return [Gallery(f"Right where {first.named} is wrong, {suite}", text, pictures)]


def _picture(before: Answer, after: Answer) -> Picture | None:
    pictures = after.pictures()
    uri = gallery.data_uri(encode_png(pictures[0])) if pictures else None
    if uri is None:
        return None
    return Picture(uri, after.key, after.predicted[0], after.confidence[0], after.label, before.predicted[0],
                   readable(after.caption))  # fmt: skip


DRAWN = {"corruptions": _corruptions, "perturbations": _perturbations}  # figures of a suite by its kind
