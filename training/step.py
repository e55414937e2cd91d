"""Losses and gradients of a batch; on a GPU as CUDA graphs, one for each set of cameras.

A step is some 5,000 small kernels: launched one by one from Python they take longer than they
run. A recording reads its inputs from fixed places. Knows no optimizer and no data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from alpamayo_ros.model.alpamayo import AlpamayoR1
from alpamayo_ros.world.samples import FRAMES

from .forward import Batch, Passes
from .losses import losses
from .settings import TrainingSettings

_WARM_UP_RUNS = 3  # kernels are compiled and workspaces allocated before a recording
_INPUTS = ('images', 'prompt', 'reasoning', 'marker', 'actions')
Step = Callable[[Batch, Tensor, Tensor], Tensor]


def plain_step(
    model: AlpamayoR1, settings: TrainingSettings, passes: Passes | None = None
) -> Step:
    """A function of a batch, noises and times: adds the gradients, returns (3,) losses.

    The losses are those of language, flow and path; settings weigh them.
    """

    def step(batch: Batch, noise: Tensor, t: Tensor) -> Tensor:
        found = losses(model, batch, noise, t, passes)
        found.total(settings).backward()
        return torch.stack([found.language, found.flow, found.path]).detach()

    return step


def by_cameras(settings: TrainingSettings, common: Step, rare: Step, often: float) -> Step:
    """One step for sets of cameras that a share `often` of the batches has, another for others."""
    total = sum(chosen['share'] for chosen in settings.cameras)
    counts = {
        len(chosen['indices']) * FRAMES
        for chosen in settings.cameras
        if chosen['share'] >= often * total
    }

    def step(batch: Batch, noise: Tensor, t: Tensor) -> Tensor:
        return (common if batch.images.shape[1] in counts else rare)(batch, noise, t)

    return step


def recorded_step(step: Step, gradient: Tensor) -> Step:
    """The same step as recordings. gradient: what it adds to; making a recording leaves it."""
    recordings: dict[tuple[int, ...], _Recording] = {}

    def replay(batch: Batch, noise: Tensor, t: Tensor) -> Tensor:
        shape = tuple(batch.images.shape)
        if shape not in recordings:
            pool = next((r.graph.pool() for r in recordings.values()), None)
            kept = gradient.clone()
            recordings[shape] = _Recording(step, batch, noise, t, pool)
            gradient.copy_(kept)
        return recordings[shape](batch, noise, t)

    return replay


class _Recording:
    """One step of one shape. pool: memory that recordings share, since they run in turn."""

    def __init__(self, step: Step, batch: Batch, noise: Tensor, t: Tensor, pool: Any) -> None:
        inputs = {name: getattr(batch, name).clone() for name in _INPUTS}
        self._batch = replace(batch, **inputs)
        self._noise, self._t = noise.clone(), t.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_RUNS):
                step(self._batch, self._noise, self._t)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # another thread paints meanwhile: its calls must not break the recording
        with torch.cuda.graph(self.graph, pool, stream, capture_error_mode='thread_local'):
            self._losses = step(self._batch, self._noise, self._t)

    def __call__(self, batch: Batch, noise: Tensor, t: Tensor) -> Tensor:
        for name in _INPUTS:
            getattr(self._batch, name).copy_(getattr(batch, name))
        self._noise.copy_(noise)
        self._t.copy_(t)
        self.graph.replay()
        return self._losses
