"""Baseline planner: straight ahead at the speed of the history.

It is also the engine of machines without a model: it needs no torch and no checkpoint, and reads
no image.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..data_types import GRID_NS, NANOSECONDS, WAYPOINTS, Context, Prediction, SamplingOptions
from ..errors import BadInput
from ..validity import check_trajectory


class ConstantVelocityEngine:
    """K equal samples: x = v0 * t, heading and curvature zero."""

    name = 'constant_velocity'

    def __init__(self, options: SamplingOptions | None = None) -> None:
        self.options = options or SamplingOptions()

    def infer(self, context: Context, seed: int) -> Prediction:
        """Predict from the context's v0; the seed has no effect."""
        start = time.perf_counter()
        count = self.options.num_samples
        samples, actions = (
            np.repeat(x[None], count, axis=0) for x in self.predict_motion(context)
        )
        checks = check_trajectory(samples[0], actions[0], context.v0_mps)
        return Prediction(
            t0_ns=context.t0_ns,
            seed=seed,
            samples=samples,
            actions=actions,
            chosen=0,
            spread_m=0.0,
            v0_mps=context.v0_mps,
            texts=('',) * count,
            partial_texts=('',) * count,
            end=('marker',) * count,
            tokens=(0,) * count,
            checks=(*context.checks, *checks),
            timing_ms={'action': (time.perf_counter() - start) * 1e3},
        )

    def answer(self, context: Context, question: str, seed: int) -> tuple[str, bool]:
        """Raise BadInput: there is no model to ask."""
        raise BadInput(f'{self.name} answers no questions, only Alpamayo 1.5 does')

    def predict_motion(self, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Return path (64, 4) and actions (64, 2), float32, as in Prediction."""
        return make_straight_path(context.v0_mps), np.zeros((WAYPOINTS, 2), np.float32)

    def provenance(self) -> dict[str, Any]:
        """Name the engine; nothing else determines the results."""
        return {'engine': self.name}


def make_straight_path(v0_mps: float) -> np.ndarray:
    """Return (64, 4) float32: x, y m, yaw rad, speed m/s at t0 + 0.1 ... 6.4 s, t0 frame."""
    seconds = np.arange(1, WAYPOINTS + 1) * (GRID_NS / NANOSECONDS)
    path = np.zeros((WAYPOINTS, 4), np.float32)
    path[:, 0], path[:, 3] = v0_mps * seconds, v0_mps
    return path
