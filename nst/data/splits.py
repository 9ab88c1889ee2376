"""An exact, stratified, seeded split of a source's entries into labeled, unlabeled, validation and test.

Everything random is a hash of (seed, key). So a split does not depend on how the source is read, the labeled set of 5
images a class is part of that of 10, and the test set is the same for any number of labels.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import xxhash

from nst.data.arrangement import ignore_option
from nst.data.layout import Entry
from nst.errors import NstError
from nst.settings.data import Sizes
from nst.shown import some

Positions = list[int]
HELD_OUT = 10  # one image in ten is for the test where neither source nor option say more


def split(
    entries: Sequence[Entry],
    positions: Iterable[int],
    classes: Sequence[str],
    sizes: Sizes,
    seed: int,
    options: Collection[str] = (),
) -> dict[str, Positions]:
    """Disjoint positions in `entries` for labeled, unlabeled, test and validation, in an order that the seed decides.

    A source's val part is the test set where it has no test part, else the validation set. What validation takes of
    the labeled side comes behind the labels kept, so that more of it changes neither labels nor test.

    Args:
        entries: the whole source.
        positions: those of them that may be used.
        classes: names of the labels.
        options: those of `data.source` that an error may advise: labeled, ignore.

    Raises:
        NstError: more images asked for than are there, a class too small to split.
    """
    positions = ranked(entries, positions, seed, "split")
    pool = [p for p in positions if entries[p].split in (None, "train") and entries[p].label is not None]
    hidden = [p for p in positions if _is_hidden(entries[p])]
    if not pool:
        as_unlabeled = "data.source.labeled=false" if "labeled" in options else None
        _refuse_labels(sizes, bool(classes), bool(hidden), as_unlabeled)
        return {"labeled": [], "unlabeled": _first(hidden, sizes, entries, seed), "test": [], "validation": []}
    own_test, own_validation = _own_parts(entries, positions)
    needs_no_test = own_test or sizes.test_samples == 0
    at_least = 1 if needs_no_test and sizes.labeled_per_class is None else 2
    _check_classes(entries, pool, classes, at_least, ignores="ignore" in options)
    if sizes.test_samples is not None:
        test = _take_test(entries, own_test or pool, classes, sizes.test_samples)
    else:
        test = own_test or _tenth(entries, pool, classes)
    taken = set(test)
    rest = [p for p in pool if p not in taken]
    labeled = rest
    if sizes.labeled_per_class is not None:
        labeled = _take_labeled(entries, rest, classes, sizes.labeled_per_class)
    validation, labeled = _take_validation(entries, rest, labeled, own_validation, classes, sizes)
    chosen = {*labeled, *validation}
    unlabeled = _first([p for p in rest if p not in chosen] + hidden, sizes, entries, seed)
    parts = {"labeled": labeled, "unlabeled": unlabeled, "test": test, "validation": validation}
    return {name: ranked(entries, part, seed, "order") for name, part in parts.items()}


def ranked(entries: Sequence[Entry], positions: Iterable[int], seed: int, purpose: str) -> Positions:
    """Positions in a random order that only the seed, the purpose and the keys decide."""

    def rank(position: int) -> tuple[int, str]:
        key = entries[position].key
        return xxhash.xxh3_64_intdigest(f"{seed}/{purpose}/{key}".encode()), key

    return sorted(positions, key=rank)


def shares(counts: Sequence[int], total: int) -> list[int]:
    """`total` shared out in proportion to `counts` by largest remainder; no share is above its count."""
    whole = sum(counts)
    parts = [total * count // whole for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda i: (-(total * counts[i] % whole), i))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts


def _is_hidden(entry: Entry) -> bool:
    """Unlabeled by the source's own word, or in its training part without a label."""
    return entry.split in ("unlabeled", "extra") or (entry.split in (None, "train") and entry.label is None)


def _own_parts(entries: Sequence[Entry], positions: Positions) -> tuple[Positions, Positions]:
    """The source's own test and validation images; val is the test where there is no other."""
    test, val = ([p for p in positions if entries[p].split == name and entries[p].label is not None]
                 for name in ("test", "val"))  # fmt: skip
    return (test, val) if test else (val, [])


def _first(positions: Positions, sizes: Sizes, entries: Sequence[Entry], seed: int) -> Positions:
    return ranked(entries, positions, seed, "split")[: sizes.unlabeled_samples]


def _refuse_labels(sizes: Sizes, has_classes: bool, has_unlabeled: bool, as_unlabeled: str | None) -> None:
    asked = [name for name in ("labeled_per_class", "test_samples") if getattr(sizes, name)]
    if asked or has_classes:
        nulls = [f"data.{name}=null" for name in asked]
        helps = ["for images without labels:", *([as_unlabeled] if has_classes and as_unlabeled else []), *nulls]
        without = has_unlabeled and (as_unlabeled or not has_classes)
        raise NstError(
            "there are no labeled training images to choose from",
            got=", ".join(f"data.{name}={getattr(sizes, name)}" for name in asked) or "a test split only",
            valid="class folders, or train/<class> beside test/<class>",
            next=" ".join(helps) if without else "add training pictures with labels, of every class",
        )


