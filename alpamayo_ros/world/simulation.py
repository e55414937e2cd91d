"""Simulation of a drive, step by step: the expert or a planner drives the ego, the others react.

A simulation is a function of the route, the traffic and the motion of the ego.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
import math

from .driver import Ahead, DrivingPlan, accelerate, limit_jerk, steer
from .moments import (
    CAR_FRONT_M,
    CAR_REAR_M,
    SIMULATION_STEP_S,
    WALKING_MPS,
    Car,
    Moment,
    State,
    Trace,
    TraceStep,
)
from .motives import Situation, name_cause
from .road import ONCOMING_M
from .route import PARKED_M, Route
from .traffic import (
    OncomingMotion,
    Traffic,
    get_overshoot_m,
    is_lane_clear,
    is_let_go,
    takes_right_of_way,
)

MARGIN_S = 2.0  # a drive is simulated this long before its start and after its end
PARKED_COLOURS, LEAD_COLOUR, ONCOMING_COLOURS = (0, 1, 2, 3, 4), 5, (6, 7, 8, 9)
# Distances at which the cameras show it.
_SEEN_M = {'lead': 75.0, 'red_light': 75.0, 'pedestrian': 65.0}
_HARD_STOP_MPS2 = 2.4  # nobody brakes harder than this for an amber light
_NEAR_M = 300.0


@dataclass(frozen=True)
class Displacement:
    """How the ego's past is moved: to the left and along its lane, turned about its last pose, and
    driven at speed_factor times its speed.
    """

    left_m: float = 0.0
    ahead_m: float = 0.0
    turn_rad: float = 0.0
    speed_factor: float = 1.0


class Simulation:
    """The world from -MARGIN_S on; `trace` has the steps so far."""

    def __init__(
        self, route: Route, plan: DrivingPlan, traffic: Traffic, oncoming: OncomingMotion
    ):
        self.route, self.plan, self.traffic = route, plan, traffic
        self._oncoming = oncoming
        self.trace = Trace(route, -MARGIN_S)
        speed = plan.at(0.0)[0] * traffic.ego_factor
        start = traffic.lead_m
        lead = None if start is None else (start, plan.at(start)[0] * traffic.lead_factor, 0.0)
        if lead is not None:
            speed = min(speed, lead[1] + 2.0)
        x, y, yaw, curvature = route.road.at(0.0)
        ego = State(0.0, x, y, yaw, speed, 0.0, curvature)
        walked = (0.0,) * len(route.crossings)
        self.trace.steps.append(TraceStep(ego, lead, walked, 'keep_lane'))

    @property
    def time_s(self) -> float:
        """Time of the newest step."""
        return self.trace.end_s

    def step(self, ego: State | None = None, push: tuple[float, float] = (0.0, 0.0)) -> None:
        """Simulate one step; the expert drives the ego unless the caller gives its next state.

        push: acceleration m/s^2 and curvature 1/m that are added to the expert's.
        """
        now, t_s = self.trace.steps[-1], self.time_s
        state, why = self._decide(now, t_s, push)
        following = state.after(SIMULATION_STEP_S) if ego is None else ego
        s, _, _ = self.route.road.locate(following.x_m, following.y_m, following.s_m)
        following = replace(following, s_m=s)
        # the expert's decision holds from this step to the next one
        self.trace.steps[-1] = TraceStep(
            state if ego is None else now.ego, now.lead, now.walked_m, why
        )
        self.trace.steps.append(
            TraceStep(
                following,
                self._lead_after(now, t_s),
                self._walked_after(now, ego is not None),
                why,
            )
        )

    def run(self, until_s: float) -> Trace:
        """Let the expert drive until a time; returns the trace."""
        while self.time_s < until_s - 1e-9:
            self.step()
        return self.trace

    def branch(self, t_s: float) -> Simulation:
        """Copy the simulation up to t_s, the time of a step; the copy can go on differently."""
        other, trace = copy.copy(self), self.trace
        count = round((t_s - trace.start_s) / SIMULATION_STEP_S) + 1
        other.trace = Trace(trace.route, trace.start_s, trace.steps[:count])
        return other

    def displace(self, moved: Displacement, seconds: float) -> None:
        """Move the ego's last seconds as a whole, as if the ego had driven there."""
        steps = self.trace.steps
        now = steps[-1].ego
        yaw = self.route.road.at(now.s_m)[2]
        cos, sin = math.cos(yaw), math.sin(yaw)
        x = now.x_m + cos * moved.ahead_m - sin * moved.left_m
        y = now.y_m + sin * moved.ahead_m + cos * moved.left_m
        cos, sin = math.cos(moved.turn_rad), math.sin(moved.turn_rad)
        for i in range(max(len(steps) - 1 - round(seconds / SIMULATION_STEP_S), 0), len(steps)):
            ego = steps[i].ego
            factor = moved.speed_factor
            east, north = factor * (ego.x_m - now.x_m), factor * (ego.y_m - now.y_m)
            there = x + cos * east - sin * north, y + sin * east + cos * north
            s, _, _ = self.route.road.locate(*there, ego.s_m)
            state = replace(
                ego,
                s_m=s,
                x_m=there[0],
                y_m=there[1],
                yaw_rad=ego.yaw_rad + moved.turn_rad,
                speed_mps=moved.speed_factor * ego.speed_mps,
                acceleration_mps2=moved.speed_factor * ego.acceleration_mps2,
                curvature=ego.curvature / moved.speed_factor,
            )
            steps[i] = replace(steps[i], ego=state)

    def offset_from_path_m(self) -> float:
        """Distance of the ego to the left of the expert's wanted path."""
        ego = self.trace.steps[-1].ego
        s, offset, _ = self.route.road.locate(ego.x_m, ego.y_m, ego.s_m)
        return float(offset - self.plan.path_at(s)[0])

    def moment(self, t_s: float) -> Moment:
        """Everything that moves, at any simulated time."""
        ego, lead = self.trace.ego(t_s), self.trace.lead(t_s)
        road = self.route.road
        cars = []
        if lead is not None:
            offset, slope, _ = self.plan.path_at(lead.s_m)
            x, y = road.points(lead.s_m, offset).tolist()
            braking = lead.acceleration_mps2 < -0.4 or lead.speed_mps < 0.1
            cars.append(Car(x, y, lead.yaw_rad + slope, LEAD_COLOUR, braking))
        for number, s in enumerate(self.route.parked_m):
            if abs(s - ego.s_m) < _NEAR_M:
                x, y = road.points(s, PARKED_M).tolist()
                colour = PARKED_COLOURS[number % len(PARKED_COLOURS)]
                cars.append(Car(x, y, road.at(s)[2], colour))
        for s, _, colour in self.list_oncoming(t_s):
            if abs(s - ego.s_m) < _NEAR_M:
                x, y = road.points(s, ONCOMING_M).tolist()
                cars.append(Car(x, y, road.at(s)[2] + math.pi, colour))
        lights = tuple(light.phase(t_s) for light in self.route.lights)
        return Moment(t_s, ego, tuple(cars), self.trace.walkers(t_s, ego.s_m), lights)

    def _decide(self, now: TraceStep, t_s: float, push: tuple[float, float]) -> tuple[State, str]:
        """The ego's state with the expert's acceleration and curvature, and their cause."""
        ego = now.ego
        s, offset, road_yaw = self.route.road.locate(ego.x_m, ego.y_m, ego.s_m)
        ahead = self._lines(now, s, ego.speed_mps, t_s)
        lead = None
        if now.lead is not None:
            lead = (now.lead[0] + CAR_REAR_M - s - CAR_FRONT_M, now.lead[1])
            if lead[0] < _SEEN_M['lead']:
                ahead.append(Ahead('lead', *lead))
            else:
                lead = None
        wanted, setter = accelerate(self.plan, s, ego.speed_mps, 1.0, ahead)
        acceleration = limit_jerk(
            ego.acceleration_mps2, wanted + push[0], ego.speed_mps, SIMULATION_STEP_S
        )
        heading = math.remainder(ego.yaw_rad - road_yaw, 2 * math.pi)
        curvature = steer(self.plan, s, offset, heading, ego.speed_mps, self.route.road.at(s)[3])
        curvature += push[1]
        state = replace(ego, s_m=s, acceleration_mps2=acceleration, curvature=curvature)
        if ego.speed_mps == 0.0 and acceleration == 0.0 and not setter:
            setter = _find_nearest_cause(ahead)
        situation = Situation(s, ego.speed_mps, acceleration, setter, lead, self._green(s, t_s))
        return state, name_cause(self.route, self.plan, situation)

    def _lines(self, now: TraceStep, s: float, speed: float, t_s: float) -> list[Ahead]:
        """Lines at which a vehicle with its rear axle at s has to stop."""
        front, over = s + CAR_FRONT_M, get_overshoot_m(speed)
        found = []
        for light in self.route.lights:
            gap = light.stop_m - front
            if not -over < gap < _SEEN_M['red_light'] or light.phase(t_s)[0] == 'green':
                continue
            if light.phase(t_s)[0] != 'amber' or speed**2 < 2 * _HARD_STOP_MPS2 * max(gap, 0.0):
                found.append(Ahead('red_light', gap))
        for crossing, walked in zip(self.route.crossings, now.walked_m, strict=True):
            gap = crossing.stop_m - front
            if -over < gap < _SEEN_M['pedestrian'] and not is_lane_clear(crossing, walked):
                found.append(Ahead('pedestrian', gap))
        return found

    def _green(self, s: float, t_s: float) -> bool:
        front = s + CAR_FRONT_M
        return any(
            -8.0 < light.stop_m - front < 25.0 and light.phase(t_s)[0] == 'green'
            for light in self.route.lights
        )

    def _lead_after(self, now: TraceStep, t_s: float) -> tuple[float, float, float] | None:
        if now.lead is None:
            return None
        s, speed, acceleration = now.lead
        lines = self._lines(now, s, speed, t_s)
        wanted, _ = accelerate(self.plan, s, speed, self.traffic.lead_factor, lines)
        # a step records the acceleration that led to it
        acceleration = limit_jerk(acceleration, wanted, speed, SIMULATION_STEP_S)
        following = max(speed + acceleration * SIMULATION_STEP_S, 0.0)
        return s + (speed + following) / 2 * SIMULATION_STEP_S, following, acceleration

    def _walked_after(self, now: TraceStep, is_planner: bool) -> tuple[float, ...]:
        """Ways of the pedestrians; is_planner: whether a planner drives the ego."""
        vehicles = [(now.ego.s_m, now.ego.speed_mps)]
        vehicles += [now.lead[:2]] if now.lead is not None else []
        return tuple(
            walked + WALKING_MPS * SIMULATION_STEP_S
            if walked > 0
            or is_let_go(crossing, vehicles)
            or (is_planner and takes_right_of_way(crossing, *vehicles[0]))
            else 0.0
            for crossing, walked in zip(self.route.crossings, now.walked_m, strict=True)
        )

    def list_oncoming(self, t_s: float) -> list[tuple[float, float, int]]:
        """Place s m, speed m/s along the road (negative) and colour of the oncoming cars."""
        found = []
        for number, at in enumerate(self.traffic.oncoming_s):
            s, later = (self._oncoming.place(at - t_s - after) for after in (0.0, 0.1))
            if s is not None:
                speed = 0.0 if later is None else (later - s) / 0.1
                found.append((s, speed, ONCOMING_COLOURS[number % len(ONCOMING_COLOURS)]))
        return found


def _find_nearest_cause(ahead: list[Ahead]) -> str:
    """Cause of the nearest obstacle within 8 m, '' without one."""
    nearest = min(ahead, key=lambda thing: thing.gap_m, default=None)
    return nearest.cause if nearest is not None and nearest.gap_m < 8.0 else ''
