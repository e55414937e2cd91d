"""Trajectories to token indices and back: the history's deltas, the future's actions.

Formulas: docs/model.md, section 4. Indices count from zero inside each tokenizer; tokens.py holds
their offset into the vocabulary. Knows no text tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import Any

import torch
from torch import Tensor, nn

from ..action_space import UnicycleAccelCurvatureActionSpace, rotation_from_yaw, wrap
from ..blocks import build_block

YAW_WINDOW = 10  # points of the sliding cubic fit that re-estimates headings


def quantise(x: Tensor, low: Tensor, high: Tensor, bins: int) -> Tensor:
    """Index of the nearest of `bins` levels over [low, high], half to even, then clamped."""
    index = torch.round((x - low) / (high - low) * (bins - 1)).to(torch.int64)
    return index.clamp(0, bins - 1)


def dequantise(index: Tensor, low: Tensor, high: Tensor, bins: int) -> Tensor:
    """Value float32 of a level."""
    return index.to(torch.float32) / (bins - 1) * (high - low) + low


class DeltaTrajectoryTokenizer:
    """History positions as quantised steps: 3 indices per pose, 4 with yaw.

    The first delta is the absolute oldest position, normally saturated at the bound.
    """

    def __init__(
        self,
        ego_xyz_min: Sequence[float] = (-4, -4, -10),
        ego_xyz_max: Sequence[float] = (4, 4, 10),
        ego_yaw_min: float = -math.pi,
        ego_yaw_max: float = math.pi,
        num_bins: int = 1000,
        predict_yaw: bool = False,
    ) -> None:
        low, high = list(ego_xyz_min), list(ego_xyz_max)
        if predict_yaw:
            low, high = [*low, ego_yaw_min], [*high, ego_yaw_max]
        self.low = torch.tensor(low, dtype=torch.float32)
        self.high = torch.tensor(high, dtype=torch.float32)
        self.vocab_size = num_bins
        self.predict_yaw = predict_yaw

    def encode(self, xyz: Tensor, rot: Tensor) -> Tensor:
        """Indices (B, N * channels), waypoint-major, of xyz (B, N, 3) and rot (B, N, 3, 3)."""
        start = torch.zeros_like(xyz[:, :1])
        deltas = torch.diff(torch.cat([start, xyz], 1), dim=1)
        if self.predict_yaw:
            yaw = torch.atan2(rot[..., 0, 1], rot[..., 0, 0])  # the negated yaw, as released
            steps = wrap(torch.diff(torch.cat([torch.zeros_like(yaw[:, :1]), yaw], 1), dim=1))
            deltas = torch.cat([deltas, steps.unsqueeze(-1)], -1)
        low, high = self.low.to(xyz.device), self.high.to(xyz.device)
        return quantise(deltas, low, high, self.vocab_size).flatten(1)

    def decode(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (B, N, 3) and rotations (B, N, 3, 3) of indices (B, N * channels)."""
        low, high = self.low.to(indices.device), self.high.to(indices.device)
        steps = dequantise(indices.unflatten(1, (-1, len(self.low))), low, high, self.vocab_size)
        path = torch.cumsum(steps, 1)
        xyz = path[..., :3]
        yaw = path[..., 3] if self.predict_yaw else fit_yaw(xyz)
        return xyz, rotation_from_yaw(yaw)


def fit_yaw(xyz: Tensor) -> Tensor:
    """Heading (B, N) of positions (B, N, 3), from cubics x(t), y(t) fitted to a sliding window."""
    n = xyz.shape[1]
    window = min(YAW_WINDOW, n)
    headings = []
    for i in range(n):
        start = min(max(0, i - window // 2), n - window)
        t = torch.arange(start, start + window, dtype=torch.float64) - i
        powers = t.unsqueeze(-1) ** torch.arange(4, dtype=torch.float64)
        # the derivative at the point itself is the coefficient of t
        row = torch.linalg.pinv(powers)[1].to(xyz)
        slope = torch.einsum('w,bwc->bc', row, xyz[:, start : start + window, :2])
        headings.append(torch.atan2(slope[:, 1], slope[:, 0]))
    return torch.stack(headings, 1)


class DiscreteTrajectoryTokenizer:
    """Future trajectories as quantised normalised actions: 128 indices for 64 waypoints."""

    def __init__(
        self,
        action_space_cfg: Mapping[str, Any] | nn.Module,
        dims_min: Sequence[float] = (-10, -10),
        dims_max: Sequence[float] = (10, 10),
        num_bins: int = 3000,
    ) -> None:
        self.action_space: Any = (
            action_space_cfg
            if isinstance(action_space_cfg, nn.Module)
            else build_block(action_space_cfg, UnicycleAccelCurvatureActionSpace)
        )
        self.low = torch.tensor(list(dims_min), dtype=torch.float32)
        self.high = torch.tensor(list(dims_max), dtype=torch.float32)
        self.vocab_size = num_bins

    def encode(
        self, hist_xyz: Tensor, hist_rot: Tensor, fut_xyz: Tensor, fut_rot: Tensor
    ) -> Tensor:
        """Indices (B, 2 * waypoints), waypoint-major, of a future in the t0 frame."""
        action, _ = self.action_space.traj_to_action(hist_xyz, hist_rot, fut_xyz, fut_rot)
        low, high = self.low.to(action.device), self.high.to(action.device)
        return quantise(action, low, high, self.vocab_size).flatten(1)

    def decode(self, hist_xyz: Tensor, hist_rot: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Trajectory xyz (B, waypoints, 3) and rotations of indices (B, 2 * waypoints)."""
        low, high = self.low.to(indices.device), self.high.to(indices.device)
        action = dequantise(indices.unflatten(1, (-1, 2)), low, high, self.vocab_size)
        return self.action_space.action_to_traj(action, hist_xyz, hist_rot)
