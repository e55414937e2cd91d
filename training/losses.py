"""What a batch costs: the reasoning's tokens, and the velocity field.

Flow matching as the alpamayo-r1 specification has it (section 8): t = 0.999 * (1 - Beta(1.5, 1)),
input t * x1 + (1 - t) * noise, target x1 - noise. Beside the plain squared error stands that of
the running sums over the waypoints: the best field is the same one, but an error that lasts, which
is what moves a path aside, weighs more than one that changes its sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
import torch.nn.functional as F

from alpamayo_ros.model.alpamayo import AlpamayoR1
from alpamayo_ros.model.flow_matching import training_pair

from .forward import Batch, Passes, read, velocities
from .settings import TrainingSettings

_LATEST, _BETA = 0.999, 1.5


@dataclass(frozen=True)
class Losses:
    """Means over the batch: cross-entropy per token, squared error per action value.

    path: squared running sum of the errors, per waypoint in the sum; like `flow` for white errors.
    """

    language: Tensor
    flow: Tensor
    path: Tensor

    def total(self, settings: TrainingSettings) -> Tensor:
        """What is minimised."""
        flow = self.flow + settings.path_weight * self.path
        return flow + settings.language_weight * self.language


def flow_times(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Times of `shape`, on the generator's device; Beta(a, 1) is a uniform number to 1 / a."""
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    return _LATEST * (1 - uniform ** (1 / _BETA))


def draws(batch: Batch, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noises (B, K, T, 2) and times (B, K), `count` for each scene of a batch."""
    shape = (len(batch.actions), count)
    waypoints = batch.actions.shape[1:]
    noise = torch.randn((*shape, *waypoints), generator=generator, device=generator.device)
    return noise, flow_times(shape, generator)


def losses(
    model: AlpamayoR1, batch: Batch, noise: Tensor, t: Tensor, passes: Passes | None = None
) -> Losses:
    """Losses of a batch with the noises and times of `draws`."""
    logits, prefix = read(model, batch, passes)
    x, target = training_pair(batch.actions.unsqueeze(1), noise, t[..., None, None])
    error = velocities(model, prefix, x, t, passes) - target
    count = torch.arange(1, error.shape[-2] + 1, device=error.device).unsqueeze(-1)
    path = (error.cumsum(-2).square() / count).mean()
    return Losses(language_loss(logits, batch), error.square().mean(), path)


def language_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of the reasoning's tokens up to the marker, logits (B, N, vocab)."""
    index = torch.arange(logits.shape[1], device=logits.device)
    ignored = index > batch.marker.unsqueeze(-1)
    wanted = batch.reasoning.masked_fill(ignored, -100)
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
