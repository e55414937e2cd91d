"""Closed loop: the world driven along the latest path of a planner, one record per drive.

A plan starts when the last one has ended, `latency_s` later; without latency one starts every
REPLAN_S. The node's policies (ros/publishing/) decide which plans are published; the vehicle
follows the published path until it is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..data_types import NANOSECONDS, Prediction
from ..metrics.driving_score import score_drive
from ..ros.publishing.policy import Policies, check_takeover, decide, time_path
from ..ros.publishing.trusted_speed import LateTimes
from ..world import bodies
from ..world.moments import SIMULATION_STEP_S
from ..world.simulation import MARGIN_S, Displacement, Simulation
from .course import count_pedestrians, count_red_lights, list_demands, measure_course
from .follower import FollowedPath, follow, place_path
from .parts import Record
from .planners import Planner
from .scene import START_NS, EvaluationDrive, Scene
from .trajectories import encode_controls

REPLAN_S = 0.5  # period of the plans where planning takes no time
LONGEST_LATENCY_S = 10.0  # scenarios are made so much longer than a drive
_PURPOSE = 22  # stream of a drive's random numbers
_CHECK_STEPS = 2  # steps between two looks at lanes and bodies


@dataclass(frozen=True)
class ClosedLoop:
    """Which drives, how long each, how late a plan comes, and how far aside each begins."""

    split: str
    drives: int
    seconds: float
    latency_s: float
    policies: Policies
    seed: int
    displaced_m: float = 0.0

    @property
    def period_s(self) -> float:
        """Time between two plans."""
        return self.latency_s or REPLAN_S


@dataclass
class ClosedLoopDrive:
    """A drive in progress. The expert drives until the first plan comes."""

    drive: EvaluationDrive
    loop: ClosedLoop
    simulation: Simulation
    path: FollowedPath | None = None
    end: str = ''
    without_path_s: float = 0.0
    plans: int = 0
    held_back: dict[str, int] = field(default_factory=dict)
    times: LateTimes = field(default_factory=LateTimes)

    def scene(self) -> Scene:
        """Scene of the current time."""
        return Scene(self.drive, self.simulation, self.simulation.time_s)

    def receive(self, scene: Scene, prediction: Prediction) -> None:
        """Take over a plan now, if the node would publish it."""
        self.plans += 1
        pose, vehicle = scene.pose(), self.scene().pose()
        prediction = check_takeover(prediction, pose, vehicle)
        now_ns = START_NS + round(self.simulation.time_s * NANOSECONDS)
        self.times.note(prediction.t0_ns, now_ns)
        decision = decide(prediction, now_ns, self.loop.policies)
        for reason in decision.reasons:
            self.held_back[reason] = self.held_back.get(reason, 0) + 1
        if decision.action == 'publish':
            policies = self.loop.policies
            trusted_mps = self.times.compute_trusted_speed(policies.trusted_distance_m)
            timed = time_path(prediction, pose, vehicle, policies, trusted_mps)
            self.path = self._place(scene, timed)

    def _place(self, scene: Scene, prediction: Prediction) -> FollowedPath:
        chosen, start = prediction.chosen, self.simulation.trace.ego(scene.t0_s)
        sample, actions = prediction.samples[chosen], prediction.actions[chosen]
        return place_path(start, scene.t0_s, sample.astype(np.float64), actions.astype(np.float64))

    @property
    def last_s(self) -> float:
        """Time at which the drive is over; its length counts from the first plan on."""
        return self.loop.seconds + self.loop.latency_s

    def advance(self, seconds: float) -> float:
        """Drive on along the path, or to the end of the drive; returns the time that counts."""
        if self.loop.latency_s and not self.plans:
            self.simulation.run(self.loop.latency_s)
            return 0.0
        start_s = self.simulation.time_s
        steps = round((min(start_s + seconds, self.last_s) - start_s) / SIMULATION_STEP_S)
        for number in range(steps):
            self._step()
            if number % _CHECK_STEPS == _CHECK_STEPS - 1 and (fault := self._find_fault()):
                self.end = fault
                break
        if not self.end and self.simulation.time_s > self.last_s - SIMULATION_STEP_S / 2:
            self.end = 'done'
        return self.simulation.time_s - start_s

    def _step(self) -> None:
        t_s, state = self.simulation.time_s, self.simulation.trace.steps[-1].ego
        if self.path is None or self.path.is_over(t_s):
            self.without_path_s += SIMULATION_STEP_S
        self.simulation.step(follow(state, t_s, self.path).after(SIMULATION_STEP_S))

    def _find_fault(self) -> str:
        """Fault that ends a drive: nothing that follows can be measured."""
        state = self.simulation.trace.steps[-1].ego
        if bodies.is_at_fault(self.simulation, state, self.simulation.time_s):
            return 'collision'
        is_off = bodies.is_off_road(bodies.find_reach(self.simulation, state))
        return 'off_road' if is_off else ''

    def record(self) -> Record:
        """Figures of a drive that has ended, and the controls to simulate it again."""
        expert, first_s = self.drive.scenario.expert, self.loop.latency_s
        expert_m = expert.ego(self.last_s).s_m - expert.ego(first_s).s_m
        end_s = self.simulation.time_s
        course = measure_course(self.simulation, first_s, expert_m)
        lights = count_red_lights(self.simulation, first_s)
        zebras = count_pedestrians(self.simulation, first_s)
        parts = {name: round(value, 6) for name, value in score_drive(course).items()}
        return {
            'drive': self.drive.seed,
            'weather': self.drive.scenario.weather.kind,
            'demands': list_demands(self.drive.scenario.expert, first_s, self.last_s),
            'end': self.end,
            'cause': self.simulation.trace.cause(end_s),
            **parts,
            'red_lights': lights.met,
            'red_lights_run': lights.broken,
            'pedestrians': zebras.met,
            'pedestrians_ignored': zebras.broken,
            'time_s': round(end_s - first_s, 3),
            'distance_m': round(course.distance_m, 3),
            'expert_m': round(expert_m, 3),
            'without_path': round(
                self.without_path_s / max(end_s - first_s, SIMULATION_STEP_S), 6
            ),
            'plans': self.plans,
            'held_back': dict(sorted(self.held_back.items())),
            'controls': encode_controls(self.simulation, first_s),
        }


def measure(
    planner: Planner,
    loop: ClosedLoop,
    drives: Sequence[int],
    size: tuple[int, int],
    advance: Callable[[float], object],
) -> list[Record]:
    """Records of some drives, in order; drives that last are planned together.

    size: height and width of the pictures. advance is called with the seconds that were driven,
    in all `loop.seconds` per drive.
    """
    runs = [begin_drive(loop, number, size) for number in drives]
    _drive_to_end(planner, runs, advance)
    return [run.record() for run in runs]


def begin_drive(loop: ClosedLoop, number: int, size: tuple[int, int]) -> ClosedLoopDrive:
    """Begin a drive at t = 0 s; a displaced one begins, and came, to one side of its lane."""
    drive = EvaluationDrive(loop.split, number, loop.seconds + LONGEST_LATENCY_S, size)
    simulation = drive.scenario.simulate()
    simulation.run(0.0)
    if loop.displaced_m:
        side = int(drive.scenario.rng(_PURPOSE, loop.seed).choice([-1, 1]))
        simulation.displace(Displacement(left_m=side * loop.displaced_m), MARGIN_S)
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
