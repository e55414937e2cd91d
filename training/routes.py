"""Route texts of training samples, and the other way at a junction that has an arm there.

A text says where the road turns next, as a navigation system would. The boards and markings of the
world show one way only; a share of samples is told, and drives, the other one.
"""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np

from alpamayo_ros.context.route_text import FARTHEST_M, STRAIGHT
from alpamayo_ros.world.driver import make_plan
from alpamayo_ros.world.road import Road, integrate_road
from alpamayo_ros.world.route import TURN_RADIUS_M, Turn
from alpamayo_ros.world.simulation import Simulation

ROUTE_WORDS = f'Turn left in\nTurn right in\n{STRAIGHT}'
LONGEST_ROUTE = f'Turn right in {FARTHEST_M:.0f}m'
_RAMP_M = 6.0
_OTHER_WAY_M = 80.0  # the junction is so near when the other way is taken
_SIDES = {1: 'left', -1: 'right'}


def find_turn(simulation: Simulation) -> tuple[Turn, float] | None:
    """Return the next turn of the route and the way m to where half a right angle is done."""
    s = simulation.trace.steps[-1].ego.s_m
    for turn in simulation.route.turns:
        way = turn.start_m + _measure_arc(turn.side) / 2 - s
        if 0.0 < way <= FARTHEST_M:
            return turn, way
    return None


def write_route(simulation: Simulation, rng: np.random.Generator) -> str:
    """Return the text for a simulation at t0; its distance is as wrong as that of a map."""
    found = find_turn(simulation)
    if found is None:
        return STRAIGHT
    turn, way = found
    told = min(max(way * rng.normal(1.0, 0.04) + rng.normal(0.0, 1.5), 1.0), FARTHEST_M)
    return f'Turn {_SIDES[turn.side]} in {round(told)}m'


def take_other_way(simulation: Simulation) -> Simulation | None:
    """Return a copy that turns to the other side at the next junction, where a road goes on.

    The copy is drawn as the simulation itself up to now. None where the next junction is far, has
    no arm on the other side, or the ego or the vehicle ahead has begun to turn.
    """
    found = find_turn(simulation)
    ego = simulation.trace.steps[-1].ego
    if found is None or not found[0].has_arm:
        return None
    turn = found[0]
    lead = simulation.trace.steps[-1].lead
    has_begun = lead is not None and lead[0] > turn.start_m
    if has_begun or not 0.0 < turn.start_m - ego.s_m < _OTHER_WAY_M:
        return None
    road = _turn_road(simulation.route.road, turn)
    end = turn.start_m + 30.0
    route = replace(
        simulation.route,
        road=road,
        turns=(replace(turn, end_m=turn.start_m + _measure_arc(-turn.side), side=-turn.side),),
        lights=tuple(x for x in simulation.route.lights if x.middle_m < turn.start_m),
        parked_m=tuple(x for x in simulation.route.parked_m if x < turn.start_m),
        zones=tuple(x for x in simulation.route.zones if x.start_m < end),
    )
    other = simulation.branch(simulation.time_s)
    crossings = tuple(
        x if x.middle_m < turn.start_m else replace(x, side=0) for x in route.crossings
    )
    other.route = other.trace.route = replace(route, crossings=crossings)
    other.plan = make_plan(other.route)
    return other


def _measure_arc(side: int) -> float:
    """Length m of a quarter turn with its ramps, as the route lays it."""
    return math.pi / 2 * TURN_RADIUS_M[side] + _RAMP_M


def _turn_road(road: Road, turn: Turn) -> Road:
    """Return the road with a quarter turn to the other side, and straight behind it."""
    first = int(np.searchsorted(road.s_m, turn.start_m))
    along = road.s_m[first:] - road.s_m[first]
    length, top = _measure_arc(-turn.side), -turn.side / TURN_RADIUS_M[-turn.side]
    ramps = np.minimum(np.minimum(along, length - along) / _RAMP_M, 1.0)
    bent = top * (1 - np.cos(np.pi * np.maximum(ramps, 0.0))) / 2
    return integrate_road(road.s_m, np.concatenate([road.curvature[:first], bent]))
