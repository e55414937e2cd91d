"""Geometry of the road: one reference line, known by its curvature, and what lies beside it.

The reference line is the centre of the ego lane, counted by its length s. Offsets are positive to
the left, seen in the direction of travel. The world is flat and its frame starts at s = 0 with x
along the road. Knows no time, no vehicles, no colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEP_M = 0.05
BEHIND_M = 120.0  # the road exists before the start too: the side cameras see it
LANE_WIDTH_M = 3.5
RIGHT_EDGE_M = -LANE_WIDTH_M / 2
CENTRE_LINE_M = LANE_WIDTH_M / 2
LEFT_EDGE_M = 3 * LANE_WIDTH_M / 2
ONCOMING_M = LANE_WIDTH_M  # centre of the other lane
_MAX_HEADING_RAD = 0.9  # a road that never turns back cannot cross itself
_RAMP_M = 30.0  # length over which the curvature changes: no steering jumps

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


def make_road(rng: np.random.Generator, length_m: float) -> Road:
    """Road of alternating curves and straights that runs to s = length_m."""
    s = np.arange(-BEHIND_M, length_m, STEP_M)
    knots_s, knots_curvature = _curves(rng, length_m)
    curvature = _smooth_interp(s, knots_s, knots_curvature)
    yaw = np.concatenate([[0.0], np.cumsum((curvature[1:] + curvature[:-1]) / 2 * STEP_M)])
    yaw -= np.interp(0.0, s, yaw)
    middle = (yaw[1:] + yaw[:-1]) / 2
    x = np.concatenate([[0.0], np.cumsum(np.cos(middle) * STEP_M)])
    y = np.concatenate([[0.0], np.cumsum(np.sin(middle) * STEP_M)])
    return Road(s, x - np.interp(0.0, s, x), y - np.interp(0.0, s, y), yaw, curvature)


def _curves(rng: np.random.Generator, length_m: float) -> tuple[list[float], list[float]]:
    """Knots of the curvature; curves lead back when the heading has drifted too far."""
    s, heading = float(rng.uniform(-15.0, 0.0)), 0.0
    knots_s, knots_curvature = [s], [0.0]
    while s < length_m:
        side = rng.choice([-1.0, 1.0])
        if abs(heading) > _MAX_HEADING_RAD / 3:
            side = -np.sign(heading)
        curvature = side / rng.uniform(45.0, 100.0)
        angle = rng.uniform(0.35, 0.85)
        hold = max(8.0, angle / abs(curvature) - _RAMP_M)
        straight = rng.uniform(12.0, 45.0)
        for step, value in ((_RAMP_M, curvature), (hold, curvature), (_RAMP_M, 0.0)):
            s += step
            knots_s.append(s)
            knots_curvature.append(float(value))
        heading += curvature * (hold + _RAMP_M)
        s += straight
        knots_s.append(s)
        knots_curvature.append(0.0)
    return knots_s, knots_curvature


def _smooth_interp(s: Array, knots_s: list[float], knots: list[float]) -> Array:
    """Interpolate with a half cosine between knots, so that the slope is zero at each."""
    position = np.interp(s, knots_s, np.arange(len(knots_s), dtype=float))
    index = np.minimum(position.astype(int), len(knots) - 2)
    blend = (1 - np.cos(np.pi * (position - index))) / 2
    values = np.asarray(knots)
    return values[index] * (1 - blend) + values[index + 1] * blend
