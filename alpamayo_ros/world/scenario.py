"""A drive by split and seed: route, traffic, weather, and the expert's motion through them.

The splits draw from separate random streams, so that a test drive is never a training drive. Times
are seconds since the start of the drive.
"""

from __future__ import annotations

from dataclasses import dataclass
import functools

import numpy as np

from .driver import DrivingPlan, make_plan
from .moments import Moment, State, Trace
from .route import Route, make_route
from .simulation import MARGIN_S, Simulation
from .towns import SPLITS, Town
from .traffic import OncomingMotion, Traffic
from .weather import Weather, make_weather

_ONCOMING_MPS = 9.0
_LONGEST_MPS = 19.5  # no vehicle is faster


@dataclass(frozen=True)
class Scenario:
    """A drive of some length; with an equal seed a longer one begins as the shorter one."""

    split: str
    seed: int
    seconds: float
    town: Town
    route: Route
    plan: DrivingPlan
    traffic: Traffic
    oncoming: OncomingMotion
    weather: Weather

    def simulate(self) -> Simulation:
        """A new simulation of the drive, at -MARGIN_S."""
        return Simulation(self.route, self.plan, self.traffic, self.oncoming)

    @functools.cached_property
    def expert_simulation(self) -> Simulation:
        """The simulation in which the expert has driven to the end."""
        simulation = self.simulate()
        simulation.run(self.seconds + MARGIN_S)
        return simulation

    @property
    def expert(self) -> Trace:
        """The expert's motion and its causes, -MARGIN_S <= t_s <= seconds + MARGIN_S."""
        return self.expert_simulation.trace

    def moment(self, t_s: float) -> Moment:
        """Everything that moves while the expert drives."""
        return self.expert_simulation.moment(t_s)

    def ego(self, t_s: float) -> State:
        """State of the ego while the expert drives."""
        return self.expert.ego(t_s)

    def rng(self, purpose: int, *more: int) -> np.random.Generator:
        """Random numbers for one purpose; the world itself uses purposes 0 to 9."""
        return make_rng(self.split, self.seed, purpose, *more)


def make_rng(split: str, seed: int, *purpose: int) -> np.random.Generator:
    """Random numbers of a drive for one purpose, independent of every other split and seed."""
    return np.random.default_rng([list(SPLITS).index(split), seed, *purpose])


def make_scenario(split: str, seed: int, seconds: float = 60.0) -> Scenario:
    """Make the drive of a split, one of SPLITS, and a seed."""
    town, length_m = SPLITS[split], _LONGEST_MPS * (seconds + 2 * MARGIN_S)
    route = make_route(make_rng(split, seed, 0), length_m, town)
    plan = make_plan(route)
    traffic = _make_traffic(make_rng(split, seed, 1), seconds)
    weather = make_weather(make_rng(split, seed, 2), town.weather)
    return Scenario(
        split, seed, seconds, town, route, plan, traffic, _make_oncoming(route, plan), weather
    )


def _make_traffic(rng: np.random.Generator, seconds: float) -> Traffic:
    has_lead = rng.random() < 0.42
    start = float(rng.uniform(16.0, 55.0))
    factor = float(rng.uniform(0.75, 1.05))
    own = float(rng.uniform(0.6, 1.0))
    first, spacing = rng.uniform(3.0, 9.0), rng.uniform(9.0, 22.0)
    times = np.arange(first, 3 * seconds + 200.0, spacing)
    # a stream of its own, because the number of cars depends on the length of the drive
    jitter = np.random.default_rng(rng.integers(2**32)).uniform(-3.0, 3.0, len(times))
    return Traffic(start if has_lead else None, factor, own, tuple((times + jitter).tolist()))


def _make_oncoming(route: Route, plan: DrivingPlan) -> OncomingMotion:
    s = route.road.s_m[::10]
    speed = np.minimum(_ONCOMING_MPS, plan.speed_mps[::2][: len(s)])
    seconds = np.concatenate([[0.0], np.cumsum(np.diff(s) / ((speed[1:] + speed[:-1]) / 2))])
    seconds -= np.interp(0.0, s, seconds)
    even = np.arange(seconds[0], seconds[-1], 0.1)
    return OncomingMotion(np.interp(even, seconds, s), even)
