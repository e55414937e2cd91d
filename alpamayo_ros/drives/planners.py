"""Planners of an evaluation: checkpoints, baselines, the expert, experts that break rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
import functools
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..data_types import GRID_S, WAYPOINTS, Context, Prediction, SamplingOptions, derive_seed
from ..runtime.serving.jobs import Engine
from ..world.moments import State
from ..world.reasons import choose_sentence
from ..world.simulation import Simulation
from .edits import branch_edited
from .follower import BRAKE_MPS2
from .scene import EvaluationDrive, PictureChange, Scene, get_future, keep_pictures, make_contexts

if TYPE_CHECKING:
    from ..runtime.engine import AlpamayoEngine

_OTHER_DRIVE = 1000  # distance of the seeds of a drive and of the one whose pictures it is shown


class Planner(Protocol):
    """Makes predictions for scenes."""

    def plan(self, scenes: Sequence[Scene], seed: int) -> list[Prediction]:
        """Make a prediction per scene; random numbers depend on seed, drive and t0 alone."""


class ContextPlanner(Planner, Protocol):
    """A planner that needs no more than contexts."""

    def predict(self, contexts: Sequence[Context], seeds: Sequence[int]) -> list[Prediction]:
        """Make a prediction per context, each with its own seed."""


def derive_scene_seed(seed: int, scene: Scene) -> int:
    """Seed of the inference at a scene: equal for every planner, so that rows can be paired."""
    return derive_seed(derive_seed(seed, scene.drive.seed), scene.t0_ns)


@dataclass(frozen=True)
class BaselinePlanner:
    """An engine that needs no pictures and takes one context at a time."""

    engine: Engine

    def plan(self, scenes: Sequence[Scene], seed: int) -> list[Prediction]:
        """See Planner."""
        seeds = [derive_scene_seed(seed, scene) for scene in scenes]
        return self.predict([scene.context() for scene in scenes], seeds)

    def predict(self, contexts: Sequence[Context], seeds: Sequence[int]) -> list[Prediction]:
        """See ContextPlanner."""
        return [self.engine.infer(x, seed) for x, seed in zip(contexts, seeds, strict=True)]


@dataclass(frozen=True)
class CheckpointPlanner:
    """An Alpamayo checkpoint, in batches of scenes.

    load: loads the engine, at the first plan. change: changes the pictures of a scene. donor:
    finds the scene whose pictures are shown; history and pose stay those of the scene itself.
    has_routes: whether the prompt has the route text of the scene.
    """

    load: Callable[[], AlpamayoEngine]
    options: SamplingOptions
    batch: int
    change: PictureChange = keep_pictures
    donor: Callable[[Scene], Scene] | None = None
    has_routes: bool = False

    def plan(self, scenes: Sequence[Scene], seed: int) -> list[Prediction]:
        """See Planner."""
        engine, found = self.load(), []
        for start in range(0, len(scenes), self.batch):
            part = scenes[start : start + self.batch]
            seeds = [derive_scene_seed(seed, scene) for scene in part]
            rngs = [np.random.default_rng(scene_seed) for scene_seed in seeds]
            shown = part if self.donor is None else [self.donor(scene) for scene in part]
            contexts = make_contexts(part, self.change, rngs, engine.device.type, shown)
            if self.has_routes:
                texts = [scene.navigation() for scene in part]
                contexts = [
                    replace(x, navigation=text) for x, text in zip(contexts, texts, strict=True)
                ]
            found += self.predict(contexts, seeds)
        return found

    def predict(self, contexts: Sequence[Context], seeds: Sequence[int]) -> list[Prediction]:
        """See ContextPlanner; the contexts are one batch."""
        from ..runtime.batch import infer_batch  # torch takes seconds to import

        return infer_batch(self.load(), contexts, seeds, self.options) if contexts else []


def find_other_drive(scene: Scene) -> Scene:
    """Scene of another drive at the same time, as its expert drives it."""
    drive = _make_drive(
        scene.drive.split, scene.drive.seed + _OTHER_DRIVE, scene.drive.seconds, scene.drive.size
    )
    return Scene(drive, drive.scenario.expert_simulation, scene.t0_s)


@functools.lru_cache(maxsize=64)
def _make_drive(split: str, seed: int, seconds: float, size: tuple[int, int]) -> EvaluationDrive:
    return EvaluationDrive(split, seed, seconds, size)


@dataclass(frozen=True)
class ExpertPlanner:
    """The expert of the world: it knows what the others do and what the lights show.

    edit: the expert drives as it would in the world of this edit, and so ignores what is removed
    there.
    """

    edit: str | None = None

    def plan(self, scenes: Sequence[Scene], seed: int) -> list[Prediction]:
        """See Planner."""
        return [self._plan(scene, derive_scene_seed(seed, scene)) for scene in scenes]

    def _plan(self, scene: Scene, seed: int) -> Prediction:
        until_s = scene.t0_s + (WAYPOINTS + 1) * GRID_S
        if self.edit is None:
            future = continue_with_expert(scene.simulation, until_s)
        else:
            future = branch_edited(scene.simulation, scene.t0_s, self.edit)
            future.run(until_s)
        times = scene.t0_s + GRID_S * np.arange(WAYPOINTS)
        states = [future.trace.ego(t_s + GRID_S / 2) for t_s in times.tolist()]
        text = choose_sentence(future.trace.cause(scene.t0_s), np.random.default_rng(seed))
        return _make_prediction(scene, seed, get_future(scene, future), states, text)


@dataclass(frozen=True)
class StandingPlanner:
    """A baseline that brakes to a stop with the steering as it is, and stands."""

    def plan(self, scenes: Sequence[Scene], seed: int) -> list[Prediction]:
        """See Planner."""
        return [self._plan(scene, derive_scene_seed(seed, scene)) for scene in scenes]

    def _plan(self, scene: Scene, seed: int) -> Prediction:
        ego = scene.simulation.trace.ego(scene.t0_s)
        state = State(0.0, 0.0, 0.0, 0.0, ego.speed_mps, 0.0, ego.curvature)
        states, path = [], []
        for _ in range(WAYPOINTS):
            braking = max(-BRAKE_MPS2, -state.speed_mps / GRID_S)
            state = State(
                0.0, state.x_m, state.y_m, state.yaw_rad, state.speed_mps, braking, ego.curvature
            )
            states.append(state)
            state = state.after(GRID_S)
            path.append((state.x_m, state.y_m, state.yaw_rad, state.speed_mps))
        return _make_prediction(scene, seed, np.array(path), states, '')


def _make_prediction(
    scene: Scene, seed: int, path: np.ndarray, states: Sequence[State], text: str
) -> Prediction:
    """Prediction of one sample: path (64, 4), and the states whose actions lead along it."""
    actions = np.array([(state.acceleration_mps2, state.curvature) for state in states])
    return Prediction(
        t0_ns=scene.t0_ns,
        seed=seed,
        samples=path[None].astype(np.float32),
        actions=actions[None].astype(np.float32),
        chosen=0,
        spread_m=0.0,
        v0_mps=scene.simulation.trace.ego(scene.t0_s).speed_mps,
        texts=(text,),
        partial_texts=('',),
        end=('marker',),
        tokens=(0,),
    )


def continue_with_expert(simulation: Simulation, until_s: float) -> Simulation:
    """The simulation with the expert driving until then: a copy if it is not yet so far."""
    if simulation.time_s >= until_s - 1e-9:
        return simulation
    following = simulation.branch(simulation.time_s)
    following.run(until_s)
    return following
