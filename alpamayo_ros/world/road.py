"""Geometry of the road: a reference line, given by its curvature, and offsets from it.

The reference line is the centre of the ego lane; s is the length along it. Offsets are positive to
the left, seen in the direction of travel. The world is flat; its frame starts at s = 0 with x
along the road.
"""

from __future__ import annotations

from dataclasses import dataclass
import functools
import math

import numpy as np
from numpy.typing import NDArray

STEP_M = 0.1
BEHIND_M = 120.0  # the road also exists before the start, where the side cameras see it
LANE_WIDTH_M = 3.5
RIGHT_EDGE_M = -LANE_WIDTH_M / 2
CENTRE_LINE_M = LANE_WIDTH_M / 2
LEFT_EDGE_M = 3 * LANE_WIDTH_M / 2
ONCOMING_M = LANE_WIDTH_M  # centre of the other lane

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Road:
    """Samples of the reference line every STEP_M, from -BEHIND_M on.

    s_m, x_m, y_m in metres, yaw_rad in radians (continuous), curvature in 1/m, positive to the
    left; each of shape (N,).
    """

    s_m: Array
    x_m: Array
    y_m: Array
    yaw_rad: Array
    curvature: Array

    def yaw_at(self, s_m: Array | float) -> Array:
        """Heading of the road at s, radians."""
        return np.asarray(np.interp(s_m, self.s_m, self.yaw_rad))

    def curvature_at(self, s_m: Array | float) -> Array:
        """Curvature of the reference line at s, 1/m."""
        return np.asarray(np.interp(s_m, self.s_m, self.curvature))

    def points(self, s_m: Array | float, offset_m: Array | float = 0.0) -> Array:
        """World positions (..., 2) m at s, `offset_m` to the left of the reference line."""
        yaw = self.yaw_at(s_m)
        x = np.interp(s_m, self.s_m, self.x_m) - offset_m * np.sin(yaw)
        y = np.interp(s_m, self.s_m, self.y_m) + offset_m * np.cos(yaw)
        return np.stack([x, y], axis=-1)

    @functools.cached_property
    def _table(self) -> Array:
        return np.stack([self.x_m, self.y_m, self.yaw_rad, self.curvature], axis=1)

    def at(self, s_m: float) -> tuple[float, float, float, float]:
        """Position x, y m, heading rad and curvature 1/m of the reference line at one s."""
        position = (s_m + BEHIND_M) / STEP_M
        index = min(max(int(position), 0), len(self._table) - 2)
        low, high = self._table[index], self._table[index + 1]
        x, y, yaw, curvature = (low + (high - low) * (position - index)).tolist()
        return x, y, yaw, curvature

    def locate(self, x_m: float, y_m: float, near_m: float) -> tuple[float, float, float]:
        """Length s, offset m and heading rad of the road at a position, by Newton's method.

        near_m: an s within some 20 m of the result.
        """
        s = near_m
        for _ in range(5):
            x, y, yaw, curvature = self.at(s)
            cos, sin = math.cos(yaw), math.sin(yaw)
            along = (x_m - x) * cos + (y_m - y) * sin
            offset = (y_m - y) * cos - (x_m - x) * sin
            s += along / max(1 - curvature * offset, 0.3)
            if abs(along) < 1e-6:
                break
        return s, offset, yaw


def make_road(knots_s: list[float], knots_curvature: list[float], length_m: float) -> Road:
    """Road to s = length_m with the given curvature 1/m at knots, half cosines between them."""
    count = round((length_m + BEHIND_M) / STEP_M)
    s: Array = -BEHIND_M + STEP_M * np.arange(count, dtype=float)
    return integrate_road(s, _smooth_interp(s, knots_s, knots_curvature))


def integrate_road(s: Array, curvature: Array) -> Road:
    """Road of a curvature 1/m at every s; it passes the origin along x at s = 0."""
    yaw = np.concatenate([[0.0], np.cumsum((curvature[1:] + curvature[:-1]) / 2 * STEP_M)])
    yaw -= np.interp(0.0, s, yaw)
    middle = (yaw[1:] + yaw[:-1]) / 2
    x = np.concatenate([[0.0], np.cumsum(np.cos(middle) * STEP_M)])
    y = np.concatenate([[0.0], np.cumsum(np.sin(middle) * STEP_M)])
    return Road(s, x - np.interp(0.0, s, x), y - np.interp(0.0, s, y), yaw, curvature)


def _smooth_interp(s: Array, knots_s: list[float], knots: list[float]) -> Array:
    """Interpolate with a half cosine between knots, so that the slope is zero at each."""
    position = np.interp(s, knots_s, np.arange(len(knots_s), dtype=float))
    index = np.minimum(position.astype(int), len(knots) - 2)
    blend = (1 - np.cos(np.pi * (position - index))) / 2
    values = np.asarray(knots)
    return values[index] * (1 - blend) + values[index + 1] * blend