def _by_class(entries: Sequence[Entry], positions: Positions, num_classes: int) -> list[Positions]:
    groups: list[Positions] = [[] for _ in range(num_classes)]
    for position in positions:
        label = entries[position].label
        assert label is not None
        groups[label].append(position)
    return groups


def _check_classes(
    entries: Sequence[Entry], pool: Positions, classes: Sequence[str], at_least: int, *, ignores: bool
) -> None:
    groups = dict(zip(classes, _by_class(entries, pool, len(classes)), strict=True))
    counts = {name: len(group) for name, group in groups.items()}
    small = {name: count for name, count in counts.items() if count < at_least}
    if small:
        others = [name for name in classes if name not in small]
        alike = {name: same for name in small if (same := alike_name(name, others))}
        lines = {name: sorted(line for p in groups[name] if (line := entries[p].line) is not None) for name in small}
        mended = "mend the names that are mistyped, " if alike else ""
        way = f": {ignore_option([f'{deep}{name}' for name in small for deep in ('', '*/')])}" if ignores else ""
        raise NstError(
            "classes with too few images", got=_listed(small, alike, lines), valid=f"{at_least} or more in each class",
            next=f"{mended}add pictures of these classes, or leave these classes out{way}",
        )  # fmt: skip
    if len(classes) < 2:
        raise NstError("one class only", got=", ".join(classes), valid="two classes or more")


def _take_test(entries: Sequence[Entry], pool: Positions, classes: Sequence[str], samples: int) -> Positions:
    if samples > len(pool):
        raise NstError(
            "more test images asked for than there are",
            got=f"data.test_samples={samples}",
            valid=f"0 to {len(pool)}",
            next="data.test_samples=null holds out a tenth of every class, or takes the source's own test part",
        )
    groups = _by_class(entries, pool, len(classes))
    parts = shares([len(group) for group in groups], samples)
    return [position for group, part in zip(groups, parts, strict=True) for position in group[:part]]


def _tenth(entries: Sequence[Entry], pool: Positions, classes: Sequence[str]) -> Positions:
    """A tenth of every class, rounded up: no class goes untested."""
    groups = _by_class(entries, pool, len(classes))
    return [position for group in groups for position in group[: -(-len(group) // HELD_OUT)]]


def _take_labeled(entries: Sequence[Entry], rest: Positions, classes: Sequence[str], per_class: int) -> Positions:
    groups = _by_class(entries, rest, len(classes))
    few = {name: len(group) for name, group in zip(classes, groups, strict=True) if len(group) < per_class}
    if few:
        most = min(few.values())
        raise NstError(
            f"data.labeled_per_class={per_class} is more than some classes have beside the test set",
            got=_listed(few),
            valid=f"1 to {most}" if most else "more pictures of these classes",
            next=f"data.labeled_per_class={most}" if most else "add pictures of these classes",
        )
    return [position for group in groups for position in group[:per_class]]


def _take_validation(
    entries: Sequence[Entry],
    rest: Positions,
    labeled: Positions,
    own: Positions,
    classes: Sequence[str],
    sizes: Sizes,
) -> tuple[Positions, Positions]:
    """Validation images, and the labeled ones that are left beside them."""
    per_class = sizes.validation_samples
    if own or not per_class:  # its owner has chosen
        return own, labeled
    kept = set(labeled) if sizes.labeled_per_class is not None else set()
    groups = [[p for p in group if p not in kept] for group in _by_class(entries, rest, len(classes))]
    needed = per_class + (not kept)
    few = {name: len(group) for name, group in zip(classes, groups, strict=True) if len(group) < needed}
    if few:
        least = min(few.values())
        most = max(least - (not kept), 0)
        raise NstError(
            f"data.validation_samples={per_class} is more than some classes have beside labels and test set",
            got=_listed(few),
            valid=f"0 to {most}",
            next=f"data.validation_samples={most if kept else validation_share(least)}",
        )
    validation = [p for group in groups for p in (group[:per_class] if kept else group[-per_class:])]
    taken = set(validation)
    return validation, [p for p in labeled if p not in taken]


def validation_share(labels: int) -> int:
    """How many of a few labels of a class may be for validation, so that most are left for training."""
    return labels // 3


def alike_name(name: str, others: Iterable[str]) -> str | None:
    """The class that a name may be a mistyped one of; two that differ in numbers are two classes."""
    folded = {other.casefold(): other for other in others if _numbers(other) == _numbers(name)}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.8)
    return folded[found[0]] if found else None


def _numbers(name: str) -> list[str]:
    return re.findall(r"\d+", name)


def _listed(
    counts: Mapping[str, int],
    alike: Mapping[str, str] | None = None,
    lines: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Some classes with their counts, the lines that name them, and the names that were probably meant."""
    meant = {name: f" (did you mean '{other}'?)" for name, other in (alike or {}).items()}
    at = {name: f" in line {some(list(map(str, found)))}" for name, found in (lines or {}).items() if found}
    return some([f"{name} has {count}{at.get(name, '')}{meant.get(name, '')}" for name, count in counts.items()], 8)
