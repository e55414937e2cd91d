"""AdamW over all parameters as one vector, with moments in bfloat16.

One vector makes a step a few operations and a saved state a few files. Moments of 16 bits halve
that state; beta2 is 0.95 because a smaller change of the second moment would be lost in them. The
model may compute in fewer bits than the weights that are learned have.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .settings import Settings

_BETA1, _BETA2, _EPS = 0.9, 0.95, 1e-8
_LOWEST = 0.01  # of the learning rate, at the end


class AdamW:
    """The model's parameters become views of one vector of `dtype`, their gradients of another.

    weights float32, first and second bfloat16, all (parameters,): the whole state beside `step`.
    """

    def __init__(
        self, model: nn.Module, settings: Settings, dtype: torch.dtype = torch.float32
    ) -> None:
        self.settings = settings
        named = sorted(model.named_parameters(), key=lambda item: (item[1].dim() == 1, item[0]))
        parameters = [parameter for _, parameter in named]
        self.weights = torch.cat([p.detach().flatten() for p in parameters])
        self._working = self.weights.to(dtype)  # the weights themselves for float32
        self._gradient = torch.zeros_like(self._working)
        self.first = torch.zeros_like(self.weights, dtype=torch.bfloat16)
        self.second = torch.zeros_like(self.first)
        self._matrices = sum(p.numel() for p in parameters if p.dim() > 1)  # these come first
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.data = self._working[start:end].view_as(parameter)
            parameter.grad = self._gradient[start:end].view_as(parameter)
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

    @torch.no_grad()
    def update(self, step: int) -> Tensor:
        """One step with the gradients at hand, which are zero again afterwards; their norm."""
        rate, gradient = self.learning_rate(step), self._gradient.to(torch.float32)
        norm = gradient.norm()
        gradient.mul_((self.settings.clip / (norm + 1e-6)).clamp(max=1.0))
        first = self.first.to(torch.float32).lerp_(gradient, 1 - _BETA1)
        second = self.second.to(torch.float32).lerp_(gradient.square(), 1 - _BETA2)
        self.first.copy_(first)
        self.second.copy_(second)
        root = second.div_(1 - _BETA2 ** (step + 1)).sqrt_().add_(_EPS)
        self.weights[: self._matrices].mul_(1 - rate * self.settings.weight_decay)
        self.weights.addcdiv_(first, root, value=-rate / (1 - _BETA1 ** (step + 1)))
        self._gradient.zero_()
        self.spread()
        return norm
