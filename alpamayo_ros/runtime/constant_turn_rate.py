"""Baseline planner: the vehicle keeps the speed and turn rate of its history.

It needs no torch and no checkpoint, and reads no image.
"""

from __future__ import annotations

import numpy as np

from ..data_types import GRID_NS, NANOSECONDS, WAYPOINTS, Context
from .constant_velocity import ConstantVelocityEngine

RECENT_STEPS = 5  # of the history, 0.5 s: less is noisy, more is out of date
_STANDING_MPS = 0.1  # below it, curvature is undefined and set to 0


class ConstantTurnRateEngine(ConstantVelocityEngine):
    """K equal samples: an arc at v0 with the turn rate of the last half second."""

    name = 'constant_turn_rate'

    def predict_motion(self, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Return path (64, 4) and actions (64, 2), float32, as in Prediction."""
        step_s = GRID_NS / NANOSECONDS
        before = np.asarray(context.history_rot[-1 - RECENT_STEPS], np.float64)
        rate = -float(np.arctan2(before[1, 0], before[0, 0])) / (RECENT_STEPS * step_s)
        speed = context.v0_mps
        yaw = rate * step_s * np.arange(1, WAYPOINTS + 1)
        chord = speed * step_s * np.arange(1, WAYPOINTS + 1) * np.sinc(yaw / 2 / np.pi)
        path = np.stack(
            [chord * np.cos(yaw / 2), chord * np.sin(yaw / 2), yaw, np.full(WAYPOINTS, speed)],
            axis=1,
        )
        actions = np.zeros((WAYPOINTS, 2))
        actions[:, 1] = rate / speed if abs(speed) > _STANDING_MPS else 0.0
        return path.astype(np.float32), actions.astype(np.float32)
