"""Changes the worlds of training samples: what is seen no longer follows from what was driven.

A model that learns undisturbed drives copies its history: who brakes goes on braking, whatever the
pictures show. Here lights, pedestrians and vehicles change in all pictures of a sample, or its
history is replaced, and the expert then drives anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
import math

import numpy as np

from alpamayo_ros.drives.edits import EDITS, branch_edited
from alpamayo_ros.world.bodies import has_collision
from alpamayo_ros.world.moments import (
    CAR_FRONT_M,
    CAR_REAR_M,
    SIMULATION_STEP_S,
    WALKING_MPS,
    get_kerb_offsets,
)
from alpamayo_ros.world.route import AMBER_S, RED_AMBER_S, Light
from alpamayo_ros.world.simulation import Simulation

_SHOWN_STEPS = 10  # steps up to t0 that pictures may show
_HISTORY_STEPS = 32
_NEAR_M = 70.0  # things further ahead stay as they are
_HARDEST_MPS2 = -4.0  # a change that makes the expert brake harder comes too late
_STOPPING_MPS2 = 3.0
_FASTEST_MPS = 19.5


def change_lights(simulation: Simulation, rng: np.random.Generator) -> Simulation | None:
    """Return a copy in which the lights ahead are red or green, as long as at random."""
    changed = simulation.branch(simulation.time_s)
    s = simulation.trace.steps[-1].ego.s_m
    if not any(0.0 < light.middle_m - s < _NEAR_M for light in simulation.route.lights):
        return None
    now = simulation.time_s
    lights = tuple(_draw_phase(light, now, rng) for light in simulation.route.lights)
    changed.route = changed.trace.route = replace(simulation.route, lights=lights)
    return changed


def _draw_phase(light: Light, now_s: float, rng: np.random.Generator) -> Light:
    """Return the light with another time in its cycle: red in half of the draws, else green."""
    into = float(rng.uniform(0.0, light.green_s))
    if rng.random() < 0.5:
        into = light.green_s + AMBER_S + float(rng.uniform(0.0, light.red_s + RED_AMBER_S))
    return replace(light, offset_s=into - now_s)


def change_pedestrians(simulation: Simulation, rng: np.random.Generator) -> Simulation | None:
    """Return a copy in which nobody is at the crossings ahead, or somebody, at random."""
    changed = simulation.branch(simulation.time_s)
    now = simulation.trace.steps[-1]
    crossings, walked = list(simulation.route.crossings), list(now.walked_m)
    near = [i for i, x in enumerate(crossings) if 0.0 < x.middle_m - now.ego.s_m < _NEAR_M]
    if not near:
        return None
    for i in near:
        crossings[i] = replace(crossings[i], side=int(rng.choice([-1, 0, 0, 1])))
        start, end = get_kerb_offsets(crossings[i])
        walks = rng.random() < 0.3
        walked[i] = float(rng.uniform(0.0, abs(end - start))) if walks else 0.0
    changed.route = changed.trace.route = replace(simulation.route, crossings=tuple(crossings))
    steps, last = changed.trace.steps, len(changed.trace.steps) - 1
    for number in range(max(last - _SHOWN_STEPS, 0), last + 1):
        back_m = (last - number) * SIMULATION_STEP_S * WALKING_MPS
        there = list(steps[number].walked_m)
        for i in near:
            there[i] = max(walked[i] - back_m, 0.0)
        steps[number] = replace(steps[number], walked_m=tuple(there))
    return changed


def change_vehicles(simulation: Simulation, rng: np.random.Generator) -> Simulation | None:
    """Return a copy without vehicles, or with another vehicle ahead."""
    now = simulation.trace.steps[-1]
    if now.lead is not None and rng.random() < 0.5:
        changed = branch_edited(simulation, simulation.time_s, EDITS[1])
        _place_lead(changed, None)
        if rng.random() < 0.5:
            changed.traffic = replace(changed.traffic, oncoming_s=())
        return changed
    changed = simulation.branch(simulation.time_s)
    speed = float(rng.choice([0.0, rng.uniform(0.0, 1.1) * now.ego.speed_mps]))
    closing = max(now.ego.speed_mps**2 - speed**2, 0.0) / (2 * _STOPPING_MPS2)
    gap = 4.0 + closing + float(rng.uniform(0.0, 40.0))
    _place_lead(changed, (now.ego.s_m + CAR_FRONT_M + gap - CAR_REAR_M, speed))
    changed.traffic = replace(changed.traffic, lead_factor=float(rng.uniform(0.5, 1.05)))
    return changed


def _place_lead(simulation: Simulation, lead: tuple[float, float] | None) -> None:
    """Put a vehicle at s with a constant speed into the steps that pictures show, or none."""
    steps, last = simulation.trace.steps, len(simulation.trace.steps) - 1
    for number in range(max(last - _SHOWN_STEPS, 0), last + 1):
        back_s = (last - number) * SIMULATION_STEP_S
        there = None if lead is None else (lead[0] - lead[1] * back_s, lead[1], 0.0)
        steps[number] = replace(steps[number], lead=there)


def change_history(simulation: Simulation, rng: np.random.Generator) -> Simulation | None:
    """Return a copy whose ego came along its lane at another speed and another acceleration."""
    changed = simulation.branch(simulation.time_s)
    road, steps = simulation.route.road, changed.trace.steps
    ego = steps[-1].ego
    s, offset, yaw = road.locate(ego.x_m, ego.y_m, ego.s_m)
    heading = math.remainder(ego.yaw_rad - yaw, 2 * math.pi)
    allowed = simulation.plan.at(s)[0]
    drawn = ego.speed_mps * rng.lognormal(0.0, 0.2) + (rng.random() < 0.3) * rng.uniform(0.0, 5.0)
    now_mps = float(min(drawn, 1.15 * allowed, _FASTEST_MPS))
    acceleration = float(rng.uniform(-2.4, 1.6))
    speed, last = now_mps, len(steps) - 1
    for number in range(last, max(last - _HISTORY_STEPS, 0), -1):
        x, y = road.points(s, offset).tolist()
        _, _, road_yaw, curvature = road.at(s)
        steps[number] = replace(
            steps[number],
            ego=replace(
                ego, s_m=s, x_m=x, y_m=y, yaw_rad=road_yaw + heading, speed_mps=speed,
                acceleration_mps2=acceleration if speed > 0.0 else 0.0, curvature=curvature,
            ),
        )  # fmt: skip
        before = min(max(speed - acceleration * SIMULATION_STEP_S, 0.0), _FASTEST_MPS)
        way = (speed + before) / 2 * SIMULATION_STEP_S
        s, offset, speed = s - way, offset - way * math.tan(heading), before
    return changed


Change = Callable[[Simulation, np.random.Generator], Simulation | None]
CHANGES: dict[str, Change] = {
    'lights': change_lights,
    'pedestrians': change_pedestrians,
    'vehicles': change_vehicles,
    'history': change_history,
}


def change_sample(
    simulation: Simulation, rng: np.random.Generator, shares: Mapping[str, float]
) -> Simulation:
    """Return a simulation at t0 with its world or history changed, or itself.

    shares: of samples in which a change of CHANGES is tried; it needs what it changes nearby.
    """
    for name, change in CHANGES.items():
        if rng.random() < shares[name]:
            simulation = change(simulation, rng) or simulation
    return simulation


def is_drivable(simulation: Simulation, t0_s: float) -> bool:
    """Return whether nothing is touched at t0, and the expert then brakes for no emergency."""
    if has_collision(simulation, simulation.trace.ego(t0_s), t0_s):
        return False
    first = round((t0_s - simulation.trace.start_s) / SIMULATION_STEP_S) + 1
    steps = simulation.trace.steps[first:]
    return min(step.ego.acceleration_mps2 for step in steps) > _HARDEST_MPS2
