"""Score of a drive from 0 to 100, as in nuPlan: multipliers times a weighted mean.

Definitions: nuPlan's closed-loop score (Karnchanachari et al. 2024, "Towards learning-based
planning: the nuPlan benchmark"), with two multipliers more: red lights and pedestrians at zebras.
Thresholds are nuPlan's. Knows no world: it takes the measured course of a drive as arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MULTIPLIERS = ('no_collision', 'on_road', 'own_lane', 'red_light', 'yields', 'makes_progress')
WEIGHTS = {'progress': 5.0, 'time_to_collision': 5.0, 'speed_limit': 4.0, 'comfort': 2.0}

TIME_TO_COLLISION_S = 0.95
LEAST_PROGRESS = 0.2
OVERSPEED_MPS = 2.23  # mean excess at which the part is 0
WRONG_LANE_M = (2.0, 6.0)  # way within a second over the centre line: half, and no compliance
ACCELERATION_MPS2 = (-4.05, 2.40)
LATERAL_MPS2, JERK_MPS3, JERK_MAGNITUDE_MPS3 = 4.89, 4.13, 8.37
YAW_RATE, YAW_ACCELERATION = 0.95, 1.93
# As in nuPlan: windows of means, and of the lines whose slopes are derivatives.
_SMOOTHING_S, _FITTED_S = 0.8, 1.5
Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class DriveCourse:
    """What a vehicle did, in steps of step_s (N,), and what happened to it.

    time_to_collision_s: infinity where there is none. in_wrong_lane: a corner stands over the
    centre line. distance_m, expert_m: along the road, of the vehicle and of the expert.
    """

    step_s: float
    speed_mps: Array
    acceleration_mps2: Array
    curvature: Array
    limit_mps: Array
    time_to_collision_s: Array
    in_wrong_lane: Flags
    distance_m: float
    expert_m: float
    has_caused_collision: bool
    has_left_road: bool
    red_lights_run: int
    pedestrians_ignored: int


def score_drive(course: DriveCourse) -> dict[str, float]:
    """Every part of the score, from 0 to 1, and `score` itself, from 0 to 100.

    `clean` is 1 when every multiplier is 1.
    """
    progress = measure_progress(course.distance_m, course.expert_m)
    parts = {
        'no_collision': float(not course.has_caused_collision),
        'on_road': float(not course.has_left_road),
        'own_lane': measure_lane_compliance(course.speed_mps, course.in_wrong_lane, course.step_s),
        'red_light': float(not course.red_lights_run),
        'yields': float(not course.pedestrians_ignored),
        'makes_progress': float(progress >= LEAST_PROGRESS),
        'progress': progress,
        'time_to_collision': float((course.time_to_collision_s >= TIME_TO_COLLISION_S).all()),
        'speed_limit': measure_limit_compliance(course.speed_mps, course.limit_mps),
        'comfort': float(is_comfortable(course)),
    }
    factor = float(np.prod([parts[name] for name in MULTIPLIERS]))
    mean = sum(weight * parts[name] for name, weight in WEIGHTS.items()) / sum(WEIGHTS.values())
    clean = float(all(parts[name] == 1.0 for name in MULTIPLIERS))
    return {'score': 100.0 * factor * mean, 'clean': clean, **parts}


def measure_progress(distance_m: float, expert_m: float) -> float:
    """Way along the road over the expert's, at most 1; ways below 0.1 m count as 0.1 m."""
    return float(min(max(distance_m, 0.1) / max(expert_m, 0.1), 1.0))


def measure_lane_compliance(speed_mps: Array, in_wrong_lane: Flags, step_s: float) -> float:
    """1, 0.5 or 0 by the longest way driven in the wrong lane within any second."""
    way = np.cumsum(np.concatenate([[0.0], speed_mps * in_wrong_lane * step_s]))
    steps = min(round(1.0 / step_s), len(way) - 1)
    longest = float((way[steps:] - way[: len(way) - steps]).max())
    some, much = WRONG_LANE_M
    return 1.0 if longest <= some else 0.5 if longest <= much else 0.0


def measure_limit_compliance(speed_mps: Array, limit_mps: Array) -> float:
    """1 less the mean excess over the limit, as a share of OVERSPEED_MPS; at least 0."""
    excess = np.maximum(speed_mps - limit_mps, 0.0).mean()
    return max(1.0 - float(excess) / OVERSPEED_MPS, 0.0)


def is_comfortable(course: DriveCourse) -> bool:
    """Whether accelerations, jerk and yaw stay within nuPlan's bounds all the time."""
    speed = course.speed_mps
    along = _smooth(course.acceleration_mps2, course.step_s)
    lateral = _smooth(speed**2 * course.curvature, course.step_s)
    yaw_rate = _smooth(speed * course.curvature, course.step_s)
    jerk = _differentiate(course.acceleration_mps2, course.step_s)
    lateral_jerk = _differentiate(speed**2 * course.curvature, course.step_s)
    yaw_acceleration = _differentiate(speed * course.curvature, course.step_s)
    low, high = ACCELERATION_MPS2
    return bool(
        (along >= low).all()
        and (along <= high).all()
        and (abs(lateral) <= LATERAL_MPS2).all()
        and (abs(jerk) <= JERK_MPS3).all()
        and (np.hypot(jerk, lateral_jerk) <= JERK_MAGNITUDE_MPS3).all()
        and (abs(yaw_rate) <= YAW_RATE).all()
        and (abs(yaw_acceleration) <= YAW_ACCELERATION).all()
    )


def _get_window(count: int, length_s: float, step_s: float) -> int:
    return max(min(round(length_s / step_s) | 1, count), 1)


def _smooth(values: Array, step_s: float) -> Array:
    window = _get_window(len(values), _SMOOTHING_S, step_s)
    return np.convolve(values, np.full(window, 1 / window), mode='valid')


def _differentiate(values: Array, step_s: float) -> Array:
    """Slopes of lines fitted to windows of the values (a Savitzky-Golay filter of order 1)."""
    window = _get_window(len(values), _FITTED_S, step_s)
    if window < 2:
        return np.zeros(1)
    places = (np.arange(window) - (window - 1) / 2) * step_s
    return np.convolve(values, (places / (places**2).sum())[::-1], mode='valid')
