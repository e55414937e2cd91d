"""Rigid motion in float64: quaternions, interpolation of poses, the t0 frame, fitted speeds.

Quaternions are (..., 4), x, y, z, w, of unit norm. Rotation matrices (..., 3, 3) act on column
vectors. Stamps are int64 nanoseconds. Knows no ROS, no torch and no buffers.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

DT_S = 0.1
RIDGE = 1e-4  # on the speeds; alpamayo-r1 fits 9.999 m/s to a history of 10 m/s because of it
SMOOTHNESS = 1e-6 / DT_S**6  # on their third differences


_NEXT, _LAST = [1, 2, 0], [2, 0, 1]  # the axes after x, y and z
_IDENTITY = np.eye(4)


def multiply(a: ArrayLike, b: ArrayLike) -> Array:
    """Hamilton product of quaternions (..., 4): the rotation b followed by a."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    va, wa, vb, wb = a[..., :3], a[..., 3:], b[..., :3], b[..., 3:]
    # np.cross alone would take as long as the rest of this function
    cross = va.take(_NEXT, -1) * vb.take(_LAST, -1) - va.take(_LAST, -1) * vb.take(_NEXT, -1)
    vector = wa * vb + wb * va + cross
    scalar = wa * wb - np.add.reduce(va * vb, axis=-1, keepdims=True)
    return np.concatenate([vector, scalar], axis=-1)


def conjugate(quaternions: ArrayLike) -> Array:
    """Inverse of unit quaternions (..., 4)."""
    return np.multiply(quaternions, [-1.0, -1.0, -1.0, 1.0])


def rotation_matrix(quaternions: ArrayLike) -> Array:
    """Rotation matrices (..., 3, 3) of unit quaternions (..., 4)."""
    q = np.asarray(quaternions, np.float64)
    product = q[..., :, None] * q[..., None, :]
    xx, yy, zz = product[..., 0, 0], product[..., 1, 1], product[..., 2, 2]
    xy, xz, yz = product[..., 0, 1], product[..., 0, 2], product[..., 1, 2]
    xw, yw, zw = product[..., 0, 3], product[..., 1, 3], product[..., 2, 3]
    matrices = np.empty((*q.shape[:-1], 3, 3))
    matrices[..., 0, 0], matrices[..., 0, 1], matrices[..., 0, 2] = yy + zz, xy - zw, xz + yw
    matrices[..., 1, 0], matrices[..., 1, 1], matrices[..., 1, 2] = xy + zw, xx + zz, yz - xw
    matrices[..., 2, 0], matrices[..., 2, 1], matrices[..., 2, 2] = xz - yw, yz + xw, xx + yy
    matrices *= 2
    diagonal = np.einsum('...ii->...i', matrices)
    np.subtract(1, diagonal, out=diagonal)
    return matrices


def yaw_quaternion(yaw_rad: ArrayLike) -> Array:
    """Quaternions (..., 4) of rotations about z by yaw (...)."""
    half = np.asarray(yaw_rad, np.float64) / 2
    zero = np.zeros_like(half)
    return np.stack([zero, zero, np.sin(half), np.cos(half)], axis=-1)


def yaw(rotations: ArrayLike) -> Array:
    """Heading (...) rad in (-pi, pi] of rotation matrices (..., 3, 3)."""
    rotations = np.asarray(rotations, np.float64)
    return np.asarray(np.arctan2(rotations[..., 1, 0], rotations[..., 0, 0]))


def wrap_angle(angle_rad: ArrayLike) -> Array:
    """The same angle in [-pi, pi]."""
    return np.asarray(np.arctan2(np.sin(angle_rad), np.cos(angle_rad)))


def rotation_vector(quaternions: ArrayLike) -> Array:
    """Axis times angle (..., 3) rad, angle at most pi, of unit quaternions (..., 4)."""
    q = np.asarray(quaternions, np.float64)
    q = np.where(q[..., 3:] < 0, -q, q)  # q and -q are one rotation: take the shorter way
    sine = _norm(q[..., :3])
    angle = 2 * np.arctan2(sine, q[..., 3:])
    scale = np.divide(angle, sine, out=np.full_like(sine, 2.0), where=sine > 1e-12)
    return np.asarray(q[..., :3] * scale)


def _norm(vectors: Array) -> Array:
    """Lengths (..., 1) of vectors (..., 3), faster than np.linalg.norm for so few."""
    return np.asarray(np.sqrt(np.add.reduce(vectors * vectors, axis=-1, keepdims=True)))


def exponential(rotation_vectors: ArrayLike) -> Array:
    """Unit quaternions (..., 4) of rotation vectors (..., 3); inverse of `rotation_vector`."""
    vectors = np.asarray(rotation_vectors, np.float64)
    half = _norm(vectors) / 2
    return np.concatenate([vectors * np.sinc(half / np.pi) / 2, np.cos(half)], axis=-1)


