"""Path follower: steers a vehicle along the latest path, and brakes when there is none.

Along the path the vehicle keeps the planned speed, corrected by its lag; across the path it feeds
back offset and heading, critically damped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import math

import numpy as np
from numpy.typing import NDArray

from ..data_types import GRID_S, WAYPOINTS
from ..world.moments import SIMULATION_STEP_S, State

BRAKE_MPS2 = 3.0  # without a path
_HARDEST_MPS2, _FASTEST_MPS2 = 8.0, 3.5
_MAX_CURVATURE = 0.2
_NUDGE_PER_S, _NUDGE_MPS = 0.5, 1.0  # speed correction per metre of lag, and its limit
_BACK_S, _BACK_M = 1.1, 5.0  # length of the way back to the path: in s of driving, at least in m
Array = NDArray[np.float64]


@dataclass(frozen=True)
class FollowedPath:
    """A plan in the world frame, from t0 on: rows k at t0 + k * 0.1 s, k = 0 ... 64.

    xy (65, 2) m, yaw (65,) rad continuous, speed (65,) m/s, way (65,) m along it; curvature (64,)
    1/m between the rows.
    """

    t0_s: float
    xy: Array
    yaw: Array
    speed: Array
    way: Array
    curvature: Array

    @property
    def end_s(self) -> float:
        """Time of its last waypoint."""
        return self.t0_s + WAYPOINTS * GRID_S

    def is_over(self, t_s: float) -> bool:
        """Whether the path has ended at the step from t_s on."""
        return t_s > self.end_s - SIMULATION_STEP_S / 2

    def at(self, t_s: float) -> tuple[float, float]:
        """Speed m/s and way m of the plan at a time."""
        row = (t_s - self.t0_s) / GRID_S
        rows = np.arange(WAYPOINTS + 1)
        return float(np.interp(row, rows, self.speed)), float(np.interp(row, rows, self.way))

    def beside(self, x_m: float, y_m: float) -> tuple[float, float, float, float]:
        """Way m, offset m, heading rad and curvature 1/m of the path where a point is nearest.

        Before the first and behind the last row the path goes on straight.
        """
        step = np.diff(self.xy, axis=0)
        length = np.linalg.norm(step, axis=1)
        relative = np.array([x_m, y_m]) - self.xy[:-1]
        share = (relative * step).sum(axis=1) / np.maximum(length, 1e-6) ** 2
        inside = np.clip(share, 0.0, 1.0)
        away = np.linalg.norm(relative - inside[:, None] * step, axis=1)
        away[length < 1e-3] = np.inf  # at rest it has no direction
        k = int(np.argmin(away))
        if not np.isfinite(away[k]):
            k, part = 0, 0.0
        else:
            part = float(share[k] if k in (0, len(step) - 1) else inside[k])
        yaw = float(self.yaw[k] + np.clip(part, 0.0, 1.0) * (self.yaw[k + 1] - self.yaw[k]))
        base = self.xy[k] + part * step[k]
        offset = math.cos(yaw) * (y_m - base[1]) - math.sin(yaw) * (x_m - base[0])
        return float(self.way[k] + part * length[k]), offset, yaw, float(self.curvature[k])


def place_path(start: State, t0_s: float, sample: Array, actions: Array) -> FollowedPath:
    """Path of a sample (64, 4) with actions (64, 2), both in the frame of the pose at t0."""
    cos, sin = math.cos(start.yaw_rad), math.sin(start.yaw_rad)
    local = np.vstack([[0.0, 0.0, 0.0, start.speed_mps], sample[:, :4]])
    xy = local[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + (start.x_m, start.y_m)
    steps = np.hypot(*np.diff(local[:, :2], axis=0).T)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    return FollowedPath(t0_s, xy, start.yaw_rad + local[:, 2], local[:, 3], way, actions[:, 1])


def follow(state: State, t_s: float, path: FollowedPath | None) -> State:
    """The state at t_s with the acceleration and curvature that hold until t_s + STEP_S.

    Without a path, or behind its end, the vehicle brakes and keeps its steering.
    """
    if path is None or path.is_over(t_s):
        stop = -min(BRAKE_MPS2, state.speed_mps / SIMULATION_STEP_S)
        return replace(state, acceleration_mps2=stop)
    way, offset, yaw, curvature = path.beside(state.x_m, state.y_m)
    _, planned_way = path.at(t_s)
    later, _ = path.at(t_s + SIMULATION_STEP_S)
    nudge = max(-_NUDGE_MPS, min(_NUDGE_MPS, _NUDGE_PER_S * (planned_way - way)))
    wanted = max(later + (nudge if later > 0.1 else 0.0), 0.0)
    acceleration = (wanted - state.speed_mps) / SIMULATION_STEP_S
    acceleration = max(-_HARDEST_MPS2, min(_FASTEST_MPS2, acceleration))
    heading = math.remainder(state.yaw_rad - yaw, 2 * math.pi)
    length = max(_BACK_M, _BACK_S * state.speed_mps)
    back = offset / length**2 + 2 * heading / length
    curvature = max(-_MAX_CURVATURE, min(_MAX_CURVATURE, curvature - back))
    return replace(state, acceleration_mps2=acceleration, curvature=curvature)
