"""Checks that the poses of a history are of one vehicle in one frame: there is no jump.

A step between two poses is a jump when neither the twist nor the steps before and after explain
it: a corrected map, a second sender, a step of the clock. Knows no streams and no limits of the
user.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..data_types import GRID_NS, NANOSECONDS, EgoPose
from ..geometry import Array

# How far a step may be off. The second term is what an acceleration does between two poses that
# are far apart; the third, along the motion only, is 10 ms of jitter of the stamps.
JUMP_M, JUMP_ACCELERATION_MPS2, STAMP_JITTER_S = 0.25, 3.0, 0.01
WINDOW_JUMP_M = 0.4  # between poses 0.1 s apart: the noise of four poses adds up
JUMP_YAW_RAD, JUMP_TILT_RAD, JUMP_ANGULAR_RADPS2 = 0.035, 0.1, 1.0  # 2 degrees of heading
FASTEST_MPS = 60.0
WINDOW_S = GRID_NS / NANOSECONDS  # jumps that a filter spreads over some poses show in 0.1 s

SCREEN = 0.8  # share of what is allowed: the screen takes an arc for its chord


class PoseTrack:
    """Poses in the order of their stamps as arrays.

    stamps_ns (N,), seconds (N,) after t0, positions (N, 3) m, quaternions (N, 4), speeds (N,) m/s
    and yaw_rates (N,) rad/s: NaN where the twist is not stated or not used.
    """

    def __init__(self, poses: Sequence[EgoPose], t0_ns: int, uses_twist: bool) -> None:
        self.stamps_ns = np.array([pose.stamp_ns for pose in poses])
        self.seconds = (self.stamps_ns - t0_ns) / NANOSECONDS
        self.positions = np.concatenate([pose.position_m for pose in poses]).reshape(-1, 3)
        self.quaternions = np.concatenate([pose.quaternion_xyzw for pose in poses]).reshape(-1, 4)
        unused = None if uses_twist else np.full(len(poses), np.nan)
        self.speeds = np.array([p.speed_mps for p in poses]) if unused is None else unused
        self.yaw_rates = np.array([p.yaw_rate_radps for p in poses]) if unused is None else unused

    def find_window_ends(self) -> NDArray[np.int64]:
        """Index (N - 1,) of the pose WINDOW_S after each one, of the next one at least."""
        count = len(self.seconds)
        ends = np.searchsorted(self.seconds, self.seconds[:-1] + WINDOW_S - 1e-3)
        return np.maximum(np.minimum(ends, count - 1), np.arange(1, count))

    def measure_steps(
        self, starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> tuple[Array, Array]:
        """Motion (M, 3) m between two poses in the attitude half-way, and turn (M, 3) rad."""
        base = self.quaternions[starts]
        turn = geometry.rotation_vector(
            geometry.multiply(geometry.conjugate(base), self.quaternions[ends])
        )
        middle = geometry.rotation_matrix(geometry.multiply(base, geometry.exponential(turn / 2)))
        moved = self.positions[ends] - self.positions[starts]
        return np.einsum('nji,nj->ni', middle, moved), turn

    def integrate_twist(self) -> tuple[Array, Array]:
        """Distance (N,) m and yaw (N,) rad that the twist gives since the first pose."""
        halves = np.diff(self.seconds) / 2
        return tuple(  # type: ignore[return-value]
            np.concatenate([[0.0], np.cumsum((rates[1:] + rates[:-1]) * halves)])
            for rates in (self.speeds, self.yaw_rates)
        )


def describe_jump(track: PoseTrack) -> str:
    """Describe the worst jump between the poses; '' when there is none."""
    return '' if follows_twist(track) else describe_unexplained_step(track)


def follows_twist(track: PoseTrack) -> bool:
    """Whether the twist explains every step: a fast screen of `describe_unexplained_step`."""
    x, y, z, w = track.quaternions.T
    forward = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)], -1)
    tilt = np.stack([forward[:, 2], 2 * (y * z + x * w)], -1)
    distances, yaws = track.integrate_twist()
    turned = np.diff(np.arctan2(forward[:, 1], forward[:, 0]))
    turned -= 2 * np.pi * np.round(turned / (2 * np.pi))
    yaw_off = np.concatenate([[0.0], np.cumsum(turned)]) - yaws
    path = np.cumsum(np.diff(distances)[:, None] * (forward[1:] + forward[:-1]) / 2, axis=0)
    off = track.positions - track.positions[0]
    off[1:] -= path
    ends = track.find_window_ends()
    nexts = np.arange(1, len(off))
    return all(
        bool(np.abs(values[at] - values[:-1]).max() < SCREEN * allowed)
        for values, allowed in (
            (off, JUMP_M / 3**0.5),  # each axis by itself
            (yaw_off, JUMP_YAW_RAD),
            (tilt, JUMP_TILT_RAD / 2**0.5),
        )
        for at in (nexts, ends)
    )


def describe_unexplained_step(track: PoseTrack) -> str:
    """Describe the worst step that neither twist nor neighbours explain; '' without one."""
    starts = np.arange(len(track.seconds) - 1)
    windows = track.find_window_ends()
    velocities = _WindowVelocities(track, starts, windows)
    text = _describe_worst(track, velocities, starts, starts + 1)
    if text or (windows == starts + 1).all():
        return text
    return _describe_worst(track, velocities, starts, windows)


class _WindowVelocities:
    """Velocities of the windows of WINDOW_S that begin at each pose, and what they predict.

    Over a whole window the jitter of the stamps and the noise of the poses even out.
    """

    def __init__(
        self, track: PoseTrack, starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> None:
        spans = track.seconds[ends] - track.seconds[starts]
        count = int((spans >= WINDOW_S - 1e-3).sum()) or 1  # the last ones are cut off
        starts, ends, spans = starts[:count], ends[:count], spans[:count, None]
        moved, turned = track.measure_steps(starts, ends)
        self.velocity, self.rate, self.ends = moved / spans, turned / spans, ends
        self.middle = (track.seconds[starts] + track.seconds[ends]) / 2

    def predict(
        self, track: PoseTrack, starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> tuple[Array, Array]:
        """Motion and turn (M, 3) of steps by the windows before and after each, or by one of them.

        NaN where there is neither.
        """
        before = np.searchsorted(self.ends, starts, 'right') - 1
        has_before, has_after = before >= 0, ends < len(self.ends)
        before, after = np.maximum(before, 0), np.where(has_after, ends, 0)
        middle = (track.seconds[ends] + track.seconds[starts]) / 2
        span = np.maximum(self.middle[after] - self.middle[before], 1e-9)
        share = np.where(has_before, (middle - self.middle[before]) / span, 1.0)
        share = np.where(has_after, share, 0.0)
        share = np.where(has_before | has_after, share, np.nan)[:, None]
        seconds = (track.seconds[ends] - track.seconds[starts])[:, None]
        moved, turned = (
            ((1 - share) * values[before] + share * values[after]) * seconds
            for values in (self.velocity, self.rate)
        )
        return moved, turned


def _describe_worst(
    track: PoseTrack,
    velocities: _WindowVelocities,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> str:
    seconds = track.seconds[ends] - track.seconds[starts]
    moved, turned = track.measure_steps(starts, ends)
    explanations = [velocities.predict(track, starts, ends)]
    if track.speeds.any():  # a twist that is always zero is none
        zero = np.zeros(len(starts))
        distance, yaw = (total[ends] - total[starts] for total in track.integrate_twist())
        explanations.append(
            (np.stack([distance, zero, zero], -1), np.stack([zero, zero, yaw], -1))
        )
    allowed_m = np.where(ends == starts + 1, JUMP_M, WINDOW_JUMP_M)
    excess = np.stack(
        [
            np.min(
                [_exceed_distance(moved, x, seconds, allowed_m) for x, _ in explanations], axis=0
            ),
            np.min([_exceed_angle(turned, x, seconds) for _, x in explanations], axis=0),
        ]
    )
    worst = np.where(np.isfinite(excess), excess, 0.0).max(axis=0)
    at = int(np.argmax(worst))
    if worst[at] <= 1:
        return ''
    meters = np.nanmin([np.linalg.norm(moved[at] - motion[at]) for motion, _ in explanations])
    radians = np.nanmin([np.linalg.norm(turned[at] - turn[at]) for _, turn in explanations])
    return (
        f'odometry: the pose at t0{track.seconds[ends[at]]:+.2f} s is {meters:.2f} m and '
        f'{np.degrees(radians):.1f} degrees off the motion around it, expected a continuous frame '
        'and one sender'
    )


def _exceed_distance(moved: Array, expected: Array, seconds: Array, allowed_m: Array) -> Array:
    """How far a motion (M, 3) is off, in units of what is allowed; inf without an expectation."""
    off = np.abs(moved - expected)
    allowed_m = allowed_m + JUMP_ACCELERATION_MPS2 * seconds**2
    jitter_m = STAMP_JITTER_S * np.minimum(np.abs(expected[:, 0]) / seconds, FASTEST_MPS)
    across = np.linalg.norm(off[:, 1:], axis=1)
    ratio = np.maximum(off[:, 0] / (allowed_m + jitter_m), across / allowed_m)
    return np.where(np.isnan(ratio), np.inf, ratio)


def _exceed_angle(turned: Array, expected: Array, seconds: Array) -> Array:
    """How far a turn (M, 3) is off, in units of what is allowed; inf without an expectation."""
    off = np.abs(turned - expected)
    extra_rad = JUMP_ANGULAR_RADPS2 * seconds**2
    tilt = np.linalg.norm(off[:, :2], axis=1)
    ratio = np.maximum(off[:, 2] / (JUMP_YAW_RAD + extra_rad), tilt / (JUMP_TILT_RAD + extra_rad))
    return np.where(np.isnan(ratio), np.inf, ratio)