def interpolate_poses(
    stamps_ns: ArrayLike, positions_m: ArrayLike, quaternions: ArrayLike, times_ns: ArrayLike
) -> tuple[Array, Array]:
    """Poses at `times_ns` (T,): positions (T, 3) and quaternions (T, 4), from N >= 4 samples.

    Each time uses the cubic through the two samples on either side of it, one-sided at the ends.
    Rotations go the same way as rotation vectors relative to the sample before (slerp is the same
    with two samples; alone it would turn a 15 m history by 3 mm at 20 Hz). Stamps (N,) must
    increase strictly; a time outside them raises ValueError, nothing is extrapolated.
    """
    stamps = np.asarray(stamps_ns, np.int64)
    times = np.asarray(times_ns, np.int64)
    positions = np.asarray(positions_m, np.float64)
    rotations = np.asarray(quaternions, np.float64)
    if len(stamps) < 4 or times.size and (times.min() < stamps[0] or times.max() > stamps[-1]):
        raise ValueError('a pose can only be interpolated inside four samples or more')
    before = np.minimum(np.searchsorted(stamps, times, 'right') - 1, len(stamps) - 2)
    first = np.minimum(np.maximum(before - 1, 0), len(stamps) - 4)
    support = first[:, None] + np.arange(4)  # (T, 4)
    weights = _lagrange((stamps[support] - times[:, None]) * 1e-9)[..., None]
    origin = positions[before]  # differences keep the digits that map coordinates would cost
    offsets = np.add.reduce(weights * (positions[support] - origin[:, None]), axis=1)
    base = rotations[before]
    vectors = rotation_vector(multiply(conjugate(base)[:, None], rotations[support]))
    return origin + offsets, multiply(base, exponential(np.add.reduce(weights * vectors, axis=1)))


def _lagrange(offsets_s: Array) -> Array:
    """Weights (T, 4) of the cubic through samples at `offsets_s` (T, 4), evaluated at 0."""
    to, per = offsets_s[:, None, :], offsets_s[:, :, None]  # of weight i the factors j, but i
    factors = np.where(_IDENTITY, 1.0, to) / (to - per + _IDENTITY)
    return np.asarray(factors[..., 0] * factors[..., 1] * factors[..., 2] * factors[..., 3])


def to_local(
    position_m: ArrayLike, quaternion: ArrayLike, positions_m: ArrayLike, quaternions: ArrayLike
) -> tuple[Array, Array]:
    """World poses (N, 3), (N, 4) in the frame of one pose: positions (N, 3), rotations (N, 3, 3).

    p_local = R^-1 (p - p_0), R_local = R_0^-1 R: docs/model.md section 9.
    """
    local_from_world = rotation_matrix(quaternion).T
    offsets = np.asarray(positions_m, np.float64) - np.asarray(position_m, np.float64)
    return offsets @ local_from_world.T, local_from_world @ rotation_matrix(quaternions)


def to_world(
    position_m: ArrayLike, quaternion: ArrayLike, local_xyz_m: ArrayLike, local_yaw: ArrayLike
) -> tuple[Array, Array]:
    """Local positions (N, 3) and yaws (N,) in the world of a pose: (N, 3), quaternions (N, 4).

    Roll and pitch of the pose are kept.
    """
    offsets = np.asarray(local_xyz_m, np.float64) @ rotation_matrix(quaternion).T
    return np.asarray(position_m) + offsets, multiply(quaternion, yaw_quaternion(local_yaw))


def fit_speeds(xy_m: ArrayLike, yaw_rad: ArrayLike) -> Array:
    """Speeds (N + 1,) m/s along the heading that explain N segments of 0.1 s; the last one is v0.

    xy_m (N + 1, 2) and yaw_rad (N + 1,) of the ego history. Minimises the sum over segments of
    |v_t u_t + v_t+1 u_t+1 - 2 dp_t / dt|^2, smoothed and with a ridge: docs/model.md section 9.
    """
    xy, heading = np.asarray(xy_m, np.float64), np.asarray(yaw_rad, np.float64)
    count = len(xy)
    unit = np.stack([np.cos(heading), np.sin(heading)], axis=-1)  # (N + 1, 2)
    segment = np.arange(count - 1)
    motion = np.zeros((count - 1, 2, count))
    motion[segment, :, segment] = unit[:-1]
    motion[segment, :, segment + 1] = unit[1:]
    design = motion.reshape(-1, count)  # (N, 2, N + 1) -> (2 N, N + 1)
    target = (2 * np.diff(xy, axis=0) / DT_S).reshape(-1)
    smoothing, ridge = _penalties(count)
    normal = design.T @ design + smoothing + ridge
    return np.asarray(np.linalg.solve(normal, design.T @ target))


@cache
def _penalties(count: int) -> tuple[Array, Array]:
    """Smoothing and ridge of so many speeds: what they add to the normal matrix."""
    third = np.diff(np.eye(count), n=3, axis=0)
    return SMOOTHNESS * third.T @ third, RIDGE * np.eye(count)


def find_latest_at_or_before(stamps: ArrayLike, requested: ArrayLike) -> NDArray[np.int64]:
    """Index of the latest of the sorted `stamps` (N,) at or before each of `requested` (T,).

    This is the reference loader's choice of frames (docs/model.md section 9); the buffer takes
    the nearest instead. A time outside the stamps raises ValueError.
    """
    stamps, requested = np.asarray(stamps), np.asarray(requested)
    if not len(stamps) or requested.min() < stamps[0] or requested.max() > stamps[-1]:
        raise ValueError('requested times reach outside the frames')
    return np.searchsorted(stamps, requested, 'right') - 1
