"""Decides about a prediction: publish, trim, flag, hold the last valid path, or send nothing.

Pure functions of a prediction, a time and the policies; no ROS, no buffer, no counters. Nothing
is repaired: the node publishes a path as it is, in part (without waypoints that are over), or not
at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ... import geometry, validity
from ...data_types import GRID_NS, NANOSECONDS, EgoPose, Prediction
from .retiming import retime
from .stamped_prediction import HORIZON_NS

# States of the node. It publishes while it is active, and while it is inactive (paused) what was
# asked for by ~/infer_once.
STATES = ('unloaded', 'loading', 'inactive', 'active', 'failed')
# Names of the checks of a prediction, by what they mean.
INVALID = ('non_finite', 'action_bounds', 'lateral_acceleration', 'backward', 'jump')
UNHEALTHY = ('marker_missing', 'budget', 'repetition')
ON_INVALID = ('stop', 'hold', 'flag', 'publish_invalid')
ON_UNHEALTHY = ('drop', 'keep')
EXPIRED_PATH = ('drop', 'trim', 'publish')
ON_TOO_FAST = ('keep', 'slow')
TOO_FAST = 'too_fast'  # a check that holds nothing back
FUTURE_NS = NANOSECONDS // 2  # a t0 so far ahead of the clock is of another time: it went back
TRUSTED_DISTANCE_M = 20.0  # docs/evaluation.md has the scores


@dataclass(frozen=True)
class Policies:
    """The choices of the user: values of ON_INVALID, ON_UNHEALTHY, EXPIRED_PATH and ON_TOO_FAST.

    min_remaining_s: shortest rest of a trimmed path. retime: whether a path starts with the
    vehicle's speed, see retiming.py. trusted_distance_m: how far paths can be trusted, see
    trusted_speed.py.
    """

    on_invalid: str = 'stop'
    on_unhealthy_reasoning: str = 'drop'
    expired_path: str = 'drop'
    min_remaining_s: float = 1.0
    retime: bool = False
    on_too_fast: str = 'keep'
    trusted_distance_m: float = TRUSTED_DISTANCE_M


@dataclass(frozen=True)
class Decision:
    """What goes out for one prediction, or for one that is missing.

    action: 'publish' the prediction from waypoint `first` on, 'hold' the last valid path, 'flag'
    (the status names the faults, ~/debug/path has the path), or 'nothing'. reasons: everything
    that is wrong; a path that is published all the same has them in its status.
    """

    action: str
    reasons: tuple[str, ...] = ()
    first: int = 0


def may_publish(state: str, is_requested: bool) -> bool:
    """Whether anything may go out in this state; is_requested: ~/infer_once asked for it."""
    return state == 'active' or (state == 'inactive' and is_requested)


def decide(prediction: Prediction, now_ns: int, policies: Policies) -> Decision:
    """Decide on a prediction at the time of publication, on the clock of t0.

    A path that is not finite is never published, nor one whose t0 is in the future. Other invalid
    paths follow on_invalid, unhealthy reasoning follows on_unhealthy_reasoning, and age follows
    expired_path.
    """
    wrong = tuple(name for name in prediction.checks if name in (*INVALID, *UNHEALTHY))
    first = find_first_waypoint(prediction.t0_ns, now_ns, policies)
    reasons = (*wrong, 'expired') if is_expired(prediction.t0_ns, now_ns, policies) else wrong
    invalid = any(name in INVALID for name in wrong)
    unhealthy = any(name in UNHEALTHY for name in wrong)
    refused = invalid and (policies.on_invalid != 'publish_invalid' or 'non_finite' in wrong)
    if refused or (unhealthy and policies.on_unhealthy_reasoning == 'drop'):
        decision = decide_missing(policies, reasons)
        flagged = refused and policies.on_invalid == 'flag'
        return replace(decision, action='flag') if flagged else decision
    if is_ahead(prediction.t0_ns, now_ns):
        return decide_missing(policies, (*reasons, 'future'))
    if first is None:
        return Decision('nothing', reasons)
    return Decision('publish', reasons, first)


def decide_missing(policies: Policies, reasons: Iterable[str]) -> Decision:
    """Decide where there is no path to publish: the last valid one, or nothing."""
    return Decision('hold' if policies.on_invalid == 'hold' else 'nothing', tuple(reasons))


def is_ahead(t0_ns: int, now_ns: int) -> bool:
    """Whether a t0 is in the future, as after a clock that went back."""
    return t0_ns > now_ns + FUTURE_NS


def is_expired(t0_ns: int, now_ns: int, policies: Policies) -> bool:
    """Whether a path is over; when trimmed, also when less than min_remaining_s is left."""
    left_ns = t0_ns + HORIZON_NS - now_ns
    wanted_s = policies.min_remaining_s if policies.expired_path == 'trim' else 0.0
    return left_ns <= 0 or left_ns < wanted_s * NANOSECONDS


def find_first_waypoint(t0_ns: int, now_ns: int, policies: Policies) -> int | None:
    """Index of the first waypoint to publish, None when none is: waypoint k is at k + 1 steps."""
    if policies.expired_path == 'publish':
        return 0
    if is_expired(t0_ns, now_ns, policies):
        return None
    return max((now_ns - t0_ns) // GRID_NS, 0) if policies.expired_path == 'trim' else 0


def check_takeover(
    prediction: Prediction, odom_from_t0: EgoPose, vehicle: EgoPose | None
) -> Prediction:
    """Return the prediction, with the check 'jump' where its path is not where the vehicle is.

    vehicle: the newest pose of the odometry; the path is judged at its stamp, so the pose is not
    extrapolated. A path that is not finite or over, or a missing pose, is not judged.
    """
    chosen = prediction.samples[prediction.chosen]
    if vehicle is None or not np.isfinite(chosen).all():
        return prediction
    path = place_path(odom_from_t0, np.concatenate([np.zeros((1, chosen.shape[1])), chosen]))
    after_s = (vehicle.stamp_ns - prediction.t0_ns) / NANOSECONDS
    jump = validity.check_jump(path, vehicle.position_m[:2], after_s)
    return replace(prediction, checks=(*prediction.checks, *jump))


def check_speed(prediction: Prediction, vehicle: EgoPose | None, trusted_mps: float) -> Prediction:
    """Return the prediction, with the check 'too_fast' where the vehicle is faster than trusted.

    Without a vehicle's pose the speed at t0 counts.
    """
    speed_mps = prediction.v0_mps if vehicle is None else vehicle.speed_mps
    if not speed_mps > trusted_mps:
        return prediction
    return replace(prediction, checks=(*prediction.checks, TOO_FAST))


def time_path(
    prediction: Prediction,
    odom_from_t0: EgoPose,
    vehicle: EgoPose | None,
    policies: Policies,
    trusted_mps: float,
) -> Prediction:
    """Return the prediction as it goes out: re-timed, and slowed down, where policies say so."""
    is_slowed = policies.on_too_fast == 'slow'
    if not (policies.retime or is_slowed):
        return prediction
    return retime(prediction, odom_from_t0, vehicle, trusted_mps if is_slowed else math.inf)


def place_path(odom_from_t0: EgoPose, sample: ArrayLike) -> NDArray[np.float64]:
    """Path (N, 3) in the odometry frame, x, y m and yaw rad, of a sample (N, >= 3) at t0."""
    local = np.asarray(sample, np.float64)
    xyz = np.column_stack([local[:, :2], np.zeros(len(local))])
    pose = odom_from_t0.position_m, odom_from_t0.quaternion_xyzw
    positions, quaternions = geometry.to_world(*pose, xyz, local[:, 2])
    return np.column_stack([positions[:, :2], geometry.yaw(geometry.rotation_matrix(quaternions))])
