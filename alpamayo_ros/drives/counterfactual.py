"""Counterfactual pictures: plans and sentences after an edit of everything that the cameras show.

At moments where the expert brakes for a pedestrian, a vehicle or a red light, all pictures are
drawn again without it (see edits.py); history and pose stay. A planner that looks changes its plan
as the expert would in the edited world, and no longer names what is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..data_types import GRID_S, WAYPOINTS, Prediction
from ..world.moments import Trace
from ..world.reasons import find_causes
from ..world.samples import list_sample_times
from .edits import branch_edited
from .parts import Record
from .planners import Planner
from .scene import EvaluationDrive, Scene

# The causes that an edit removes.
REMOVED = {
    'no pedestrians': ('pedestrian',),
    'no vehicles': ('lead_slower', 'lead_stopped', 'lead_pulls_away', 'parked_car'),
    'green lights': ('red_light',),
}
_LEAST_CHANGE_M = 3.0  # of the expert's way in 6.4 s: smaller ones are no test
_SHARE = 0.5  # a plan follows if its way changes by at least this share of the expert's change
_PURPOSE = 21  # stream of a drive's random numbers


@dataclass(frozen=True)
class Counterfactuals:
    """Which drives; of each one moment per edit, if the edit changes the expert's plan."""

    split: str
    drives: int
    seconds: float
    seed: int

    def scenes(self, number: int, size: tuple[int, int]) -> list[Scene]:
        """Edited scenes of one drive, at random among the moments that an edit changes."""
        drive = EvaluationDrive(self.split, number, self.seconds, size)
        simulation, found = drive.scenario.expert_simulation, []
        times = np.array(list_sample_times(simulation.trace, GRID_S))
        rng = drive.scenario.rng(_PURPOSE, self.seed)
        for edit, causes in REMOVED.items():
            order = rng.permutation(times)
            caused = [t_s for t_s in order.tolist() if simulation.trace.cause(t_s) in causes]
            for t_s in caused[:5]:  # moments shortly before the end of a cause change little
                scene = Scene(drive, simulation, t_s, edit)
                if abs(_change_expert(scene)) >= _LEAST_CHANGE_M:
                    found.append(scene)
                    break
        return found


def measure(
    planner: Planner, loop: Counterfactuals, drives: Sequence[int], size: tuple[int, int]
) -> list[Record]:
    """Records of some drives, in order. size: height and width of the pictures."""
    edited = [scene for number in drives for scene in loop.scenes(number, size)]
    before = planner.plan([replace(scene, edit=None) for scene in edited], loop.seed)
    after = planner.plan(edited, loop.seed)
    return list(map(make_record, edited, before, after))


def make_record(scene: Scene, before: Prediction, after: Prediction) -> Record:
    """Whether a plan followed the edit of its pictures, and what its sentences name.

    `follows`: the way in 6.4 s changes in the expert's direction, by at least half as much.
    `names`: the sentence named the removed cause before; `still_names`: it does so afterwards,
    None where it did not before.
    """
    assert scene.edit is not None
    wanted_m, change_m = _change_expert(scene), _measure_way(after) - _measure_way(before)
    causes = frozenset(REMOVED[scene.edit])
    named = [
        bool(find_causes(x.texts[x.chosen]) & causes) if any(x.tokens) or any(x.texts) else None
        for x in (before, after)
    ]
    return {
        'drive': scene.drive.seed,
        't0_s': round(scene.t0_s, 3),
        'edit': scene.edit,
        'cause': scene.simulation.trace.cause(scene.t0_s),
        'speed_mps': round(scene.simulation.trace.ego(scene.t0_s).speed_mps, 3),
        'expert_change_m': round(wanted_m, 3),
        'change_m': round(change_m, 3),
        'follows': float(change_m * np.sign(wanted_m) >= _SHARE * abs(wanted_m)),
        'names': None if named[0] is None else float(named[0]),
        'still_names': float(bool(named[1])) if named[0] else None,
    }


def _change_expert(scene: Scene) -> float:
    """Change of the expert's way in 6.4 s by the edit, in m."""
    assert scene.edit is not None
    edited = branch_edited(scene.simulation, scene.t0_s, scene.edit)
    edited.run(scene.t0_s + (WAYPOINTS + 1) * GRID_S)
    return _get_way(scene, edited.trace) - _get_way(scene, scene.simulation.trace)


def _get_way(scene: Scene, trace: Trace) -> float:
    return trace.ego(scene.t0_s + WAYPOINTS * GRID_S).s_m - trace.ego(scene.t0_s).s_m


def _measure_way(prediction: Prediction) -> float:
    """Length of the chosen path; a path that is not finite stays where it is."""
    path = prediction.samples[prediction.chosen, :, :2].astype(np.float64)
    if not np.isfinite(path).all():
        return 0.0
    steps = np.diff(np.concatenate([np.zeros((1, 2)), path]), axis=0)
    return float(np.hypot(*steps.T).sum())
