"""The optimizer over all parameters as one vector: Muon for hidden matrices, AdamW for the rest.

One vector makes a step a few operations and a saved state a few files. Moments of 16 bits halve
that state; beta2 is 0.95 because a smaller change of the second moment would be lost in them. The
model may compute in fewer bits than the weights that are learned have. Muon (Jordan et al. 2024)
replaces the step of a matrix by the nearest one with equal singular values; its length is that of
AdamW's steps (Liu et al. 2025, "Muon is scalable for LLM training"), so both share a rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
import math

import torch
from torch import Tensor, nn

from .settings import TrainingSettings

_BETA1, _BETA2, _EPS = 0.9, 0.95, 1e-8
_MOMENTUM = 0.95  # of Muon
_STEP_RMS = 0.2  # root mean square of AdamW's steps, in learning rates
_QUINTIC = (3.4445, -4.775, 2.0315)  # takes singular values of 0.01 to 1 to 0.7 to 1.2
_ITERATIONS = 5
_LOWEST = 0.01  # of the learning rate, at the end
_HIDDEN = ('.layers.', '.blocks.', 'merger')


class Optimizer:
    """The model's parameters become views of one vector of `dtype`, their gradients of another.

    weights float32, first and second bfloat16, all (parameters,): the whole state beside `step`.
    The vector begins with the hidden matrices, equal shapes together, then come other matrices,
    then what is not decayed.
    """

    def __init__(
        self, model: nn.Module, settings: TrainingSettings, dtype: torch.dtype = torch.float32
    ) -> None:
        self.settings = settings
        named = sorted(model.named_parameters(), key=_place)
        parameters = [parameter for _, parameter in named]
        self.weights = torch.cat([p.detach().flatten() for p in parameters])
        self._working = self.weights.to(dtype)  # the weights themselves for float32
        self.gradient = torch.zeros_like(self._working)
        self.first = torch.zeros_like(self.weights, dtype=torch.bfloat16)
        self.second = torch.zeros_like(self.first)
        self._matrices = sum(p.numel() for p in parameters if p.dim() > 1)
        shapes = [tuple(p.shape) for name, p in named if _is_hidden(name, p)]
        self._groups = [(len(list(same)), *shape) for shape, same in groupby(shapes)]
        self._hidden = sum(math.prod(group) for group in self._groups)
        # learning rate and both corrections for the first steps, where a recording reads them
        self._numbers = torch.zeros(3, device=self.weights.device)
        self._recorded: torch.cuda.CUDAGraph | None = None
        self._norm: Tensor | None = None
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.data = self._working[start:end].view_as(parameter)
            parameter.grad = self.gradient[start:end].view_as(parameter)
            start = end

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to almost nothing."""
        settings = self.settings
        if step < settings.warmup:
            return settings.learning_rate * (step + 1) / settings.warmup
        share = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
        cosine = (1 + math.cos(math.pi * min(share, 1.0))) / 2
        return settings.learning_rate * (_LOWEST + (1 - _LOWEST) * cosine)

    def spread(self) -> None:
        """Let the model have the weights as they are now."""
        if self._working is not self.weights:
            self._working.copy_(self.weights)

    def update(self, step: int) -> Tensor:
        """One step with the gradients at hand, which are zero again afterwards; their norm.

        On a GPU the second one is recorded: hundreds of small kernels otherwise wait for Python.
        """
        corrections = 1 - _BETA1 ** (step + 1), 1 - _BETA2 ** (step + 1)
        numbers = torch.tensor([self.learning_rate(step), *corrections])
        if not self._numbers.is_cuda:
            self._numbers.copy_(numbers)
            return self._update()
        self._numbers.copy_(numbers.pin_memory(), non_blocking=True)
        if self._norm is None:  # kernels are compiled and workspaces allocated
            self._norm = self._update()
            return self._norm
        if self._recorded is None:
            self._recorded = torch.cuda.CUDAGraph()
            # another thread paints meanwhile: its calls must not break the recording
            with torch.cuda.graph(self._recorded, capture_error_mode='thread_local'):
                self._norm = self._update()
        self._recorded.replay()
        return self._norm

    @torch.no_grad()
    def _update(self) -> Tensor:
        """One step; what changes from step to step is read from _numbers."""
        rate, gradient = self._numbers[0], self.gradient.to(torch.float32)
        norm = gradient.norm()
        gradient.mul_((self.settings.clip / (norm + 1e-6)).clamp(max=1.0))
        self.weights[: self._matrices].mul_(1 - rate * self.settings.weight_decay)
        self._turn(rate, gradient[: self._hidden])
        self._scale(rate, gradient[self._hidden :])
        self.gradient.zero_()
        self.spread()
        return norm

    def _turn(self, rate: Tensor, gradient: Tensor) -> None:
        """Muon, with Nesterov's momentum; the gradient is used up."""
        first = self.first[: self._hidden]
        momentum = first.to(torch.float32).lerp_(gradient, 1 - _MOMENTUM)
        first.copy_(momentum)
        ahead = gradient.lerp_(momentum, _MOMENTUM)
        for weights, step in zip(self._split(self.weights), self._split(ahead), strict=True):
            length = _STEP_RMS * max(step.shape[1:]) ** 0.5
            weights.sub_(orthogonal(step) * (rate * length))

    def _scale(self, rate: Tensor, gradient: Tensor) -> None:
        """AdamW for what is behind the hidden matrices."""
        behind = slice(self._hidden, None)
        first = self.first[behind].to(torch.float32).lerp_(gradient, 1 - _BETA1)
        second = self.second[behind].to(torch.float32).lerp_(gradient.square(), 1 - _BETA2)
        self.first[behind].copy_(first)
        self.second[behind].copy_(second)
        root = second.div_(self._numbers[2]).sqrt_().add_(_EPS)
        self.weights[behind].sub_(first.div_(root).mul_(rate / self._numbers[1]))

    def _split(self, vector: Tensor) -> Iterator[Tensor]:
        """Views (n, rows, columns) of the hidden matrices, n of one shape."""
        start = 0
        for group in self._groups:
            end = start + math.prod(group)
            yield vector[start:end].view(group)
            start = end


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (n, rows, columns) with their singular values near one, in bfloat16.

    A polynomial in X X^T, iterated: it is applied to all singular values alike.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices.to(torch.bfloat16) if wide else matrices.mT.to(torch.bfloat16)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.mT


def _is_hidden(name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() == 2 and any(part in name for part in _HIDDEN)


def _place(item: tuple[str, nn.Parameter]) -> tuple[int, tuple[int, ...], str]:
    name, parameter = item
    kind = 0 if _is_hidden(name, parameter) else 1 if parameter.dim() > 1 else 2
    return kind, tuple(parameter.shape) if kind == 0 else (), name
