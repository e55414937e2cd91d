"""The training step: losses and gradients of a batch, on a GPU as CUDA graphs.

A step has about 5,000 small kernels, and launching them from Python takes longer than running
them. One graph serves one set of cameras and reads its inputs from fixed memory. Knows no
optimizer and no data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from alpamayo_ros.data_types import FRAMES_PER_CAMERA
from alpamayo_ros.model.alpamayo import AlpamayoModel
from alpamayo_ros.model.teacher_forcing import Passes

from .batches import TrainingBatch
from .losses import compute_losses
from .settings import TrainingSettings

_WARM_UP_RUNS = 3  # these compile kernels and allocate workspaces before a graph is recorded
_INPUTS = ('images', 'prompt', 'rest', 'first', 'marker', 'actions', 'speeds')
Step = Callable[[TrainingBatch, Tensor, Tensor], Tensor]


def make_plain_step(
    model: AlpamayoModel, settings: TrainingSettings, passes: Passes | None = None
) -> Step:
    """Return a function of batch, noise and times that adds the gradients and returns the losses.

    The losses (4,) are those of language, flow, path and aside; the settings weigh them.
    """

    def step(batch: TrainingBatch, noise: Tensor, t: Tensor) -> Tensor:
        losses = compute_losses(model, batch, noise, t, passes)
        losses.weigh(settings).backward()
        return torch.stack(list(vars(losses).values())).detach()

    return step


def choose_by_cameras(
    settings: TrainingSettings, common: Step, rare: Step, least_share: float
) -> Step:
    """Return a step that is `common` for sets of cameras with at least this share, else `rare`."""
    total = sum(chosen['share'] for chosen in settings.cameras)
    counts = {
        len(chosen['indices']) * FRAMES_PER_CAMERA
        for chosen in settings.cameras
        if chosen['share'] >= least_share * total
    }

    def step(batch: TrainingBatch, noise: Tensor, t: Tensor) -> Tensor:
        return (common if batch.images.shape[1] in counts else rare)(batch, noise, t)

    return step


def record_step(step: Step, gradient: Tensor) -> Step:
    """Return `step` as CUDA graphs; recording leaves `gradient`, to which it adds, unchanged."""
    recordings: dict[tuple[int, ...], _Recording] = {}

    def replay(batch: TrainingBatch, noise: Tensor, t: Tensor) -> Tensor:
        shape = tuple(batch.images.shape)
        if shape not in recordings:
            pool = next((r.graph.pool() for r in recordings.values()), None)
            kept = gradient.clone()
            recordings[shape] = _Recording(step, batch, noise, t, pool)
            gradient.copy_(kept)
        return recordings[shape](batch, noise, t)

    return replay


class _Recording:
    """The graph of one input shape. pool: memory that graphs share, since they run in turn."""

    def __init__(
        self, step: Step, batch: TrainingBatch, noise: Tensor, t: Tensor, pool: Any
    ) -> None:
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
        # a second thread paints at the same time: its calls must not break the recording
        with torch.cuda.graph(self.graph, pool, stream, capture_error_mode='thread_local'):
            self._losses = step(self._batch, self._noise, self._t)

    def __call__(self, batch: TrainingBatch, noise: Tensor, t: Tensor) -> Tensor:
        for name in _INPUTS:
            getattr(self._batch, name).copy_(getattr(batch, name))
        self._noise.copy_(noise)
        self._t.copy_(t)
        self.graph.replay()
        return self._losses
