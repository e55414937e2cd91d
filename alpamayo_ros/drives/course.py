"""The measured course of a drive: what happened in the world, for the score.

A function of a simulation alone, so that a kept trajectory can be measured again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..metrics.driving_score import TIME_TO_COLLISION_S, DriveCourse
from ..world import bodies
from ..world.moments import CAR_FRONT_M, SIMULATION_STEP_S, Trace
from ..world.route import JUNCTION_HALF_M
from ..world.simulation import Simulation
from ..world.traffic import is_lane_clear

LINE_M = 1.0  # of a light: the line is so far behind the place where the front should wait
ZEBRA_HALF_M = 1.8
APPROACH_M = 25.0  # an occasion begins when the front is so near
STOP_CAUSES = ('red_light', 'pedestrian')
_CHECK_STEPS = 2  # steps between two looks at bodies and lanes


@dataclass(frozen=True)
class Occasions:
    """How often a rule had to be kept in a drive, and how often it was broken."""

    met: int
    broken: int


def measure_course(simulation: Simulation, first_s: float, expert_m: float) -> DriveCourse:
    """Course of a simulation from first_s to its end; expert_m: the expert's way in that time."""
    trace = simulation.trace
    first = round((first_s - trace.start_s) / SIMULATION_STEP_S)
    states = [step.ego for step in trace.steps[first:]]
    times = trace.start_s + SIMULATION_STEP_S * np.arange(first, len(trace.steps))
    wrong, times_to_collision, collides, leaves = [], [], False, False
    for number, (state, t_s) in enumerate(zip(states, times.tolist(), strict=True)):
        if number % _CHECK_STEPS == 0:
            reach = bodies.find_reach(simulation, state)
            collides = collides or bodies.is_at_fault(simulation, state, t_s)
            leaves = leaves or bodies.is_off_road(reach)
            times_to_collision.append(
                bodies.find_time_to_collision(simulation, state, t_s, TIME_TO_COLLISION_S)
            )
        wrong.append(bodies.is_in_wrong_lane(reach))
    return DriveCourse(
        step_s=SIMULATION_STEP_S,
        speed_mps=np.array([state.speed_mps for state in states]),
        acceleration_mps2=np.array([state.acceleration_mps2 for state in states]),
        curvature=np.array([state.curvature for state in states]),
        limit_mps=np.array([simulation.route.limit_kmh(state.s_m) / 3.6 for state in states]),
        time_to_collision_s=np.array(times_to_collision),
        in_wrong_lane=np.array(wrong),
        distance_m=states[-1].s_m - states[0].s_m,
        expert_m=expert_m,
        has_caused_collision=collides,
        has_left_road=leaves,
        red_lights_run=count_red_lights(simulation, first_s).broken,
        pedestrians_ignored=count_pedestrians(simulation, first_s).broken,
    )


def count_red_lights(simulation: Simulation, first_s: float) -> Occasions:
    """Lights that were red on the approach, and those that the vehicle drove past.

    A light is run when it is red (or red and amber) while the front crosses the line, and still
    when the front enters the junction.
    """
    met = broken = 0
    fronts, times = _list_fronts(simulation, first_s)
    for light in simulation.route.lights:
        line = light.stop_m + LINE_M
        near = (fronts > line - APPROACH_M) & (fronts <= line)
        red_near = any(_is_red(light.phase(t_s)[0]) for t_s in times[near].tolist())
        crossings = [_find_crossing(fronts, times, place)
                     for place in (line, light.middle_m - JUNCTION_HALF_M)]  # fmt: skip
        run = all(t_s is not None and _is_red(light.phase(t_s)[0]) for t_s in crossings)
        met += red_near or run
        broken += run
    return Occasions(met, broken)


def count_pedestrians(simulation: Simulation, first_s: float) -> Occasions:
    """Zebras with a pedestrian in the way on the approach, and those driven over before them."""
    trace, met, broken = simulation.trace, 0, 0
    fronts, times = _list_fronts(simulation, first_s)
    for number, crossing in enumerate(simulation.route.crossings):
        edge = crossing.middle_m - ZEBRA_HALF_M

        def has_right(t_s: float, number: int = number) -> bool:
            crossing = simulation.route.crossings[number]
            return not is_lane_clear(crossing, trace.at(t_s).walked_m[number])

        near = (fronts > edge - APPROACH_M) & (fronts <= edge)
        passed = _find_crossing(fronts, times, edge)
        ignored = passed is not None and has_right(passed)
        met += ignored or any(has_right(t_s) for t_s in times[near].tolist())
        broken += ignored
    return Occasions(met, broken)


def list_demands(expert: Trace, first_s: float, last_s: float) -> list[str]:
    """Demands of a drive, by what the expert meets in it: stops, vehicles ahead, turns."""
    found = set()
    for t_s in np.arange(first_s, last_s, 0.25).tolist():
        step = expert.at(t_s)
        if step.cause in STOP_CAUSES and step.ego.speed_mps < 0.5:
            found.add(step.cause)
        elif step.cause.startswith('lead'):
            found.add('lead')
        elif step.cause.startswith('turn'):
            found.add('turn')
    return sorted(found)


def _list_fronts(simulation: Simulation, first_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Place s of the ego's front at every step from first_s on, and the times."""
    trace = simulation.trace
    first = round((first_s - trace.start_s) / SIMULATION_STEP_S)
    fronts = np.array([step.ego.s_m + CAR_FRONT_M for step in trace.steps[first:]])
    times = trace.start_s + SIMULATION_STEP_S * np.arange(first, len(trace.steps))
    return fronts, np.minimum(times, trace.end_s)


def _find_crossing(fronts: np.ndarray, times: np.ndarray, place_m: float) -> float | None:
    """Time at which the front first lies behind a place; None if it began or stayed there."""
    behind = np.flatnonzero(fronts > place_m)
    return float(times[behind[0]]) if len(behind) and behind[0] > 0 else None


def _is_red(phase: str) -> bool:
    return phase in ('red', 'red_amber')
