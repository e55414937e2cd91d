"""Confidence intervals: a paired bootstrap over drives for means, Wilson's for proportions.

The bootstrap draws whole drives, because moments of one drive are not independent; every figure
of an evaluation uses the same draws, so that ratios of two rows are those of equal drives (Efron
and Tibshirani 1993, percentile intervals). A Wilson interval (Wilson 1927) takes as its sample
size the moments divided by the design effect of drawing whole drives (Kish 1965).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
FEWEST_DRIVES = 30  # below, an interval would promise more than the drives tell
_Z = 1.959964  # quantile of the normal distribution for LEVEL
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean, or a ratio of means, with the bounds of LEVEL and the number of values.

    low, high: None where fewer than FEWEST_DRIVES drives have a value.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


class Bootstrap:
    """Draws of drives 0 ... drives-1 with replacement, `rounds` times, by seed."""

    def __init__(self, drives: int, rounds: int, seed: int) -> None:
        rng = np.random.default_rng([seed, drives, rounds])
        self._times = rng.multinomial(drives, np.full(drives, 1 / drives), rounds).astype(float)

    def mean(self, values: Sequence[float | None], drives: Sequence[int]) -> Interval | None:
        """Mean of values, each of one drive; None among them is left out, None without any."""
        sums, counts = self._sum_by_drive(values, drives)
        if not counts.sum():
            return None
        rounds = _divide_drawn(self._times @ sums, self._times @ counts)
        return _make_interval(sums.sum() / counts.sum(), rounds, counts)

    def ratio(
        self, above: Sequence[float | None], below: Sequence[float | None], drives: Sequence[int]
    ) -> Interval | None:
        """Mean of some values over the mean of others at the same places.

        Places where either is None are left out; None where nothing is left, or below is 0.
        """
        both = [a is not None and b is not None for a, b in zip(above, below, strict=True)]
        top, counts = self._sum_by_drive(
            [a if x else None for a, x in zip(above, both, strict=True)], drives
        )
        bottom, _ = self._sum_by_drive(
            [b if x else None for b, x in zip(below, both, strict=True)], drives
        )
        if not bottom.sum():
            return None
        rounds = _divide_drawn(self._times @ top, self._times @ bottom)
        return _make_interval(top.sum() / bottom.sum(), rounds, counts)

    def proportion(self, values: Sequence[float | None], drives: Sequence[int]) -> Interval | None:
        """Mean of values from 0 to 1 with its Wilson interval; None as for `mean`."""
        sums, counts = self._sum_by_drive(values, drives)
        total = counts.sum()
        if not total:
            return None
        share = float(sums.sum() / total)
        size = _count_effectively(sums, counts)
        if np.count_nonzero(counts) < FEWEST_DRIVES:
            return Interval(round(share, 6), None, None, int(total))
        low, high = find_wilson_bounds(share, size)
        return Interval(round(share, 6), round(low, 6), round(high, 6), int(total))

    def _sum_by_drive(
        self, values: Sequence[float | None], drives: Sequence[int]
    ) -> tuple[Array, Array]:
        """Sum and number of the values of every drive."""
        known = np.array([value is not None for value in values], bool)
        at = np.array(drives, int)[known]
        kept = np.array([value for value in values if value is not None], float)
        size = self._times.shape[1]
        sums = np.bincount(at, kept, size).astype(np.float64)
        return sums, np.bincount(at, minlength=size).astype(np.float64)


def find_wilson_bounds(share: float, size: float) -> tuple[float, float]:
    """Bounds of LEVEL around a proportion of `size` independent trials."""
    centre = (share + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    variance = share * (1 - share) / size + _Z**2 / (4 * size**2)
    half = _Z * variance**0.5 / (1 + _Z**2 / size)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _count_effectively(sums: Array, counts: Array) -> float:
    """Effective number of independent values: between the number of drives and of values.

    Without any variation the drives are counted: nothing shows that their values are independent.
    """
    drawn = counts > 0
    drives, total = float(drawn.sum()), float(counts.sum())
    share = sums.sum() / total
    if not 0.0 < share < 1.0 or drives < 2:
        return drives
    residuals = sums[drawn] - share * counts[drawn]
    of_drives = drives / (drives - 1) * float((residuals**2).sum()) / total**2
    effect = of_drives / (share * (1 - share) / total)
    return min(max(total / effect if effect else drives, drives), total)


def _divide_drawn(above: Array, below: Array) -> Array:
    """Quotients of the rounds whose denominator is not 0."""
    return above[below > 0] / below[below > 0]


def _make_interval(mean: float, rounds: Array, counts: Array) -> Interval:
    if np.count_nonzero(counts) < FEWEST_DRIVES:
        return Interval(round(float(mean), 6), None, None, int(counts.sum()))
    low, high = np.percentile(rounds, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    mean, low, high = (round(float(x), 6) for x in (mean, low, high))
    return Interval(mean, low, high, int(counts.sum()))
