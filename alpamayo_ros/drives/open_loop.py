"""Predictions of held-out drives against what the expert does there: one record for each t0.

The world does not react: every prediction starts from the expert's motion. Knows no files, no
statistics and no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data_types import GRID_S, WAYPOINTS, Prediction
from ..metrics.displacement import ade, measure_horizons
from ..metrics.evaluation import SHOWN_S
from ..world.moments import State
from ..world.reasons import find_causes
from ..world.samples import list_sample_times
from .planners import Planner
from .scene import EvaluationDrive, Scene, get_future

BODY_CHECK_WAYPOINTS = (
    2  # waypoints between two looks at lane and bodies: a car is longer than that
)
_TIMES_PURPOSE = 20  # stream of a drive's random numbers; 0 to 9 are the scenario's
Record = dict[str, Any]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class OpenLoop:
    """Which moments of which drives: `moments` of each, spread over it by chance."""

    split: str
    drives: int
    seconds: float
    moments: int
    seed: int

    def scenes(self, number: int, size: tuple[int, int]) -> list[Scene]:
        """Scenes of one drive, one in each of `moments` equal parts of it."""
        drive = EvaluationDrive(self.split, number, self.seconds, size)
        times = np.array(list_sample_times(drive.scenario.expert, GRID_S))
        rng = drive.scenario.rng(_TIMES_PURPOSE, self.seed)
        at = (np.arange(self.moments) + rng.random(self.moments)) / self.moments
        picked = times[(at * len(times)).astype(int)]
        return [Scene(drive, drive.scenario.expert_simulation, t_s) for t_s in picked.tolist()]


def measure(
    planner: Planner,
    loop: OpenLoop,
    drives: Sequence[int],
    size: tuple[int, int],
    advance: Callable[[float], object],
) -> list[Record]:
    """Records of all moments of some drives, in order; these are planned together.

    size: height and width of the pictures. advance is called with the number of new records.
    """
    scenes = [scene for number in drives for scene in loop.scenes(number, size)]
    records = list(map(make_record, scenes, planner.plan(scenes, loop.seed)))
    advance(len(records))
    return records


def make_record(scene: Scene, prediction: Prediction) -> Record:
    """Figures of one prediction; those that are not known are None.

    A prediction that is not finite has no distances and counts as off the lane; one without
    reasoning, of a baseline, neither agrees nor disagrees.
    """
    trace = scene.simulation.trace
    causes, ends = trace.causes(scene.t0_s), prediction.end
    speaks = any(prediction.tokens) or any(prediction.texts)
    finite = bool(np.isfinite(prediction.samples).all() and np.isfinite(prediction.actions).all())
    said = [find_causes(text) for text in prediction.texts]
    found: Record = {
        'drive': scene.drive.seed,
        't0_s': round(scene.t0_s, 3),
        'cause': trace.cause(scene.t0_s),
        'weather': scene.drive.scenario.weather.kind,
        'said': prediction.texts[prediction.chosen],
        'finite': float(finite),
        'text': _share_true(len(names) == 1 and names <= causes for names in said)
        if speaks
        else None,
        'marker': _share_true(end == 'marker' for end in ends) if speaks else None,
    }
    if not finite:
        return found | {'off_lane': 1.0, 'collision': None}
    driven = get_future(scene, scene.simulation)
    chosen = prediction.samples[prediction.chosen].astype(np.float64)
    found |= _measure_distances(prediction, driven)
    found |= measure_comfort(prediction.actions[prediction.chosen].astype(np.float64))
    off_lane, collision = _check_bodies(scene, chosen)
    return found | {'off_lane': float(off_lane), 'collision': float(collision)}


def _measure_distances(prediction: Prediction, driven: Array) -> dict[str, float]:
    """By horizon: errors of the chosen sample, of the best one, and of one sample on average."""
    horizons = measure_horizons(prediction.samples, prediction.chosen, driven[:, :3])
    found: dict[str, float] = {}
    for horizon_s in SHOWN_S:
        own, length = horizons[f'{horizon_s:.1f}'], round(horizon_s / GRID_S)
        assert own is not None  # the truth is as long as the prediction
        single = ade(prediction.samples[:, :length, :2], driven[None, :length, :2]).mean()
        values = {'min_ade_1_m': float(single)} | {
            name: own[name] for name in ('min_ade_m', 'ade_m', 'fde_m', 'min_fde_m')
        }
        found |= {f'{name}_{horizon_s:.1f}s': round(x, 6) for name, x in values.items()}
    return found


def measure_comfort(actions: Array) -> dict[str, float]:
    """Root mean squares over the horizon of actions (64, 2): acceleration, jerk, curvature rate.

    In m/s^2, m/s^3 and 1/(m s).
    """
    jerk, curvature_rate = (np.diff(actions, axis=0) / GRID_S).T
    parts = {
        'acceleration_mps2': actions[:, 0],
        'jerk_mps3': jerk,
        'curvature_rate': curvature_rate,
    }
    return {name: round(float(np.sqrt(np.mean(x**2))), 6) for name, x in parts.items()}


def _share_true(found: Iterable[bool]) -> float:
    return round(float(np.mean(list(found))), 6)


def _check_bodies(scene: Scene, path: Array) -> tuple[bool, bool]:
    """Whether a path (64, >= 3) in the t0 frame leaves the lane, and whether it touches anything.

    The others move as they do beside the expert.
    """
    off_lane = collision = False
    for pose, t_s in _iterate_poses(scene, path):
        off_lane = off_lane or scene.simulation.is_off_lane(pose)
        collision = collision or scene.simulation.has_collision(pose, t_s)
        if off_lane and collision:
            break
    return off_lane, collision


def _iterate_poses(scene: Scene, path: Array) -> Iterator[tuple[State, float]]:
    """Poses of the world along a path, with their times."""
    start = scene.simulation.trace.ego(scene.t0_s)
    cos, sin, s = np.cos(start.yaw_rad), np.sin(start.yaw_rad), start.s_m
    x = start.x_m + cos * path[:, 0] - sin * path[:, 1]
    y = start.y_m + sin * path[:, 0] + cos * path[:, 1]
    yaw = start.yaw_rad + path[:, 2]
    for k in range(BODY_CHECK_WAYPOINTS - 1, WAYPOINTS, BODY_CHECK_WAYPOINTS):
        s, _, _ = scene.simulation.route.road.locate(x[k], y[k], s)
        yield State(s, x[k], y[k], yaw[k], 0.0, 0.0, 0.0), scene.t0_s + (k + 1) * GRID_S
