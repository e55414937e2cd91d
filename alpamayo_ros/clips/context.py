"""Context and truth of a clip at one t0.

The frame rule is the makers' (the last frame at or before a grid time), not that of the live
buffer, so that figures can stand beside theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..data_types import GRID_NS, HISTORY_POSES, WAYPOINTS, Context, EgoPose, Frame
from ..metrics.displacement import corner_distance
from ..rig import CAMERA_INDEX, R1_CAMERAS, CameraRig, RigCamera
from .clip import NS_PER_US, read_egomotion, read_frames
from .dataset import ClipError, ClipFolder

T0_US = 5_100_000
GRID_US = GRID_NS // NS_PER_US
FRAME_AGES_US = (300_000, 200_000, 100_000, 0)


@dataclass(frozen=True)
class Truth:
    """The vehicle around t0 in the frame of t0, float64.

    history (16, 3) and future (64, 3): x, y m and yaw rad. future_xyz (64, 3) m and future_rot
    (64, 3, 3) keep height, roll and pitch.
    """

    history: NDArray[np.float64]
    future: NDArray[np.float64]
    future_xyz: NDArray[np.float64]
    future_rot: NDArray[np.float64]


def make_clip_rig(cameras: Sequence[str] = R1_CAMERAS) -> CameraRig:
    """Cameras of the data set as a rig: no topics, no calibration (theirs is f-theta)."""
    rows = tuple(RigCamera(name, CAMERA_INDEX[name], '', 0.0, None) for name in cameras)
    return CameraRig('physical_ai_av', 'front_wide', '', 0.0, rows, ())


def read_context(
    folder: ClipFolder, clip_id: str, rig: CameraRig, t0_us: int = T0_US
) -> tuple[Context, Truth]:
    """Context and truth of a clip at t0; raises ClipError with the reason when there is none."""
    if not folder.rows[clip_id].is_valid:
        raise ClipError('clip_invalid', f'{clip_id}: clip_is_valid is false')
    motion = read_egomotion(folder, clip_id)
    steps = np.arange(1 - HISTORY_POSES, WAYPOINTS + 1)
    positions, quaternions = motion.at(t0_us + steps * GRID_US)
    now = HISTORY_POSES - 1
    xyz, rotations = geometry.to_local(positions[now], quaternions[now], positions, quaternions)
    xyz[now], rotations[now] = 0.0, np.eye(3)
    yaw = np.unwrap(geometry.yaw(rotations))
    path = np.column_stack([xyz[:, :2], yaw - yaw[now]])
    times_us = [t0_us - age_us for age_us in FRAME_AGES_US]
    frames = {c.name: read_frames(folder, clip_id, c.name, times_us) for c in rig.cameras}
    v0_mps = float(geometry.fit_speeds(xyz[: now + 1, :2], yaw[: now + 1])[-1])
    t0_ns = t0_us * NS_PER_US
    context = Context(
        t0_ns=t0_ns,
        frames=frames,
        camera_indices=tuple(camera.index for camera in rig.cameras),
        history_xyz_m=xyz[: now + 1].astype(np.float32),
        history_rot=rotations[: now + 1].astype(np.float32),
        odom_from_t0=EgoPose(t0_ns, positions[now], quaternions[now], v0_mps),
        v0_mps=v0_mps,
        skew_s=_measure_skew(frames),
    )
    return context, Truth(path[: now + 1], path[now + 1 :], xyz[now + 1 :], rotations[now + 1 :])


def measure_corners(samples: NDArray[np.float32], truth: Truth) -> float:
    """Corner distance m of K samples (K, 64, 4); a plan stays at the height of t0."""
    paths = samples.astype(np.float64)
    xyz = np.concatenate([paths[..., :2], np.zeros_like(paths[..., :1])], axis=-1)
    rotations = geometry.rotation_matrix(geometry.yaw_quaternion(paths[..., 2]))
    distance = corner_distance(xyz, rotations, truth.future_xyz, truth.future_rot)
    return round(float(distance), 6)


def _measure_skew(frames: dict[str, tuple[Frame, ...]]) -> float:
    """Largest spread s of the cameras at one grid time."""
    stamps = np.array([[frame.stamp_ns for frame in row] for row in frames.values()])
    return float(np.ptp(stamps, axis=0).max()) * 1e-9
