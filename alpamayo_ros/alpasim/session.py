"""One rollout of AlpaSim: its observations become contexts, predictions become poses to follow.

Knows no gRPC and no message of the simulator. Stamps are its microseconds. The local frame is the
one in which the poses of the vehicle come; the rig frame is the base frame of this package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
import threading

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import geometry, images
from ..context.buffer import ContextBuffer
from ..context.navigation import NavigationInput
from ..data_types import (
    GRID_NS,
    NANOSECONDS,
    WAYPOINTS,
    Context,
    EgoPose,
    Frame,
    Prediction,
    Rejection,
)
from ..errors import BadInput
from ..limits import ContextLimits
from ..rig import CAMERA_INDEX, DATASET_NAMES, R1_CAMERAS, CameraRig, RigCamera
from ..ros.cdr import Odometry
from ..ros.inputs import convert_odometry, make_compressed_frame

ANCHOR = 'front_wide'
TOLERANCE_S = 0.05
LOCAL, RIG = 'local', 'rig'
ODOMETRY = 'odometry'
# A rollout may begin at 0, and the buffer takes a stamp of zero for a missing one.
SHIFT_NS = NANOSECONDS
NS_PER_US = 1_000
SEEDS = 1 << 63  # as torch.Generator wants it

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """Poses to follow in the local frame, one step after now and on; none with a reason.

    stamps_us (N,), positions_m (N, 3), quaternions (N, 4) xyzw. health: figures by name, for the
    records of the simulator. reason and detail: as in a Rejection.
    """

    health: dict[str, float]
    reason: str = ''
    detail: str = ''
    stamps_us: tuple[int, ...] = ()
    positions_m: Array = field(default_factory=lambda: np.zeros((0, 3)))
    quaternions: Array = field(default_factory=lambda: np.zeros((0, 4)))


def make_session_rig(
    logical_ids: Collection[str], names: Sequence[str], limits: ContextLimits
) -> CameraRig:
    """The rig of a session that has these cameras, under the simulator's names.

    names: cameras to use; empty for those of R1 that the session has. Raises BadInput when one of
    `names` or the anchor is not there.
    """
    wanted = names or [x for x in R1_CAMERAS if x == ANCHOR or DATASET_NAMES[x] in logical_ids]
    if ANCHOR not in wanted:
        raise BadInput(f'cameras: expected {ANCHOR} among them: its stamps are the t0')
    for name in wanted:
        if name not in DATASET_NAMES:
            raise BadInput(f"cameras: '{name}' is not one of {', '.join(DATASET_NAMES)}")
        if DATASET_NAMES[name] not in logical_ids:
            known = ', '.join(sorted(logical_ids)) or 'none'
            raise BadInput(f'the session has no camera {DATASET_NAMES[name]}, but {known}')
    cameras = [
        RigCamera(name, CAMERA_INDEX[name], DATASET_NAMES[name], TOLERANCE_S, None)
        for name in sorted(wanted, key=lambda name: CAMERA_INDEX[name])
    ]
    absent = tuple(name for name in R1_CAMERAS if name not in wanted)
    return CameraRig(
        'alpasim', ANCHOR, ODOMETRY, TOLERANCE_S, tuple(cameras), absent, limits=limits
    )


class Session:
    """The input of one rollout, and its plans. Methods may be called from several threads.

    seed: of the session; the number of the call is added to it. Observations wait until the next
    plan and are then taken in the order of their stamps, as they may come in any.
    """

    def __init__(self, rig: CameraRig, seed: int) -> None:
        self.rig, self.seed = rig, seed
        self.calls = self.poses = 0  # of `plan`, and poses that came
        self.refusals: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()  # '' for a plan, else the reason
        self._cameras = {camera.topic: camera.name for camera in rig.cameras}
        self._buffer = ContextBuffer(rig)
        self._navigation = NavigationInput()
        self._waiting: list[tuple[str, Frame | EgoPose]] = []
        self._newest_ns: dict[str, int] = {}
        self._lock = threading.Lock()

    def add_image(self, logical_id: str, stamp_us: int, data: bytes) -> None:
        """Take an encoded image; one of a camera that is not used is left out."""
        if camera := self._cameras.get(logical_id):
            self._add(camera, lambda: _make_frame(stamp_us, data))

    def add_pose(
        self, stamp_us: int, position_m: Iterable[float], quaternion: Iterable[float],
        speed_mps: float, yaw_rate_radps: float,
    ) -> None:  # fmt: skip
        """Take a pose of the rig in the local frame: (3,) m and xyzw; the twist is of the rig."""
        odometry = Odometry(
            _to_ns(stamp_us), tuple(position_m), tuple(quaternion), speed_mps, yaw_rate_radps,
            LOCAL, RIG,
        )  # fmt: skip
        self.poses += 1
        self._add(ODOMETRY, lambda: convert_odometry(odometry))

    def add_route(self, points_m: ArrayLike) -> None:
        """Take a route of points (N, >= 2) m in the local frame; an empty one takes it away."""
        points = np.asarray(points_m, np.float64)
        with self._lock:
            self._navigation.add_route(points[:, :2] if len(points) else [], LOCAL)

    def plan(self, now_us: int, infer: Callable[[Context, int], Prediction]) -> Plan:
        """Plan at a time of the simulation; infer: as that of an engine."""
        now_ns = _to_ns(now_us)
        with self._lock:
            seed = (self.seed + self.calls) % SEEDS
            self.calls += 1
            self._hand_over()
            found = self._find_context(now_ns)
        plan = self._infer(found, seed, now_ns, infer)
        with self._lock:
            self.outcomes[plan.reason] += 1
        return plan

    def _add(self, name: str, make: Callable[[], Frame | EgoPose]) -> None:
        try:
            item = make()
        except ValueError:
            item = None
        with self._lock:
            if item is None:
                self.refusals[f'{name}: bad_message'] += 1
            else:
                self._waiting.append((name, item))

    def _hand_over(self) -> None:
        """Give the buffer what has come; what is behind its own kind is no step of the clock."""
        waiting, self._waiting = self._waiting, []
        for name, item in sorted(waiting, key=lambda pair: pair[1].stamp_ns):
            refused: Rejection | None = None
            if item.stamp_ns < self._newest_ns.get(name, 0):
                refused = Rejection(item.stamp_ns, 'late', f'{name}: came behind a later one')
            elif isinstance(item, Frame):
                refused = self._buffer.add_frame(name, item)
            else:
                refused = self._buffer.add_pose(item)
            self._newest_ns[name] = max(item.stamp_ns, self._newest_ns.get(name, 0))
            if refused:
                self.refusals[f'{name}: {refused.reason}'] += 1

    def _find_context(self, now_ns: int) -> Context | Rejection:
        oldest_ns = now_ns - round(self.rig.limits.max_input_age_s * NANOSECONDS)
        found = self._buffer.newest(oldest_ns=oldest_ns)
        if found is None:
            return Rejection(now_ns, 'stale_input', f'{ANCHOR}: no frame that is new enough')
        return self._navigation.apply(found, now_ns) if isinstance(found, Context) else found

    def _infer(
        self, found: Context | Rejection, seed: int, now_ns: int,
        infer: Callable[[Context, int], Prediction],
    ) -> Plan:  # fmt: skip
        if isinstance(found, Rejection):
            return self._refuse(found.reason, found.detail)
        try:
            prediction = infer(found, seed)
        except images.ImageError as error:
            return self._refuse('bad_image', str(error))
        path = prediction.samples[prediction.chosen]
        if not np.isfinite(path).all():
            return self._refuse('non_finite', 'the path of the model is not finite')
        health = {
            'served': 1.0,
            'age_s': (now_ns - found.t0_ns) / NANOSECONDS,
            'skew_s': found.skew_s,
            'v0_mps': prediction.v0_mps,
            'spread_m': prediction.spread_m,
            'tokens': float(prediction.tokens[prediction.chosen]),
            'refused': float(self.refusals.total()),
            **{f'ms_{name}': ms for name, ms in prediction.timing_ms.items()},
            **{f'check_{name}': 1.0 for name in prediction.checks},
        }
        return Plan(health, '', '', *_place(found.odom_from_t0, path, now_ns))

    def _refuse(self, reason: str, detail: str) -> Plan:
        refused = float(self.refusals.total())
        return Plan({'served': 0.0, 'refused': refused, f'reason_{reason}': 1.0}, reason, detail)


def _make_frame(stamp_us: int, data: bytes) -> Frame:
    return make_compressed_frame(_to_ns(stamp_us), np.frombuffer(data, np.uint8))


def _place(
    pose: EgoPose, sample: NDArray[np.float32], now_ns: int
) -> tuple[tuple[int, ...], Array, Array]:
    """Stamps us, positions and quaternions of a sample (64, >= 3), from one step after now on.

    pose: that of t0, in whose frame the sample is.
    """
    path = np.asarray(sample, np.float64)
    xyz = np.column_stack([path[:, :2], np.zeros(WAYPOINTS)])
    positions, quaternions = geometry.to_world(
        pose.position_m, pose.quaternion_xyzw, xyz, path[:, 2]
    )
    steps = np.arange(WAYPOINTS + 1) * GRID_NS
    times = now_ns + steps[1:]
    times = times[times <= pose.stamp_ns + steps[-1]]
    placed = geometry.interpolate_poses(
        pose.stamp_ns + steps,
        np.vstack([pose.position_m, positions]),
        np.vstack([pose.quaternion_xyzw, quaternions]),
        times,
    )
    return tuple(((times - SHIFT_NS) // NS_PER_US).tolist()), *placed


def _to_ns(stamp_us: int) -> int:
    return stamp_us * NS_PER_US + SHIFT_NS
