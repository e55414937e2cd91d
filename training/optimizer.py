"""The optimizer: Muon for hidden matrices, AdamW for the rest, over all parameters as one vector.

One vector makes an update a few operations and a saved state a few files. The moments are bfloat16
to halve the state; beta2 is 0.95, since bfloat16 would lose smaller changes of the second moment.
The learned weights are float32, while the model may compute in bfloat16. Muon (Jordan et al. 2024)
replaces the step of a matrix by the nearest one with equal singular values and gives it the length
of AdamW's steps (Liu et al. 2025, "Muon is scalable for LLM training"), so both share a rate.

The plain twins are torch.optim.Muon (torch 2.9) and AdamW; a test compares them. torch's Muon
takes one matrix after the other and reads the rate on the host, so a CUDA graph cannot hold it: an
update of 100 matrices takes 45 ms on an H200, this one 1.3 ms, and a whole step 37 ms.
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
_QUINTIC = (3.4445, -4.775, 2.0315)  # maps singular values of 0.01 ... 1 to 0.7 ... 1.2
_ITERATIONS = 5
_FINAL_SHARE = 0.01  # of the learning rate, at the last step
_HIDDEN = ('.layers.', '.blocks.', 'merger')


class Optimizer:
    """Makes the model's parameters views of one vector of `dtype`, their gradients of another.

    weights float32, first and second bfloat16, all (parameters,): the whole state beside the step.
    The vector starts with the hidden matrices, equal shapes together; other matrices follow, then
    all parameters without weight decay.
    """

    def __init__(
        self, model: nn.Module, settings: TrainingSettings, dtype: torch.dtype = torch.float32
    ) -> None:
        self.settings = settings
        named = sorted(model.named_parameters(), key=_sort_key)
        parameters = [parameter for _, parameter in named]
        self.weights = torch.cat([p.detach().flatten() for p in parameters])
        self._working = self.weights.to(dtype)  # the weights themselves for float32
        self.gradient = torch.zeros_like(self._working)
        self.first = torch.zeros_like(self.weights, dtype=torch.bfloat16)
        self.second = torch.zeros_like(self.first)
        self._matrices = sum(p.numel() for p in parameters if p.dim() > 1)
        shapes = [tuple(p.shape) for name, p in named if is_hidden(name, p)]
        self._groups = [(len(list(same)), *shape) for shape, same in groupby(shapes)]
        self._hidden = sum(math.prod(group) for group in self._groups)
        # learning rate and both bias corrections, where a CUDA graph reads them
        self._numbers = torch.zeros(3, device=self.weights.device)
        self._recorded: torch.cuda.CUDAGraph | None = None
        self._norm: Tensor | None = None
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.data = self._working[start:end].view_as(parameter)
            parameter.grad = self.gradient[start:end].view_as(parameter)
            start = end

    def compute_learning_rate(self, step: int) -> float:
        """Return the rate of a step: linear warm-up, then a cosine down to one percent."""
        settings = self.settings
        if step < settings.warmup:
            return settings.learning_rate * (step + 1) / settings.warmup
        share = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
        cosine = (1 + math.cos(math.pi * min(share, 1.0))) / 2
        return settings.learning_rate * (_FINAL_SHARE + (1 - _FINAL_SHARE) * cosine)

    def copy_to_model(self) -> None:
        """Copy the learned weights to the parameters of the model."""
        if self._working is not self.weights:
            self._working.copy_(self.weights)

    def update(self, step: int) -> Tensor:
        """Update the weights, set the gradients to zero and return the norm they had.

        On a GPU the second call records a CUDA graph: launching hundreds of small kernels from
        Python would take longer than running them.
        """
        corrections = 1 - _BETA1 ** (step + 1), 1 - _BETA2 ** (step + 1)
        numbers = torch.tensor([self.compute_learning_rate(step), *corrections])
        if not self._numbers.is_cuda:
            self._numbers.copy_(numbers)
            return self._update()
        self._numbers.copy_(numbers.pin_memory(), non_blocking=True)
        if self._norm is None:  # the first call compiles kernels and allocates workspaces
            self._norm = self._update()
            return self._norm
        if self._recorded is None:
            self._recorded = torch.cuda.CUDAGraph()
            # a second thread paints at the same time: its calls must not break the recording
            with torch.cuda.graph(self._recorded, capture_error_mode='thread_local'):
                self._norm = self._update()
        self._recorded.replay()
        return self._norm

    @torch.no_grad()
    def _update(self) -> Tensor:
        """Run one update; it reads all that changes between steps from _numbers."""
        rate, gradient = self._numbers[0], self.gradient.to(torch.float32)
        norm = gradient.norm()
        gradient.mul_((self.settings.clip / (norm + 1e-6)).clamp(max=1.0))
        self.weights[: self._matrices].mul_(1 - rate * self.settings.weight_decay)
        self._step_muon(rate, gradient[: self._hidden])
        self._step_adamw(rate, gradient[self._hidden :])
        self.gradient.zero_()
        self.copy_to_model()
        return norm

    def _step_muon(self, rate: Tensor, gradient: Tensor) -> None:
        """Update the hidden matrices by Muon with Nesterov momentum; overwrites the gradient."""
        first = self.first[: self._hidden]
        momentum = first.to(torch.float32).lerp_(gradient, 1 - _MOMENTUM)
        first.copy_(momentum)
        ahead = gradient.lerp_(momentum, _MOMENTUM)
        for weights, step in zip(
            self._split_matrices(self.weights), self._split_matrices(ahead), strict=True
        ):
            length = _STEP_RMS * max(step.shape[1:]) ** 0.5
            weights.sub_(orthogonalize(step) * (rate * length))

    def _step_adamw(self, rate: Tensor, gradient: Tensor) -> None:
        """Update all other parameters by AdamW."""
        others = slice(self._hidden, None)
        first = self.first[others].to(torch.float32).lerp_(gradient, 1 - _BETA1)
        second = self.second[others].to(torch.float32).lerp_(gradient.square(), 1 - _BETA2)
        self.first[others].copy_(first)
        self.second[others].copy_(second)
        root = second.div_(self._numbers[2]).sqrt_().add_(_EPS)
        self.weights[others].sub_(first.div_(root).mul_(rate / self._numbers[1]))

    def _split_matrices(self, vector: Tensor) -> Iterator[Tensor]:
        """Yield views (n, rows, columns) of the hidden matrices, one for each shape."""
        start = 0
        for group in self._groups:
            end = start + math.prod(group)
            yield vector[start:end].view(group)
            start = end


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return matrices (n, rows, columns) bfloat16 with the same singular vectors, values near one.

    Iterates an odd quintic polynomial, which acts on each singular value alone.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices.to(torch.bfloat16) if wide else matrices.mT.to(torch.bfloat16)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.mT


def is_hidden(name: str, parameter: nn.Parameter) -> bool:
    """Return whether Muon updates this parameter: a matrix of a layer, block or merger."""
    return parameter.dim() == 2 and any(part in name for part in _HIDDEN)


def _sort_key(item: tuple[str, nn.Parameter]) -> tuple[int, tuple[int, ...], str]:
    name, parameter = item
    kind = 0 if is_hidden(name, parameter) else 1 if parameter.dim() > 1 else 2
    return kind, tuple(parameter.shape) if kind == 0 else (), name
