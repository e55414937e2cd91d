"""The world driven along the latest path of a planner: one record for each drive.

A plan starts when the last one has ended, `latency_s` later; with none it starts every REPLAN_S.
What comes of a plan is what the node would publish of it (ros/policy.py), and the vehicle follows
that until it is over. Knows no files and no statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data_types import NANOSECONDS, Prediction
from ..ros.policy import Policies, compare_with_previous, decide
from ..world.moments import SIMULATION_STEP_S
from ..world.simulation import Simulation
from .follower import FollowedPath, follow, place_path
from .planners import Planner
from .scene import START_NS, EvaluationDrive, Scene

REPLAN_S = 0.5  # where planning takes no time
LONGEST_LATENCY_S = 10.0  # of the latencies: scenarios are made so much longer
_LOOK_STEPS = 2  # steps between two looks at lane and bodies
Record = dict[str, Any]


@dataclass(frozen=True)
class ClosedLoop:
    """Which drives, how long each, and how late a plan comes."""

    split: str
    drives: int
    seconds: float
    latency_s: float
    policies: Policies
    seed: int

    @property
    def period_s(self) -> float:
        """Time between two plans."""
        return self.latency_s or REPLAN_S


@dataclass
class ClosedLoopDrive:
    """One drive in the making. The expert drives until the first plan comes."""

    drive: EvaluationDrive
    loop: ClosedLoop
    simulation: Simulation
    path: FollowedPath | None = None
    previous: tuple[int, NDArray[np.float64]] | None = None
    end: str = ''
    distance_m: float = 0.0
    without_path_s: float = 0.0
    plans: int = 0
    held_back: dict[str, int] = field(default_factory=dict)

    def scene(self) -> Scene:
        """What the planner meets now."""
        return Scene(self.drive, self.simulation, self.simulation.time_s)

    def receive(self, scene: Scene, prediction: Prediction) -> None:
        """Take over a plan now, if the node would publish it."""
        self.plans += 1
        prediction, self.previous = compare_with_previous(prediction, scene.pose(), self.previous)
        now_ns = START_NS + round(self.simulation.time_s * NANOSECONDS)
        decision = decide(prediction, now_ns, self.loop.policies)
        for reason in decision.reasons:
            self.held_back[reason] = self.held_back.get(reason, 0) + 1
        if decision.action == 'publish':
            chosen = prediction.chosen
            start = self.simulation.trace.ego(scene.t0_s)
            sample, actions = prediction.samples[chosen], prediction.actions[chosen]
            self.path = place_path(
                start, scene.t0_s, sample.astype(np.float64), actions.astype(np.float64)
            )

    @property
    def last_s(self) -> float:
        """When the drive is over; it counts from the first plan on."""
        return self.loop.seconds + self.loop.latency_s

    def advance(self, seconds: float) -> float:
        """Drive on along the path, or to the end of the drive; returns the time that counts."""
        if self.loop.latency_s and not self.plans:
            self.simulation.run(self.loop.latency_s)
            return 0.0
        start_s = self.simulation.time_s
        for number in range(
            round((min(start_s + seconds, self.last_s) - start_s) / SIMULATION_STEP_S)
        ):
            self._step()
            if number % _LOOK_STEPS == _LOOK_STEPS - 1 and (fault := self._fault()):
                self.end = fault
                break
        if not self.end and self.simulation.time_s > self.last_s - SIMULATION_STEP_S / 2:
            self.end = 'done'
        return self.simulation.time_s - start_s

    def _step(self) -> None:
        t_s, state = self.simulation.time_s, self.simulation.trace.steps[-1].ego
        if self.path is None or self.path.is_over(t_s):
            self.without_path_s += SIMULATION_STEP_S
        following = follow(state, t_s, self.path).after(SIMULATION_STEP_S)
        self.simulation.step(following)
        self.distance_m += (state.speed_mps + following.speed_mps) / 2 * SIMULATION_STEP_S

    def _fault(self) -> str:
        state = self.simulation.trace.steps[-1].ego
        if self.simulation.has_collision(state, self.simulation.time_s):
            return 'collision'
        return 'off_lane' if self.simulation.is_off_lane(state) else ''

    def record(self) -> Record:
        """Figures of a drive that has ended."""
        expert, first_s = self.drive.scenario.expert, self.loop.latency_s
        expert_m = expert.ego(self.last_s).s_m - expert.ego(first_s).s_m
        end_s = self.simulation.time_s
        return {
            'drive': self.drive.seed,
            'weather': self.drive.scenario.weather.kind,
            'end': self.end,
            'cause': self.simulation.trace.cause(end_s),
            'clean': float(self.end == 'done'),
            'off_lane': float(self.end == 'off_lane'),
            'collision': float(self.end == 'collision'),
            'time_s': round(end_s - first_s, 3),
            'distance_m': round(self.distance_m, 3),
            'expert_m': round(expert_m, 3),
            'without_path': round(
                self.without_path_s / max(end_s - first_s, SIMULATION_STEP_S), 6
            ),
            'plans': self.plans,
            'held_back': dict(sorted(self.held_back.items())),
        }


def measure(
    planner: Planner,
    loop: ClosedLoop,
    drives: Sequence[int],
    size: tuple[int, int],
    advance: Callable[[float], object],
) -> list[Record]:
    """Records of some drives, in order; they are planned together while they last.

    size: height and width of the pictures. advance is called with seconds that have been driven,
    in all `loop.seconds` of each drive.
    """
    runs = [begin_drive(loop, number, size) for number in drives]
    _drive_to_end(planner, runs, advance)
    return [run.record() for run in runs]


def begin_drive(loop: ClosedLoop, number: int, size: tuple[int, int]) -> ClosedLoopDrive:
    """A drive at its start, t = 0 s."""
    drive = EvaluationDrive(loop.split, number, loop.seconds + LONGEST_LATENCY_S, size)
    simulation = drive.scenario.simulate()
    simulation.run(0.0)
    return ClosedLoopDrive(drive, loop, simulation)


def _drive_to_end(
    planner: Planner, runs: Sequence[ClosedLoopDrive], advance: Callable[[float], object]
) -> None:
    """Drive all of them in step until each has ended."""
    loop, going = runs[0].loop, list(runs)
    while going:
        scenes = [run.scene() for run in going]
        plans = list(zip(going, scenes, planner.plan(scenes, loop.seed), strict=True))
        if not loop.latency_s:
            _deliver(plans)
        for run in going:
            passed = run.advance(loop.period_s)
            advance(passed + (run.last_s - run.simulation.time_s if run.end else 0.0))
        if loop.latency_s:
            _deliver(plans)
        going = [run for run in going if not run.end]


def _deliver(plans: Sequence[tuple[ClosedLoopDrive, Scene, Prediction]]) -> None:
    for run, scene, prediction in plans:
        if not run.end:
            run.receive(scene, prediction)
