"""Outlines of cars and people seen from above, and whether they overlap."""

from __future__ import annotations

import math

import numpy as np

from .moments import CAR_FRONT_M, CAR_HALF_WIDTH_M, CAR_REAR_M
from .road import Array


def make_rectangle(
    x_m: float, y_m: float, yaw_rad: float, front_m: float = CAR_FRONT_M,
    rear_m: float = CAR_REAR_M, half_m: float = CAR_HALF_WIDTH_M,
) -> Array:  # fmt: skip
    """Corners (4, 2) m of a body around its pose; the default size is that of a car."""
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    corners = np.array([(front_m, half_m), (front_m, -half_m), (rear_m, -half_m),
                        (rear_m, half_m)])  # fmt: skip
    return corners @ np.array([[cos, sin], [-sin, cos]]) + (x_m, y_m)


def do_overlap(first: Array, second: Array) -> bool:
    """Whether two rectangles (4, 2) overlap (separating axis theorem)."""
    for corners in (first, second):
        for axis in (corners[1] - corners[0], corners[2] - corners[1]):
            a, b = first @ axis, second @ axis
            if a.max() < b.min() or b.max() < a.min():
                return False
    return True
