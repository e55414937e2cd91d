"""Open loop: predictions at moments of expert drives against the expert, one record each.

The world does not react: every prediction starts from the expert's motion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data_types import GRID_S, WAYPOINTS, Prediction
from ..metrics.displacement import ade, measure_horizons, replace_failed
from ..metrics.evaluation import SHOWN_S
from ..world.bodies import has_collision, is_off_lane
from ..world.moments import State
from ..world.reasons import find_causes
from ..world.samples import list_sample_times
from .parts import Record
from .planners import Planner
from .scene import EvaluationDrive, Scene, get_future
from .trajectories import encode_paths

BODY_CHECK_WAYPOINTS = (
    2  # waypoints between two looks at lanes and bodies: less than a car's length
)
BENDS = ('curve_left', 'curve_right', 'turn_left', 'turn_right')
_TIMES_PURPOSE = 20  # stream of a drive's random numbers; the world uses 0 to 9
Array = NDArray[np.float64]


@dataclass(frozen=True)
class OpenLoop:
    """Which moments of which drives: `moments` of each, spread over it at random."""

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
    planner: Planner, loop: OpenLoop, drives: Sequence[int], size: tuple[int, int]
) -> list[Record]:
    """Records of all moments of some drives, in order; the moments are planned together.

    size: height and width of the pictures.
    """
    scenes = [scene for number in drives for scene in loop.scenes(number, size)]
    return list(map(make_record, scenes, planner.plan(scenes, loop.seed)))


def make_record(scene: Scene, prediction: Prediction) -> Record:
    """Figures of one prediction; unknown ones are None.

    A sample that is not finite counts as a vehicle that stays at t0; if the chosen one is not, it
    counts as off the lane. A prediction without reasoning, of a baseline, neither names the true
    cause nor fails to.
    """
    trace = scene.simulation.trace
    cause, causes = trace.cause(scene.t0_s), trace.causes(scene.t0_s)
    named = [find_causes(text) for text in prediction.texts]
    names_cause = (len(names) == 1 and names <= causes for names in named)
    found: Record = {
        'drive': scene.drive.seed,
        't0_s': round(scene.t0_s, 3),
        'cause': cause,
        'weather': scene.drive.scenario.weather.kind,
        'text': _share_true(names_cause) if _has_reasoning(prediction) else None,
        **describe_prediction(prediction, get_future(scene, scene.simulation)),
    }
    off_lane, collision = True, None
    if 'jerk_mps3' in found:
        chosen_path = prediction.samples[prediction.chosen].astype(np.float64)
        off_lane, collision = _check_bodies(scene, chosen_path)
    return found | {
        'off_lane': float(off_lane),
        'off_lane_bend': float(off_lane) if cause in BENDS else None,
        'collision': None if collision is None else float(collision),
    }


def describe_prediction(prediction: Prediction, driven: Array) -> Record:
    """Figures of a prediction that need no world; driven (64, >= 3): x, y m, yaw rad.

    Those of comfort are there where the chosen path and its actions are finite.
    """
    chosen, ends = prediction.chosen, prediction.end
    is_finite = bool(
        np.isfinite(prediction.samples).all() and np.isfinite(prediction.actions).all()
    )
    is_marked = _share_true(end == 'marker' for end in ends)
    found: Record = {
        'k': len(prediction.samples),
        'sentence': prediction.texts[chosen],
        'finite': float(is_finite),
        'marker': is_marked if _has_reasoning(prediction) else None,
        **_measure_distances(prediction, driven),
        'paths': encode_paths(prediction.samples),
    }
    actions = prediction.actions[chosen].astype(np.float64)
    if np.isfinite(prediction.samples[chosen]).all() and np.isfinite(actions).all():
        found |= measure_comfort(actions)
    return found


def _has_reasoning(prediction: Prediction) -> bool:
    return any(prediction.tokens) or any(prediction.texts)


def _measure_distances(prediction: Prediction, driven: Array) -> dict[str, float | None]:
    """By horizon: errors of the chosen sample, of the best one, and of one sample on average."""
    horizons = measure_horizons(prediction.samples, prediction.chosen, driven[:, :3])
    samples = replace_failed(prediction.samples)
    found: dict[str, float | None] = {}
    for horizon_s in SHOWN_S:
        errors, length = horizons[f'{horizon_s:.1f}'], round(horizon_s / GRID_S)
        assert errors is not None  # the truth is as long as the prediction
        single = ade(samples[:, :length, :2], driven[None, :length, :2]).mean()
        values = {'min_ade_1_m': float(single)} | {
            name: errors[name]
            for name in ('min_ade_m', 'min_fde_m', 'whole_best_ade_m', 'ade_m', 'fde_m')
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
        off_lane = off_lane or is_off_lane(scene.simulation, pose)
        collision = collision or has_collision(scene.simulation, pose, t_s)
        if off_lane and collision:
            break
    return off_lane, collision


def _iterate_poses(scene: Scene, path: Array) -> Iterator[tuple[State, float]]:
    """Poses in the world frame along a path, with their times."""
    start = scene.simulation.trace.ego(scene.t0_s)
    cos, sin, s = np.cos(start.yaw_rad), np.sin(start.yaw_rad), start.s_m
    x = start.x_m + cos * path[:, 0] - sin * path[:, 1]
    y = start.y_m + sin * path[:, 0] + cos * path[:, 1]
    yaw = start.yaw_rad + path[:, 2]
    for k in range(BODY_CHECK_WAYPOINTS - 1, WAYPOINTS, BODY_CHECK_WAYPOINTS):
        s, _, _ = scene.simulation.route.road.locate(x[k], y[k], s)
        yield State(s, x[k], y[k], yaw[k], 0.0, 0.0, 0.0), scene.t0_s + (k + 1) * GRID_S
