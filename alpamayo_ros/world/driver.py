"""The expert driver: acceleration and curvature from the route and from what is ahead.

Speed: free road and following as in the intelligent driver model (IDM; Treiber, Hennecke and
Helbing 2000), comfortable braking for everything on the route. Path: the middle of the lane, or
around parked cars; offset and heading are fed back.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from .moments import CAR_FRONT_M, CAR_REAR_M
from .road import BEHIND_M, STEP_M, Array
from .route import Route

MAX_LATERAL_MPS2 = 2.0
ACCELERATING_MPS2, BRAKING_MPS2 = 1.6, 1.7
HARDEST_BRAKING_MPS2 = 6.0
PASSING_MPS = 8.5
HEADWAY_S, STANDSTILL_M = 1.4, 3.0
PASSING_OFFSET_M = 0.75
_JERK_MPS3 = 3.0
_PREVIEW_S = 0.4
_SHIFT_M = 22.0  # length of the sideways move around a parked car
_STRIDE = 5  # a plan has one sample for so many road samples
_WHY = ('speed_limit', 'curve_left', 'curve_right', 'turn_left', 'turn_right', 'parked_car')


@dataclass(frozen=True)
class Ahead:
    """Something in the way: its cause, the gap from the ego's front to its rear, its speed."""

    cause: str
    gap_m: float
    speed_mps: float = 0.0


@dataclass(frozen=True)
class DrivingPlan:
    """Allowed speed and wanted path along a route.

    Samples every STEP_M * _STRIDE from -BEHIND_M on: speed_mps (N,), why (N,) as an index of
    _WHY, path (N, 3): offset m from the reference line and its first two derivatives along s.
    """

    speed_mps: Array
    why: Array
    path: Array

    def at(self, s_m: float) -> tuple[float, str]:
        """Allowed speed m/s at s, and the cause that limits it."""
        position = (s_m + BEHIND_M) / (STEP_M * _STRIDE)
        index = min(max(int(position), 0), len(self.speed_mps) - 2)
        low, high = self.speed_mps[index], self.speed_mps[index + 1]
        return float(low + (high - low) * (position - index)), _WHY[int(self.why[index])]

    def path_at(self, s_m: float) -> tuple[float, float, float]:
        """Offset m of the path, its slope, and its curvature 1/m beyond the road's."""
        position = (s_m + BEHIND_M) / (STEP_M * _STRIDE)
        index = min(max(int(position), 0), len(self.path) - 2)
        low, high = self.path[index], self.path[index + 1]
        offset, slope, bend = (low + (high - low) * (position - index)).tolist()
        return offset, slope, bend


def make_plan(route: Route) -> DrivingPlan:
    """Plan of a route: at every s the highest speed that still allows comfortable braking."""
    s = route.road.s_m[::_STRIDE]
    limits = np.full((len(_WHY), len(s)), 1e4)
    for zone in route.zones:
        limits[0, s >= zone.start_m] = zone.limit_mps**2
    curvature = route.road.curvature[::_STRIDE]
    bent = MAX_LATERAL_MPS2 / np.maximum(np.abs(curvature), 1e-4)
    turning = np.zeros(len(s), dtype=bool)
    for turn in route.turns:
        turning |= (s >= turn.start_m) & (s <= turn.end_m)
    for row, where in enumerate((
        (curvature > 0) & ~turning, (curvature < 0) & ~turning,
        (curvature > 0) & turning, (curvature < 0) & turning,
    ), start=1):  # fmt: skip
        limits[row, where] = bent[where]
    offset = np.zeros(len(s))
    for parked in route.parked_m:
        low, high = parked + CAR_REAR_M - CAR_FRONT_M - 4.0, parked + CAR_FRONT_M + 2.0
        limits[5, (s > low) & (s < high)] = PASSING_MPS**2
        beside = np.maximum(np.maximum(low - s, s - high), 0.0) / _SHIFT_M
        shift = PASSING_OFFSET_M * (1 + np.cos(np.pi * np.minimum(beside, 1.0))) / 2
        offset = np.maximum(offset, shift)
    backward = 2 * BRAKING_MPS2 * s  # v^2 changes by at most 2*a*step
    limits = np.minimum.accumulate((limits + backward)[:, ::-1], axis=1)[:, ::-1] - backward
    smooth = np.convolve(np.pad(offset, 6, mode='edge'), np.full(13, 1 / 13), mode='valid')
    slope = np.gradient(smooth, STEP_M * _STRIDE)
    path = np.stack([smooth, slope, np.gradient(slope, STEP_M * _STRIDE)], axis=1)
    return DrivingPlan(np.sqrt(np.maximum(limits.min(axis=0), 0.0)), limits.argmin(axis=0), path)


