"""What drives in an evaluation: scenes in, predictions out.

An engine that looks, a baseline that does not, and the expert of the world, which knows what is
to come and so shows what the measure itself costs. Knows no metric and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..data_types import (
    GRID_NS,
    NANOSECONDS,
    WAYPOINTS,
    Prediction,
    SamplingOptions,
    derive_seed,
)
from ..runtime.worker import Engine
from ..world.reasons import choose_sentence
from ..world.simulation import Simulation
from .scene import PictureChange, Scene, get_future, keep_pictures, make_contexts

if TYPE_CHECKING:
    from ..runtime.engine import AlpamayoEngine


class Planner(Protocol):
    """What is evaluated."""

    def plan(self, scenes: Sequence[Scene], seed: int) -> list[Prediction]:
        """A prediction for each scene; what is drawn depends on seed, drive and t0 alone."""


def derive_scene_seed(seed: int, scene: Scene) -> int:
    """Seed of the inference at a scene: equal for every planner, so that rows can be paired."""
    return derive_seed(derive_seed(seed, scene.drive.seed), scene.t0_ns)


@dataclass(frozen=True)
class BaselinePlanner:
    """A baseline: an engine for one context at a time that needs no pictures."""

    engine: Engine

    def plan(self, scenes: Sequence[Scene], seed: int) -> list[Prediction]:
        """See Planner."""
        return [
            self.engine.infer(scene.context(), derive_scene_seed(seed, scene)) for scene in scenes
        ]


@dataclass(frozen=True)
class CheckpointPlanner:
    """An Alpamayo in batches of scenes. load: to the engine, when it is needed."""

    load: Callable[[], AlpamayoEngine]
    options: SamplingOptions
    batch: int
    look: PictureChange = keep_pictures

    def plan(self, scenes: Sequence[Scene], seed: int) -> list[Prediction]:
        """See Planner."""
        from ..runtime.batch import infer_batch  # torch takes seconds to import

        engine, found = self.load(), []
        for start in range(0, len(scenes), self.batch):
            part = scenes[start : start + self.batch]
            seeds = [derive_scene_seed(seed, scene) for scene in part]
            rngs = [np.random.default_rng(own) for own in seeds]
            seen = make_contexts(part, self.look, rngs, engine.device.type)
            found += infer_batch(engine, seen, seeds, self.options)
        return found


@dataclass(frozen=True)
class ExpertPlanner:
    """The expert of the world, K equal samples: it knows what others do and what lights show."""

    samples: int = 1

    def plan(self, scenes: Sequence[Scene], seed: int) -> list[Prediction]:
        """See Planner."""
        return [self._plan(scene, derive_scene_seed(seed, scene)) for scene in scenes]

    def _plan(self, scene: Scene, seed: int) -> Prediction:
        step_s = GRID_NS / NANOSECONDS
        future = continue_with_expert(scene.simulation, scene.t0_s + (WAYPOINTS + 1) * step_s)
        path = get_future(scene, future)
        times = scene.t0_s + step_s * np.arange(WAYPOINTS)
        states = [future.trace.ego(t_s + step_s / 2) for t_s in times.tolist()]
        actions = np.array([(s.acceleration_mps2, s.curvature) for s in states])
        text = choose_sentence(future.trace.cause(scene.t0_s), np.random.default_rng(seed))
        return Prediction(
            t0_ns=scene.t0_ns,
            seed=seed,
            samples=np.repeat(path[None], self.samples, axis=0).astype(np.float32),
            actions=np.repeat(actions[None], self.samples, axis=0).astype(np.float32),
            chosen=0,
            spread_m=0.0,
            v0_mps=future.trace.ego(scene.t0_s).speed_mps,
            texts=(text,) * self.samples,
            partial_texts=('',) * self.samples,
            end=('marker',) * self.samples,
            tokens=(0,) * self.samples,
        )


def continue_with_expert(simulation: Simulation, until_s: float) -> Simulation:
    """The world with the expert at the wheel until then: a copy where it is not known so far."""
    if simulation.time_s >= until_s - 1e-9:
        return simulation
    following = simulation.branch(simulation.time_s)
    following.run(until_s)
    return following
