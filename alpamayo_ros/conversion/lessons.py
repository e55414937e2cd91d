"""Lessons: what a checkpoint sees, says and plans at moments of recorded drives, as tensors.

A quantized model learns to give the 16-bit logits and velocities for the same input. The words are
those of the 16-bit checkpoint, so nothing but the weights differs. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..model.teacher_forcing import Batch, Layout


@dataclass(frozen=True)
class Lessons:
    """B moments with equal layouts; x (B, D, T, 2): noisy normalised actions at times t (B, D)."""

    batch: Batch
    x: Tensor
    t: Tensor

    def __len__(self) -> int:
        """Count the moments."""
        return len(self.t)

    def take(self, numbers: Sequence[int]) -> Lessons:
        """Return some of the moments."""
        index = torch.tensor(list(numbers))
        return self._map(lambda x: x[index])

    def to(self, device: str | torch.device) -> Lessons:
        """Return the lessons on a device."""
        batch = self.batch
        layout = {name: x.to(device) for name, x in vars(batch.layout).items()}
        moved = self._map(lambda x: x.to(device))
        return replace(moved, batch=replace(moved.batch, layout=Layout(**layout)))

    def to_tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, as a file holds them."""
        batch = vars(self.batch) | vars(self.batch.layout) | {'x': self.x, 't': self.t}
        return {name: x.contiguous() for name, x in batch.items() if name != 'layout'}

    def _map(self, change: Callable[[Tensor], Tensor]) -> Lessons:
        """Apply a change to every tensor but those of the layout."""
        batch = self.batch
        parts = (batch.images, batch.prompt, batch.rest, batch.first, batch.marker, batch.actions)
        return Lessons(
            Batch(batch.layout, *(change(x) for x in parts)), change(self.x), change(self.t)
        )


def lessons_from_tensors(tensors: Mapping[str, Tensor]) -> Lessons:
    """Return the lessons of `to_tensors`."""
    layout = Layout(**{part.name: tensors[part.name] for part in fields(Layout)})
    parts = {part.name: tensors[part.name] for part in fields(Batch) if part.name != 'layout'}
    return Lessons(Batch(layout, **parts), tensors['x'], tensors['t'])


@dataclass(frozen=True)
class Curriculum:
    """Lessons to learn from, and others that figures come from."""

    learned: Lessons
    held_out: Lessons

    def __len__(self) -> int:
        """Count the lessons."""
        return len(self.learned) + len(self.held_out)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, as a file holds them."""
        parts = vars(self).items()
        return {f'{part}.{name}': x for part, own in parts for name, x in own.to_tensors().items()}


def curriculum_from_tensors(tensors: Mapping[str, Tensor]) -> Curriculum:
    """Return the curriculum of `to_tensors`."""
    return Curriculum(**{
        part.name: lessons_from_tensors({
            name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)
        })
        for part in fields(Curriculum)
        if (start := f'{part.name}.')
    })  # fmt: skip
