"""Samples of drives for training and evaluation: history, future, cause and its words at a time.

Every other training drive is disturbed: now and then the expert is pushed about for a while, as a
planner's own errors would, and then shows how to find back. Most samples are displaced beside
that: their history is moved as a whole, so that only the pictures tell where the lane is and how
far away what stands ahead. Knows no model, no tokens and no pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .moments import SIMULATION_STEP_S, Moment, Trace
from .reasons import choose_sentence
from .road import Array
from .scenario import Scenario
from .simulation import MARGIN_S, Displacement, Simulation

GRID_S = 0.1
HISTORY, FUTURE, FRAMES = 16, 64, 4
HORIZON_S = FUTURE * GRID_S
_BACK_S = (HISTORY - 1) * GRID_S
_PUSHED_S, _EACH_S = 3.0, 0.5  # a push lasts so long, in pieces of one strength each
_BACK_FOR_S = 1.6  # how long after a push one can learn from finding back
_PUSHES_MPS2 = (0.6, 0.9)  # deviations of the acceleration, along and across
_STARTS, _START_MPS2 = 0.4, 2.0  # share of pieces in which a standing ego is pushed, and how
_SHARPEST = 0.02  # 1/m, of a push at low speed
_ASIDE_M = 0.7  # where a push ends early: a lane leaves a car 0.8 m
_DISPLACED = 0.6  # share of samples
_TRIES = 4  # at a displacement that stays in the lane
# Of a displacement: deviations, but for the mean of what is turned.
_BESIDE_M, _AHEAD_M, _TURNED_RAD, _FASTER = 0.35, 1.0, 0.04, 0.06


@dataclass(frozen=True)
class Sample:
    """What is known and what comes at t0, in the base frame at t0; float32.

    history_xyz (16, 3) and history_rot (16, 3, 3): t0-1.5 s ... t0. future_xyz (64, 3) and
    future_rot (64, 3, 3): t0+0.1 ... 6.4 s. cause: the one at t0; causes: all within half a
    second of it. text: the words of `cause`.
    """

    t0_s: float
    history_xyz: NDArray[np.float32]
    history_rot: NDArray[np.float32]
    future_xyz: NDArray[np.float32]
    future_rot: NDArray[np.float32]
    cause: str
    causes: frozenset[str]
    text: str


def make_training_drive(scenario: Scenario) -> tuple[Simulation, tuple[float, ...]]:
    """The drive of every even seed, or a disturbed one of an odd seed, and times t0 to learn from.

    Times are 0.2 s apart; a push may lie in a history, never in a future.
    """
    if scenario.seed % 2 == 0:
        return scenario.expert_simulation, list_sample_times(scenario.expert, 0.2)
    rng, simulation = scenario.rng(7), scenario.simulate()
    times: list[float] = []
    start_s = float(rng.uniform(0.0, 3.0))
    while True:
        simulation.run(start_s)
        _push(simulation, rng)
        # behind the step that still carries the last push
        first_s, last_s = simulation.time_s + SIMULATION_STEP_S, simulation.time_s + _BACK_FOR_S
        start_s = last_s + HORIZON_S + 2 * SIMULATION_STEP_S
        if start_s > scenario.seconds + MARGIN_S:
            return simulation, tuple(times)
        simulation.run(start_s)
        times += np.arange(first_s, last_s, 0.2).tolist()


def _push(simulation: Simulation, rng: np.random.Generator) -> None:
    """Disturb the expert for _PUSHED_S; where it stands it may start, and see that it must not."""
    for _ in range(round(_PUSHED_S / _EACH_S)):
        along, across = rng.normal(0.0, _PUSHES_MPS2).tolist()
        starts = rng.random() < _STARTS
        for _ in range(round(_EACH_S / SIMULATION_STEP_S)):
            speed = simulation.trace.steps[-1].ego.speed_mps
            bend = across / max(speed, 1.0) ** 2
            bend = max(-_SHARPEST, min(_SHARPEST, bend))
            outwards = simulation.offset_from_path_m() * bend > 0.0
            if speed < 0.3:
                simulation.step(push=(_START_MPS2 if starts else 0.0, 0.0))
            elif outwards and abs(simulation.offset_from_path_m()) > _ASIDE_M:
                simulation.step()
            else:
                simulation.step(push=(along, bend))


def displace_sample(simulation: Simulation, t0_s: float, rng: np.random.Generator) -> Simulation:
    """A copy that ends behind the future of t0, its ego beside where it was, up to t0 and after.

    What the ego did up to t0 is moved, turned and made faster or slower as a whole, about its pose
    at t0, which stays within its lane; from there on the expert drives. Some samples stay as they
    are.
    """
    following = simulation.branch(t0_s)
    if rng.random() < _DISPLACED:
        for _ in range(_TRIES):
            displacement = Displacement(
                left_m=float(rng.normal(0.0, _BESIDE_M)),
                ahead_m=float(rng.normal(0.0, _AHEAD_M)),
                turn_rad=float(rng.laplace(0.0, _TURNED_RAD)),  # now and then by a lot
                speed_factor=float(rng.lognormal(0.0, _FASTER)),
            )
            moved = simulation.branch(t0_s)
            moved.displace(displacement, _BACK_S + SIMULATION_STEP_S)
            ego = moved.trace.steps[-1].ego
            if not moved.is_off_lane(ego) and not moved.has_collision(ego, moved.time_s):
                following = moved
                break
    following.run(t0_s + HORIZON_S + 2 * SIMULATION_STEP_S)
    return following


def list_sample_times(trace: Trace, every_s: float) -> tuple[float, ...]:
    """Times with a whole history before and a whole future behind."""
    first, last = (
        trace.start_s + _BACK_S + SIMULATION_STEP_S,
        trace.end_s - HORIZON_S - SIMULATION_STEP_S,
    )
    return tuple(np.arange(first, last, every_s).tolist())


def choose_times(
    trace: Trace, times: Sequence[float], count: int, rng: np.random.Generator
) -> tuple[float, ...]:
    """Some of the times, rare causes more often than they come; at most as many as there are."""
    causes = [trace.cause(t_s) for t_s in times]
    weights = np.array([1 / causes.count(cause) ** 0.5 for cause in causes])
    number = min(count, len(times))
    picked = rng.choice(len(times), number, replace=False, p=weights / weights.sum())
    return tuple(times[i] for i in sorted(picked.tolist()))


def list_frame_moments(simulation: Simulation, t0_s: float) -> tuple[Moment, ...]:
    """The four moments that the cameras show, oldest first."""
    times = [t0_s - (FRAMES - 1 - i) * GRID_S for i in range(FRAMES)]
    return tuple(simulation.moment(t_s) for t_s in times)


def express_motion(trace: Trace, t0_s: float, steps: NDArray[np.int64]) -> tuple[Array, Array]:
    """Positions (N, 3) m and rotations (N, 3, 3) at steps of GRID_S from t0, in its base frame."""
    states = [trace.ego(t0_s + step * GRID_S) for step in steps.tolist()]
    x, y, yaw = np.array([(s.x_m, s.y_m, s.yaw_rad) for s in states]).T
    now = trace.ego(t0_s)
    east, north, turned = x - now.x_m, y - now.y_m, yaw - now.yaw_rad
    cos, sin = np.cos(now.yaw_rad), np.sin(now.yaw_rad)
    xyz = np.stack([cos * east + sin * north, cos * north - sin * east, np.zeros_like(x)], axis=1)
    rot = np.zeros((len(states), 3, 3))
    rot[:, 0, 0] = rot[:, 1, 1] = np.cos(turned)
    rot[:, 1, 0], rot[:, 0, 1], rot[:, 2, 2] = np.sin(turned), -np.sin(turned), 1.0
    return xyz, rot


def make_sample(trace: Trace, t0_s: float, rng: np.random.Generator) -> Sample:
    """Sample of a trace at t0; rng chooses among the wordings."""
    xyz, rot = express_motion(trace, t0_s, np.arange(1 - HISTORY, FUTURE + 1))
    cause = trace.cause(t0_s)
    xyz32, rot32 = xyz.astype(np.float32), rot.astype(np.float32)
    return Sample(
        t0_s, xyz32[:HISTORY], rot32[:HISTORY], xyz32[HISTORY:], rot32[HISTORY:],
        cause, trace.causes(t0_s), choose_sentence(cause, rng),
    )  # fmt: skip
