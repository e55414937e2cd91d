"""The losses of a batch: cross-entropy of the reasoning and three errors of the velocity field.

Flow matching as in docs/model.md: t = 0.999 * (1 - Beta(1.5, 1)), input t * x1 + (1 - t) * noise,
target x1 - noise. The second error is that of the running sums over the waypoints, the third is
how far aside they lead. All have the same minimum, but the second weighs a lasting error more than
one that changes its sign, and the third weighs the curvature of fast vehicles: at 19 m/s an error
leaves the lane that does not show at 5 m/s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
import torch.nn.functional as F

from alpamayo_ros.data_types import GRID_S
from alpamayo_ros.model.action_space import UnicycleAccelCurvatureActionSpace
from alpamayo_ros.model.alpamayo import AlpamayoModel
from alpamayo_ros.model.flow_matching import make_training_pair
from alpamayo_ros.model.teacher_forcing import (
    Batch,
    Passes,
    predict_velocities,
    run_language_model,
)

from .batches import TrainingBatch
from .settings import TrainingSettings

_MAX_TIME, _BETA = 0.999, 1.5


@dataclass(frozen=True)
class Losses:
    """Means over the batch: cross-entropy per token, squared error per action value.

    path: squared running sum of the errors over the number of its waypoints; equals `flow` in
    expectation if the errors are white. aside: squared way aside that the errors lead, m^2.
    """

    language: Tensor
    flow: Tensor
    path: Tensor
    aside: Tensor

    def weigh(self, settings: TrainingSettings) -> Tensor:
        """Return the weighted sum that training minimizes."""
        flow = self.flow + settings.path_weight * self.path
        flow = flow + settings.aside_weight * self.aside
        return flow + settings.language_weight * self.language


def draw_times(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw times on the generator's device; Beta(a, 1) is a uniform number to the power 1 / a."""
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    return _MAX_TIME * (1 - uniform ** (1 / _BETA))


def draw_noise(batch: Batch, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw noise (B, K, T, 2) and times (B, K); K is `count`."""
    shape = (len(batch.actions), count)
    waypoints = batch.actions.shape[1:]
    noise = torch.randn((*shape, *waypoints), generator=generator, device=generator.device)
    return noise, draw_times(shape, generator)


def compute_losses(
    model: AlpamayoModel,
    batch: TrainingBatch,
    noise: Tensor,
    t: Tensor,
    passes: Passes | None = None,
) -> Losses:
    """Return the losses of a batch with the noise and times of `draw_noise`."""
    logits, prefix = run_language_model(model, batch, passes)
    x, target = make_training_pair(batch.actions.unsqueeze(1), noise, t[..., None, None])
    error = predict_velocities(model, prefix, x, t, passes) - target
    count = torch.arange(1, error.shape[-2] + 1, device=error.device).unsqueeze(-1)
    path = (error.cumsum(-2).square() / count).mean()
    aside = measure_aside(model.action_space, error[..., 1], batch.speeds.unsqueeze(1))
    parts = error.square().mean(), path, aside.square().mean()
    return Losses(compute_language_loss(logits, batch), *parts)


def measure_aside(
    space: UnicycleAccelCurvatureActionSpace, error: Tensor, speeds: Tensor
) -> Tensor:
    """Return how far aside (..., T) m errors of the normalized curvature (..., T) lead.

    speeds (..., T) m/s. To first order: the errors turn the path by small angles.
    """
    steps = speeds * GRID_S
    turned = (error * space.curvature_std * steps).cumsum(-1)
    return (turned * steps).cumsum(-1)


def compute_language_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of the tokens that the model writes; logits (B, N, vocab)."""
    wanted = batch.rest.masked_fill(~batch.written, -100).flatten()
    total = F.cross_entropy(logits.flatten(0, 1), wanted, reduction='sum')
    return total / batch.written.sum().clamp(min=1)  # a batch may be without reasoning
