"""Training samples: history, future, cause and sentence at a time t0 of a drive.

Every other training drive is disturbed: pushes move the expert as the errors of a planner would,
and the expert then shows the way back. Most samples are displaced as well: their history is moved
as a whole, so that only the pictures show where the lane is and how far away an obstacle is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data_types import FRAMES_PER_CAMERA, GRID_S, HISTORY_POSES, WAYPOINTS
from .bodies import has_collision, is_off_lane
from .moments import SIMULATION_STEP_S, Moment, Trace
from .reasons import choose_sentence
from .road import Array
from .scenario import Scenario
from .simulation import MARGIN_S, Displacement, Simulation

HORIZON_S = WAYPOINTS * GRID_S
_BACK_S = (HISTORY_POSES - 1) * GRID_S
_PUSHED_S, _EACH_S = 3.0, 0.5  # length of a push, and of its pieces of constant strength
_BACK_FOR_S = 1.6  # samples start at most this long after a push
_PUSHES_MPS2 = (0.6, 0.9)  # standard deviations of the acceleration, along and across
_STARTS, _START_MPS2 = 0.4, 2.0  # share of pieces that push a standing ego, and how hard
_SHARPEST = 0.02  # largest curvature 1/m of a push, at low speed
_ASIDE_M = 0.7  # a push ends at this offset: the lane leaves a car 0.8 m
_DISPLACED = 0.6  # share of displaced samples
_BENDS = 1.5  # weight of a time in a bend
_TRIES = 4  # draws of a displacement until one stays in the lane
# Standard deviations of a displacement; of the Laplace-distributed turn its scale.
_BESIDE_M, _AHEAD_M, _TURNED_RAD, _FASTER = 0.35, 1.0, 0.04, 0.06


@dataclass(frozen=True)
class Sample:
    """Input and target of one training sample at t0, in the base frame at t0; float32.

    history_xyz (16, 3) and history_rot (16, 3, 3): t0-1.5 s ... t0. future_xyz (64, 3) and
    future_rot (64, 3, 3): t0+0.1 ... 6.4 s. cause: the one at t0; causes: all within half a
    second of it. text: a sentence for `cause`.
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
    """Make a training drive and the times t0 of its samples; odd seeds are disturbed.

    Times are 0.2 s apart. A push may lie in the history of a sample, never in its future.
    """
    if scenario.seed % 2 == 0:
        return scenario.expert_simulation, list_sample_times(scenario.expert, 0.2)
    rng, simulation = scenario.rng(7), scenario.simulate()
    times: list[float] = []
    start_s = float(rng.uniform(0.0, 3.0))
    while True:
        simulation.run(start_s)
        _push(simulation, rng)
        # after the step that still has the last push
        first_s, last_s = simulation.time_s + SIMULATION_STEP_S, simulation.time_s + _BACK_FOR_S
        start_s = last_s + HORIZON_S + 2 * SIMULATION_STEP_S
        if start_s > scenario.seconds + MARGIN_S:
            return simulation, tuple(times)
        simulation.run(start_s)
        times += np.arange(first_s, last_s, 0.2).tolist()


def _push(simulation: Simulation, rng: np.random.Generator) -> None:
    """Push the expert about for _PUSHED_S; a standing one may start and then has to stop again."""
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


def displace_sample(simulation: Simulation, rng: np.random.Generator) -> Simulation:
    """Copy a simulation at t0 with a displaced history; it ends at t0.

    The motion up to t0 is moved, turned and made faster or slower as a whole, about the pose at
    t0, which stays within the lane. Some samples stay unchanged.
    """
    t0_s = simulation.time_s
    if rng.random() < _DISPLACED:
        for _ in range(_TRIES):
            displacement = Displacement(
                left_m=float(rng.normal(0.0, _BESIDE_M)),
                ahead_m=float(rng.normal(0.0, _AHEAD_M)),
                turn_rad=float(rng.laplace(0.0, _TURNED_RAD)),  # heavy tails: rarely a large turn
                speed_factor=float(rng.lognormal(0.0, _FASTER)),
            )
            moved = simulation.branch(t0_s)
            moved.displace(displacement, _BACK_S + SIMULATION_STEP_S)
            ego = moved.trace.steps[-1].ego
            if not is_off_lane(moved, ego) and not has_collision(moved, ego, t0_s):
                return moved
    return simulation.branch(t0_s)


def list_sample_times(trace: Trace, every_s: float) -> tuple[float, ...]:
    """List the times that have a whole history before and a whole future after them."""
    first, last = (
        trace.start_s + _BACK_S + SIMULATION_STEP_S,
        trace.end_s - HORIZON_S - SIMULATION_STEP_S,
    )
    return tuple(np.arange(first, last, every_s).tolist())


def choose_times(
    trace: Trace, times: Sequence[float], count: int, rng: np.random.Generator
) -> tuple[float, ...]:
    """Choose `count` times, or all if there are fewer; rare causes and bends come more often."""
    causes = [trace.cause(t_s) for t_s in times]
    weights = np.array([
        (_BENDS if cause.startswith(('curve', 'turn')) else 1.0) / causes.count(cause) ** 0.5
        for cause in causes
    ])  # fmt: skip
    number = min(count, len(times))
    picked = rng.choice(len(times), number, replace=False, p=weights / weights.sum())
    return tuple(times[i] for i in sorted(picked.tolist()))


def list_frame_moments(simulation: Simulation, t0_s: float) -> tuple[Moment, ...]:
    """List the four moments of the camera frames of t0, oldest first."""
    count = FRAMES_PER_CAMERA
    times = [t0_s - (count - 1 - i) * GRID_S for i in range(count)]
    return tuple(simulation.moment(t_s) for t_s in times)


def express_motion(trace: Trace, t0_s: float, steps: NDArray[np.int64]) -> tuple[Array, Array]:
    """Positions (N, 3) m and rotations (N, 3, 3) at t0 + steps * 0.1 s, in the t0 frame."""
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
    """Make the sample of a trace at t0; rng chooses the wording."""
    xyz, rot = express_motion(trace, t0_s, np.arange(1 - HISTORY_POSES, WAYPOINTS + 1))
    cause = trace.cause(t0_s)
    xyz32, rot32, now = xyz.astype(np.float32), rot.astype(np.float32), HISTORY_POSES
    return Sample(
        t0_s, xyz32[:now], rot32[:now], xyz32[now:], rot32[now:],
        cause, trace.causes(t0_s), choose_sentence(cause, rng),
    )  # fmt: skip
