"""AlpaSim's driver service: one engine behind carla-driver-interface, several rollouts at once.

The simulator gives images, poses and a route, and asks for a path to follow. Recorded truth is
ignored. The server has neither encryption nor a password.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from carla_driver_interface.driver import (
    BaseDriver,
    CameraFrame,
    DriveContext,
    DriveResult,
    SensorFrame,
    SessionState,
)
from carla_driver_interface.geometry import Pose, Trajectory
import numpy as np

from .. import geometry
from ..data_types import Context, Prediction
from ..rig import CameraRig
from ..runtime.serving.jobs import Engine
from .session import Plan, Session


class AlpamayoDriver(BaseDriver):
    """Sessions that share one engine, which one thread starts and owns.

    make_rig: from the logical ids of a session's cameras to its rig; raises BadInput, which the
    simulator gets as the reason why its session cannot begin. log: takes a line for people.
    """

    name = 'alpamayo_ros'

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        make_rig: Callable[[Collection[str]], CameraRig],
        log: Callable[[str], Any] = print,
    ) -> None:
        self._make_rig, self._log = make_rig, log
        self._sessions: dict[str, Session] = {}
        self._thread = ThreadPoolExecutor(1, 'engine')
        self._engine: Engine = self._thread.submit(make_engine).result()

    def close(self) -> None:
        """End the engine's thread, after the inference that runs."""
        self._thread.shutdown()

    def on_session_start(self, session: SessionState) -> None:
        """Make the rig and the buffer of a rollout."""
        rig = self._make_rig(session.cameras)
        self._sessions[session.uuid] = Session(rig, session.seed)
        names = ', '.join(camera.name for camera in rig.cameras)
        self._log(f'session {session.uuid} {session.scene_id}: cameras {names}')

    def on_session_close(self, session: SessionState) -> None:
        """Forget a rollout and log what became of its calls."""
        own = self._sessions.pop(session.uuid)
        why = [f'{name} {count}' for name, count in own.outcomes.most_common() if name]
        why += [f'refused {name} {count}' for name, count in own.refusals.most_common()]
        served = f'{own.outcomes[""]} of {own.calls} calls have a path'
        self._log(f'session {session.uuid}: {"; ".join([served, *why])}')

    def on_frame(self, session: SessionState, frame: SensorFrame) -> None:
        """Take an image, stamped with the end of its exposure."""
        own = self._sessions.get(session.uuid)
        if own and isinstance(frame, CameraFrame):
            own.add_image(frame.logical_id, frame.frame_end_us, frame.image_bytes)

    def drive(self, ctx: DriveContext) -> DriveResult:
        """Plan from what has come; the path is empty where that is too little."""
        own = self._sessions.get(ctx.session.uuid)
        if own is None:  # closed since the call came
            return DriveResult(Trajectory.empty())
        with ctx.session.lock:
            _pass_poses(ctx.session, own)
            if ctx.session.route_timestamp_us:
                own.add_route(_find_route(ctx.session))
        plan = own.plan(ctx.time_now_us, self._infer)
        if plan.reason and own.outcomes[plan.reason] == 1:
            self._log(f'session {ctx.session.uuid}: {plan.reason}: {plan.detail}')
        return _to_result(plan, ctx.session.latest_pose() or Pose.identity())

    def _infer(self, context: Context, seed: int) -> Prediction:
        return self._thread.submit(self._engine.infer, context, seed).result()


def _pass_poses(state: SessionState, own: Session) -> None:
    """Pass on the poses that have come since the last call; the service has left out old ones."""
    trajectory, first = state.ego_trajectory, own.poses
    for stamp_us, pose, dynamic in zip(
        trajectory.timestamps_us[first:], trajectory.poses[first:], state.dynamic_states[first:],
        strict=True,
    ):  # fmt: skip
        own.add_pose(
            stamp_us, pose.position.tolist(), pose.quat_xyzw.tolist(),
            dynamic.linear_velocity.x, dynamic.angular_velocity.z,
        )  # fmt: skip


def _find_route(state: SessionState) -> np.ndarray:
    """Waypoints (N, 3) of the newest route in the local frame; it comes in the rig of its time."""
    pose = state.ego_trajectory.interpolate(state.route_timestamp_us)
    return pose.transform_points(state.route_waypoints_in_rig) if pose else np.zeros((0, 3))


def _to_result(plan: Plan, pose: Pose) -> DriveResult:
    """The path in the rig frame of the newest pose, from which the service makes a local one."""
    positions = (plan.positions_m - pose.position) @ pose.rotation_matrix
    quaternions = geometry.multiply(geometry.conjugate(pose.quat_xyzw), plan.quaternions)
    poses = [Pose(*parts) for parts in zip(positions, quaternions, strict=True)]
    return DriveResult(Trajectory(list(plan.stamps_us), poses), debug_scalars=plan.health)
