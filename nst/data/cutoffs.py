"""The exact selection: where each class's confidences, or tickets, are cut so that its total is exact.

Rows near the cutoffs are held and sorted, HELD at most. Where more are near, as with a teacher that is sure of
everything, they are counted in finer cells first, for another look or two at all files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nst.data.selection import (
    BINS,
    LOT_BITS,
    Bounds,
    Counts,
    Part,
    Rows,
    SelectionRule,
    Wanted,
    at_least,
    boundary,
    tickets,
)

TICKET_BITS = 34  # of a ticket, in an order
HELD = 2**19  # rows: sorting more takes longer than another look at all files
CELLS = 2**22  # finer cells of all classes that need them: 17 MB a process, 70 MB more while they are summed
MOST_CELLS = 2**16  # of one class
ONE = 0x3F800000  # float32 bits of 1.0


@dataclass(frozen=True)
class Near:
    """What a look at some files finds at the cutoffs.

    Args:
        cells: (W, cells) rows of the W classes that have too many to be held.
        rows: label, order, ticket and position (N,) of those that are held.
    """

    cells: np.ndarray
    rows: Sequence[np.ndarray]


class Exact:
    """Every image of a class gets `base` copies, the first `rank` in the class's order one more; arrays (C,).

    The order is by confidence, then ticket, where there are more images than wanted, and by ticket where images are
    duplicated. A row's *order* is one 64-bit number, the lower the earlier: 30 bits of confidence (none where images
    are duplicated), then TICKET_BITS of the ticket. The whole ticket, then the position decide between equal ones:
    those of one key, or the few that meet by chance.
    """

    def __init__(self, wanted: Wanted, counts: Counts, rule: SelectionRule) -> None:
        images, quota = wanted.images.sum(axis=1), wanted.quota
        most = rule.options.max_copies
        total = quota if most is None else np.minimum(quota, images * most)
        self.seed = rule.seed
        self.base = total // np.maximum(images, 1)
        rank = total - self.base * images
        self.abundant = self.base == 0
        bins, lots = boundary(wanted.images[:, ::-1], rank), boundary(counts.lots, rank)
        of_bins, of_lots = (*_orders_of_bins(BINS - bins[0]), *bins[1:]), (*_orders_of_lots(lots[0]), *lots[1:])
        # classes of one confidence that take nothing below the minimum: their tickets alone decide
        tied = self.abundant & ~wanted.few & (counts.only >= 0)
        same = _doubts(np.where(tied, counts.only, 1)) << np.uint64(TICKET_BITS)
        of_lots = (of_lots[0] | same, of_lots[1] | same, *of_lots[2:])
        # the orders between which each class's last row with one more copy lies, the rows there, its number there
        found = [np.where(self.abundant & ~tied, *pair) for pair in zip(of_bins, of_lots, strict=True)]
        few = wanted.few & ~self.abundant  # of which not all tickets were counted: they are few enough
        whole = (np.uint64(0), np.uint64(2**TICKET_BITS - 1), images, rank)
        self.low, self.high, self.count, self.rank = (
            np.where(few, every, part) for every, part in zip(whole, found, strict=True)
        )
        # order, ticket and position of that row; nothing comes before zeros
        self.cut = np.zeros((3, len(images)), np.uint64)
        self.taken = Bounds.of(rule.options, wanted.minimum)
        self._share_out(rank > 0)

    def look(self, part: Part) -> Near:
        """Counts the rows of some files that are to be counted, and returns those that are to be held."""
        cells = np.zeros((int(self.wide.sum()), self.cells_each), np.uint32)
        held = [[np.empty(0, np.intp), *[np.empty(0, np.uint64)] * 3]]
        for number, path in part:
            rows = Rows.read(number, path, self.near)
            order, ticket = self._order(rows)
            inside = (order >= self.low[rows.label]) & (order <= self.high[rows.label])
            wide = self.wide[rows.label]
            counted, kept = np.flatnonzero(inside & wide), np.flatnonzero(inside & ~wide)
            which = rows.label[counted]
            cell = ((order[counted] - self.low[which]) >> self.shift[which]).astype(np.intp)
            np.add.at(cells.reshape(-1), self.line[which] * self.cells_each + cell, np.uint32(1))
            held.append([rows.label[kept], order[kept], ticket[kept], rows.positions(kept)])
        return Near(cells, [np.concatenate(column) for column in zip(*held, strict=True)])

    def narrow(self, looks: Iterable[Near]) -> None:
        """Finds the cutoffs of the held classes, and draws the others' bounds closer, after a look at all files."""
        first, *others = looks
        for look in others:
            np.add(first.cells, look.cells, out=first.cells)
        label, *keys = (np.concatenate(c) for c in zip(first.rows, *(look.rows for look in others), strict=True))
        held, wide = np.flatnonzero(self.open & ~self.wide), np.flatnonzero(self.wide)
        in_order = np.lexsort((*reversed(keys), label))
        found = in_order[np.searchsorted(label[in_order], held) + self.rank[held] - 1]
        self.cut[:, held] = [key[found] for key in keys]
        cell, self.count[wide], self.rank[wide] = boundary(first.cells, self.rank[wide])
        self.low[wide] += cell.astype(np.uint64) << self.shift[wide]
        width = np.uint64(1) << self.shift[wide]
        self.high[wide] = np.minimum(self.high[wide], self.low[wide] + width - np.uint64(1))
        self._share_out(self.wide)
        # rows below the cutoffs need not be looked at
        lowest = np.where(self.abundant & ~self.open, _confidence(self.cut[0]), self.taken.least)
        self.taken = Bounds(lowest, self.taken.most)

    def copies(self, rows: Rows) -> np.ndarray:
        """How often each row is selected (N,)."""
        order, ticket = self._order(rows)
        last = self.cut[0][rows.label]
        copies = self.base[rows.label] + (order < last)
        tied = np.flatnonzero(order == last)
        _, cut_ticket, cut_position = self.cut[:, rows.label[tied]]
        earlier = rows.positions(tied) <= cut_position
        copies[tied] += (ticket[tied] < cut_ticket) | ((ticket[tied] == cut_ticket) & earlier)
        return copies

    def _order(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        ticket = tickets(rows.key_hash, self.seed)
        order = (_doubts(rows.confidence) * self.abundant[rows.label]) << np.uint64(TICKET_BITS)
        return order | (ticket >> np.uint64(64 - TICKET_BITS)), ticket

    def _share_out(self, open: np.ndarray) -> None:
        """Decides of which of these classes (C,) the next look holds the rows, and of which it counts them in cells."""
        self.open = open
        rows = np.where(open, self.count, 0)
        order = np.argsort(rows, kind="stable")  # the largest classes are counted
        self.wide = np.zeros(len(rows), bool)
        self.wide[order] = rows[order].cumsum() > HELD
        self.wide &= open & (self.low < self.high)
        self.line, lines = self.wide.cumsum() - 1, int(self.wide.sum())
        bits = min(MOST_CELLS, max(2, CELLS // max(lines, 1))).bit_length() - 1
        self.cells_each = 2**bits
        # a cell is 2**shift orders wide: to shift is cheaper than to divide
        self.shift = np.maximum(np.frexp((self.high - self.low).astype(np.float64))[1] - bits, 0).astype(np.uint64)
        # of classes that are not open no row is near, of those that are duplicated any row may be
        least = np.where(self.abundant, _confidence(self.high), self.taken.least)
        most = np.where(self.abundant, _confidence(self.low), self.taken.most)
        self.near = Bounds(np.where(open, np.maximum(least, self.taken.least), np.float32(np.inf)), most)


def _doubts(confidence: np.ndarray) -> np.ndarray:
    """Bits of float32 confidences (N,) below those of 1.0, the surest first, uint64."""
    # positive floats are ordered as their bits are
    return (np.uint32(ONE) - np.asarray(confidence, np.float32).view(np.uint32)).astype(np.uint64)


def _confidence(order: np.ndarray) -> np.ndarray:
    """Float32 confidence of orders (C,) of classes that are not duplicated."""
    return (np.uint64(ONE) - (order >> np.uint64(TICKET_BITS))).astype(np.uint32).view(np.float32)


def _orders_of_bins(bin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last order of the rows in some bins of confidence (C,)."""

    def doubts_from(bins: np.ndarray) -> np.ndarray:
        """Of the smallest float32 in each bin."""
        return _doubts(at_least(bins / BINS))

    after = np.where(bin < BINS, doubts_from(np.minimum(bin + 1, BINS)) + np.uint64(1), np.uint64(0))
    shift = np.uint64(TICKET_BITS)
    return after << shift, ((doubts_from(bin) + np.uint64(1)) << shift) - np.uint64(1)


def _orders_of_lots(lot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last order of the rows of duplicated classes whose tickets begin with these bits (C,)."""
    low, width = lot.astype(np.uint64), np.uint64(2 ** (TICKET_BITS - LOT_BITS))
    return low * width, (low + np.uint64(1)) * width - np.uint64(1)
