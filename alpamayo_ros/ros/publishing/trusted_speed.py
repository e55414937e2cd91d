"""The speed that late paths can be trusted at: so fast the next path comes in time.

A path is driven from the age at which it comes until the next one takes over. Paths are good up to
some distance, which the evaluation finds; beyond it they are better not driven.
"""

from __future__ import annotations

from collections import deque
from statistics import quantiles

from ...data_types import NANOSECONDS

KEPT = 50  # paths that the times are those of
_SHORTEST_S = 0.05


class LateTimes:
    """Measures the ages of paths when they come, and the times between them."""

    def __init__(self) -> None:
        self._ages_s: deque[float] = deque(maxlen=KEPT)
        self._periods_s: deque[float] = deque(maxlen=KEPT)
        self._last_ns: int | None = None

    def note(self, t0_ns: int, now_ns: int) -> None:
        """Note a path that comes now."""
        self._ages_s.append((now_ns - t0_ns) / NANOSECONDS)
        if self._last_ns is not None:
            self._periods_s.append((now_ns - self._last_ns) / NANOSECONDS)
        self._last_ns = now_ns

    def compute_trusted_speed(self, distance_m: float) -> float:
        """Speed m/s at which a path is driven no further than distance_m from its t0.

        The age and the time to the next path are the 90th percentiles of the last KEPT ones. The
        second path is taken to come as late as the first. Infinity without a path.
        """
        if not self._ages_s:
            return float('inf')
        age_s = _find_90th_percentile(self._ages_s)
        period_s = _find_90th_percentile(self._periods_s or self._ages_s)
        return distance_m / max(age_s + period_s, _SHORTEST_S)


def _find_90th_percentile(values: deque[float]) -> float:
    """As np.percentile, which takes thirty times as long for so few."""
    return quantiles(values, n=10, method='inclusive')[-1] if len(values) > 1 else values[0]
