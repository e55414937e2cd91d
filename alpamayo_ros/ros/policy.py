"""What is done with a prediction: publish, flag, trim, hold the last valid one, or nothing.

Pure functions of a prediction, a time and the policies; no ROS, no buffer, no counters. Nothing
is repaired: a path is published as it is, in part (waypoints that are over), or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import geometry, validity
from ..data_types import GRID_NS, NANOSECONDS, EgoPose, Prediction
from .outputs import HORIZON_NS

# Names of the checks of a prediction, by what they say.
INVALID = ('non_finite', 'action_bounds', 'lateral_acceleration', 'backward', 'jump')
UNHEALTHY = ('marker_missing', 'budget', 'repetition')
ON_INVALID = ('stop', 'hold', 'flag')
ON_UNHEALTHY = ('drop', 'keep')
EXPIRED_PATH = ('drop', 'trim', 'publish')


@dataclass(frozen=True)
class Policies:
    """The choices of the user: values of ON_INVALID, ON_UNHEALTHY and EXPIRED_PATH.

    min_remaining_s: what must be left of a path that is trimmed.
    """

    on_invalid: str = 'stop'
    on_unhealthy_reasoning: str = 'drop'
    expired_path: str = 'drop'
    min_remaining_s: float = 1.0


@dataclass(frozen=True)
class Decision:
    """What goes out for one prediction, or for one that is missing.

    action: 'publish' the prediction from waypoint `first` on, 'hold' the last valid path, or
    'nothing'. reasons: everything that is wrong with it; with 'publish' it is flagged by them.
    """

    action: str
    reasons: tuple[str, ...] = ()
    first: int = 0


def decide(prediction: Prediction, now_ns: int, policies: Policies) -> Decision:
    """Decide on a prediction at the time of publication, on the clock of t0.

    A path that is not finite is never published; else invalid ones follow on_invalid, unhealthy
    reasoning on_unhealthy_reasoning, and age expired_path.
    """
    wrong = tuple(name for name in prediction.checks if name in (*INVALID, *UNHEALTHY))
    first = first_waypoint(prediction.t0_ns, now_ns, policies)
    reasons = (*wrong, 'expired') if is_expired(prediction.t0_ns, now_ns, policies) else wrong
    invalid = any(name in INVALID for name in wrong)
    unhealthy = any(name in UNHEALTHY for name in wrong)
    refused = invalid and (policies.on_invalid != 'flag' or 'non_finite' in wrong)
    if refused or (unhealthy and policies.on_unhealthy_reasoning == 'drop'):
        return decide_missing(policies, reasons)
    if first is None:
        return Decision('nothing', reasons)
    return Decision('publish', reasons, first)


def decide_missing(policies: Policies, reasons: Iterable[str]) -> Decision:
    """Decide where there is no path to publish: the last valid one, or nothing."""
    return Decision('hold' if policies.on_invalid == 'hold' else 'nothing', tuple(reasons))


def is_expired(t0_ns: int, now_ns: int, policies: Policies) -> bool:
    """Whether a path is over; when trimmed, also when less than min_remaining_s is left."""
    left_ns = t0_ns + HORIZON_NS - now_ns
    wanted_s = policies.min_remaining_s if policies.expired_path == 'trim' else 0.0
    return left_ns <= 0 or left_ns < wanted_s * NANOSECONDS


def first_waypoint(t0_ns: int, now_ns: int, policies: Policies) -> int | None:
    """Index of the first waypoint to publish, None when none is: waypoint k is at k + 1 steps."""
    if policies.expired_path == 'publish':
        return 0
    if is_expired(t0_ns, now_ns, policies):
        return None
    return max((now_ns - t0_ns) // GRID_NS, 0) if policies.expired_path == 'trim' else 0


def compare_with_previous(
    prediction: Prediction,
    odom_from_t0: EgoPose,
    previous: tuple[int, NDArray[np.float64]] | None,
) -> tuple[Prediction, tuple[int, NDArray[np.float64]] | None]:
    """Check a prediction for a jump against the plan before it: t0 and `placed` path of that.

    Returns the prediction with the check and the plan to compare the next one with; a path that
    is not finite is compared with nothing.
    """
    chosen = prediction.samples[prediction.chosen]
    if not np.isfinite(chosen).all():
        return prediction, previous
    t0_ns, path = prediction.t0_ns, placed(odom_from_t0, chosen)
    jump = validity.check_jump(path, t0_ns, previous[1], previous[0]) if previous else ()
    return replace(prediction, checks=(*prediction.checks, *jump)), (t0_ns, path)


def placed(odom_from_t0: EgoPose, sample: ArrayLike) -> NDArray[np.float64]:
    """Path (64, 3) in the odometry frame, x, y m and yaw rad, of a sample (64, >= 3) at t0."""
    local = np.asarray(sample, np.float64)
    xyz = np.column_stack([local[:, :2], np.zeros(len(local))])
    pose = odom_from_t0.position_m, odom_from_t0.quaternion_xyzw
    positions, quaternions = geometry.to_world(*pose, xyz, local[:, 2])
    return np.column_stack([positions[:, :2], geometry.yaw(geometry.rotation_matrix(quaternions))])
