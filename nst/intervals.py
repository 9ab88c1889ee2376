"""95 % intervals of an accuracy and of a difference of two, from the number of test images; what labels must reach.

All but `over_seeds` are of the test images alone: another seed, split or order of the images is a chance of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from statistics import fmean, stdev

# Student's t, quantile of a two-sided 95 % interval, of 1, 2, ... degrees of freedom
T_95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
TOO_WRONG = 0.85  # labels right: with 95 % students gained 6 points, with 73 to 79 % they gained none or lost 3 to 6
Z_95 = 1.959963984540054  # standard normal quantile of a two-sided 95 % interval
Interval = tuple[float, float]  # percent, or percentage points; of `of_share` shares


def wilson(percent: float, samples: int) -> Interval:
    """Of an accuracy in percent measured on `samples` images (Wilson 1927)."""
    low, high = of_share(percent / 100, samples)
    return 100 * low, 100 * high


def of_share(share: float, count: float) -> Interval:
    """Of a share from 0 to 1 of so many pictures, as a share (Wilson 1927)."""
    weight = Z_95**2 / count
    centre = (share + weight / 2) / (1 + weight)
    half = Z_95 * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired(gained: int, lost: int, samples: int) -> Interval:
    """Of the gain of a second network on the same images (Agresti and Min 2005: half an image in each of four cells).

    Args:
        gained, lost: images that only the second, only the first network gets right.
    """
    whole, difference = samples + 2, gained - lost
    half = Z_95 * math.sqrt(gained + lost + 1 - difference**2 / whole) / whole
    return 100 * max(-1.0, difference / whole - half), 100 * min(1.0, difference / whole + half)


def unpaired(before: float, after: float, samples: int, samples_after: int) -> Interval:
    """Of `after - before` in percent, where it is not known which images each gets right (Newcombe 1998, method 10)."""
    (low, high), (low_after, high_after) = wilson(before, samples), wilson(after, samples_after)
    gain = after - before
    return gain - math.hypot(after - low_after, high - before), gain + math.hypot(high_after - after, before - low)


def of_gain(
    before: float, after: float, samples: int, samples_after: int, wrong: tuple[Set[str], Set[str]] | None
) -> Interval:
    """Of `after - before` in percent; in pairs where it is known which images each gets wrong.

    Args:
        wrong: keys of the mistakes before and after, of the same images; None: not known, or of other images.
    """
    if wrong is None:
        return unpaired(before, after, samples, samples_after)
    return paired(len(wrong[0] - wrong[1]), len(wrong[1] - wrong[0]), samples)


def over_seeds(differences: Sequence[float]) -> Interval:
    """Of the mean of the differences of two seeds or more (Student's t; a little wide of more than eleven)."""
    half = T_95[min(len(differences) - 1, len(T_95)) - 1] * stdev(differences) / math.sqrt(len(differences))
    return fmean(differences) - half, fmean(differences) + half
