"""Means with confidence intervals by a paired bootstrap over drives.

What is drawn again is whole drives, because moments of one drive are not independent; every
figure of a study uses the same draws, so that ratios of two rows are those of equal drives (Efron
and Tibshirani 1993, percentile intervals). Knows no metric and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean or a ratio of means, the interval of LEVEL around it, and the number of values."""

    mean: float
    low: float
    high: float
    n: int


class Bootstrap:
    """Draws of drives 0 ... drives-1 with replacement, `rounds` times, by seed."""

    def __init__(self, drives: int, rounds: int, seed: int) -> None:
        rng = np.random.default_rng([seed, drives, rounds])
        self._times = rng.multinomial(drives, np.full(drives, 1 / drives), rounds).astype(float)

    def mean(self, values: Sequence[float | None], drives: Sequence[int]) -> Interval | None:
        """Mean of values, each of one drive; None among them is left out, None without any."""
        sums, counts = self._by_drive(values, drives)
        if not counts.sum():
            return None
        return _make_interval(
            sums.sum() / counts.sum(),
            _divide_drawn(self._times @ sums, self._times @ counts),
            counts,
        )

    def ratio(
        self, above: Sequence[float | None], below: Sequence[float | None], drives: Sequence[int]
    ) -> Interval | None:
        """Mean of some values over the mean of others at the same places.

        Places where either is None are left out; None where nothing is left, or below is 0.
        """
        both = [a is not None and b is not None for a, b in zip(above, below, strict=True)]
        top, counts = self._by_drive([a if x else None for a, x in zip(above, both, strict=True)],
                                     drives)  # fmt: skip
        bottom, _ = self._by_drive([b if x else None for b, x in zip(below, both, strict=True)],
                                   drives)  # fmt: skip
        if not bottom.sum():
            return None
        return _make_interval(
            top.sum() / bottom.sum(),
            _divide_drawn(self._times @ top, self._times @ bottom),
            counts,
        )

    def _by_drive(
        self, values: Sequence[float | None], drives: Sequence[int]
    ) -> tuple[Array, Array]:
        """Sum and number of the values of every drive."""
        known = np.array([value is not None for value in values], bool)
        at = np.array(drives, int)[known]
        kept = np.array([value for value in values if value is not None], float)
        size = self._times.shape[1]
        sums = np.bincount(at, kept, size).astype(np.float64)
        return sums, np.bincount(at, minlength=size).astype(np.float64)


def _divide_drawn(above: Array, below: Array) -> Array:
    """Quotients of the rounds that drew anything."""
    return above[below > 0] / below[below > 0]


def _make_interval(mean: float, rounds: Array, counts: Array) -> Interval:
    low, high = np.percentile(rounds, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    mean, low, high = (round(float(x), 6) for x in (mean, low, high))
    return Interval(mean, low, high, int(counts.sum()))