def accelerate(
    plan: DrivingPlan, s_m: float, speed: float, factor: float, ahead: list[Ahead]
) -> tuple[float, str]:
    """Wanted acceleration m/s^2, and the cause that limits the speed ('' for none).

    factor: share of the allowed speed at which this driver drives.
    """
    allowed, _ = plan.at(s_m)
    later, why = plan.at(s_m + speed * _PREVIEW_S)
    free = ACCELERATING_MPS2 * (1 - (speed / max(allowed * factor, 0.1)) ** 4)
    free = max(min(free, (later * factor - speed) / _PREVIEW_S), -HARDEST_BRAKING_MPS2)
    wanted, cause = free, why if free < -0.3 else ''
    for thing in ahead:
        towards = _approach(speed, allowed * factor, thing)
        if towards < min(wanted, free - 0.3):
            wanted, cause = towards, thing.cause
    return wanted, cause


def _approach(speed: float, desired: float, thing: Ahead) -> float:
    """Acceleration towards a vehicle (IDM), or to rest at a line by constant braking."""
    if thing.cause != 'lead':
        gap = max(thing.gap_m - speed * _PREVIEW_S, 0.0)
        return max((math.sqrt(2 * BRAKING_MPS2 * gap) - speed) / _PREVIEW_S, -HARDEST_BRAKING_MPS2)
    closing = speed * (speed - thing.speed_mps) / (2 * math.sqrt(ACCELERATING_MPS2 * BRAKING_MPS2))
    wish = STANDSTILL_M + max(speed * HEADWAY_S + closing, 0.0)
    ratio = (speed / max(desired, 0.1)) ** 4 + (wish / max(thing.gap_m, 0.1)) ** 2
    return max(ACCELERATING_MPS2 * (1 - ratio), -HARDEST_BRAKING_MPS2)


def limit_jerk(acceleration: float, wanted: float, speed: float, step_s: float) -> float:
    """Acceleration of the next step with limited jerk (more in an emergency), never backwards."""
    jerk = _JERK_MPS3 if wanted > -2.5 else 4 * _JERK_MPS3
    change = max(-jerk * step_s, min(jerk * step_s, wanted - acceleration))
    following = acceleration + change
    if speed < 0.3 and wanted < 0.15:  # a standing vehicle does not creep
        following = -min(speed / step_s, 0.8)
    elif speed == 0.0:
        following = max(following, 0.0)
    return max(following, -speed / step_s)


def steer(
    plan: DrivingPlan,
    s_m: float,
    offset_m: float,
    heading_rad: float,
    speed: float,
    curvature: float,
) -> float:
    """Curvature 1/m of the next step.

    offset_m, heading_rad: pose of the vehicle relative to a road of this curvature.
    """
    aim, slope, bend = plan.path_at(s_m)
    length = max(5.0, 1.1 * speed)  # of the way back, critically damped
    back = (offset_m - aim) / length**2 + 2 * (heading_rad - slope) / length
    return max(-0.18, min(0.18, curvature / max(1 - curvature * offset_m, 0.3) + bend - back))
