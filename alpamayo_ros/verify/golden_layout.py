"""Translates our cache slots into the rows of the reference, one row per sample.

We store a scene's prompt, pads behind it, then the steps of all samples interleaved. The reference
has pads in front of the prompt and the steps of one sample behind it. Knows no files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.kv_cache import Window
from ..model.prefill import Prompt


@dataclass(frozen=True)
class ReferenceLayout:
    """Rows of B scenes with K samples each, scene-major, for one pass over the prompts.

    prompt: our prefilled prompts. scenes: cache rows of the pass. lengths: own lengths of their
    prompts. steps: tokens of each row in the cache of the reference. width: columns of the
    reference's prompts, pads in front included.
    """

    prompt: Prompt
    scenes: range
    lengths: list[int]
    samples: int
    steps: int
    width: int

    @property
    def missing(self) -> int:
        """Columns that the prompts of the reference are shorter than ours."""
        return self.prompt.length - self.width

    def pad_in_front(self, values: Tensor, fill: float) -> Tensor:
        """Ours (..., S, P) to (..., B, width): values of the prompts behind pads of `fill`."""
        rows = []
        for scene, length in zip(self.scenes, self.lengths, strict=True):
            pads = values.new_full((*values.shape[:-2], self.width - length), fill)
            rows.append(torch.cat([pads, values[..., scene, :length]], -1))
        return torch.stack(rows, -2)

    def repeat_rows(self, values: Tensor) -> Tensor:
        """Values (S, ...) of scenes to those of rows (B * K, ...)."""
        own = values[self.scenes.start : self.scenes.stop]
        return own.repeat_interleave(self.samples, 0)

    def list_slots(self) -> list[list[int]]:
        """Our slot of every column of every row (B * K, width + steps); -1 for a pad."""
        rows = []
        for length in self.lengths:
            for sample in range(self.samples):
                own = [self.prompt.length + i * self.samples + sample for i in range(self.steps)]
                rows.append([-1] * (self.width - length) + list(range(length)) + own)
        return rows

    def gather_cache(self, layer: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (B * K, heads, width + steps, d) of a layer (S, heads, capacity, d).

        Pads are zeros; also returns which columns are none: bool of the shape of the rows.
        """
        rows, real = [], []
        for row, slots in enumerate(self.list_slots()):
            index = torch.tensor(slots, device=layer.device)
            own = layer[self.scenes[row // self.samples]][:, index.clamp(min=0)]
            is_real = (index >= 0).view(1, -1, 1).expand_as(own)
            rows.append(own * is_real)
            real.append(is_real)
        return torch.stack(rows), torch.stack(real)

    def gather_mask(self, window: Window, points: int) -> tuple[Tensor, bool]:
        """Our mask (S, 1, K * T, span) as additive rows (B * K, 1, T, columns + T).

        Also returns whether a row sees a slot of another sample or a pad. A window without a mask
        is that of a single row, whose waypoints stand directly behind the tokens that they see.
        """
        rows, strangers = [], False
        for row, slots in enumerate(self.list_slots()):
            scene, sample = self.scenes[row // self.samples], row % self.samples
            index = torch.tensor(slots, device=window.slots.device)
            own_waypoints = window.slots[sample * points : (sample + 1) * points]
            if window.mask is None:
                tokens = ((index >= 0) & (index < own_waypoints[0])).expand(points, -1)
                rows.append(torch.cat([tokens, tokens.new_ones(points, points)], 1))
                continue
            index = torch.cat([index, own_waypoints])
            own = window.mask[scene, 0, sample * points : (sample + 1) * points]
            seen = own[:, index.clamp(min=0)] & (index >= 0)
            strangers |= bool(own.sum() != seen.sum())
            rows.append(seen)
        lowest = torch.finfo(torch.float32).min
        return torch.where(torch.stack(rows).unsqueeze(1), 0.0, lowest), strangers
