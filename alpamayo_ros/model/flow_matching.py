"""Flow matching: Gaussian noise to an action by Euler steps of a velocity field.

Convention (docs/model.md, section 8): t = 0 is noise, t = 1 is data. Knows no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

VelocityField = Callable[[Tensor, Tensor], Tensor]


class FlowMatching:
    """Euler sampler with evenly spaced times. The state is float32, whatever dtype v has."""

    def __init__(self, num_inference_steps: int = 10, int_method: str = 'euler') -> None:
        if int_method != 'euler':
            raise ValueError(f'int_method={int_method!r} is not one of: euler')
        self.num_inference_steps = num_inference_steps

    def iterate_steps(
        self,
        noise: Tensor,
        field: VelocityField,
        num_steps: int | None = None,
        temperature: float = 1.0,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (x, t, v) of each step: v = field(x, t), x (R, T, 2), t (R, 1, 1) at its start.

        The first x is temperature times the noise. The state after the last step is
        x + v / num_steps, see `sample`.
        """
        times = self.list_times(num_steps, noise.device)
        x = noise.to(torch.float32) * temperature
        for t, dt in zip(times[:-1], times.diff(), strict=True):
            t_rows = t.expand(x.shape[0], 1, 1)
            v = field(x, t_rows).to(torch.float32)  # bf16 times a 0-d dt would stay bf16
            yield x, t_rows, v
            x = x + dt * v

    def sample(
        self,
        noise: Tensor,
        field: VelocityField,
        num_steps: int | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Data (R, T, 2) float32 from noise of the same shape; temperature: see iterate_steps."""
        times = self.list_times(num_steps, noise.device)
        x = noise
        for x, _, v in self.iterate_steps(noise, field, num_steps, temperature):  # noqa: B007
            pass  # x and v of the last step
        return x + (times[-1] - times[-2]) * v

    def list_times(self, num_steps: int | None, device: torch.device | str = 'cpu') -> Tensor:
        """Times (steps + 1) from 0 to 1. None stands for the number of steps in the checkpoint."""
        count = self.num_inference_steps if num_steps is None else num_steps
        if count < 1:
            raise ValueError(f'flow steps must be at least 1, not {count}')
        return torch.linspace(0.0, 1.0, count + 1, device=device)


def guide_field(field: VelocityField, weight: float) -> VelocityField:
    """Guided velocity (R, T, 2) from a field over the 2 * R rows of a guided prompt.

    Classifier-free guidance: v = (1 - weight) * v_without + weight * v_with the route. Both passes
    run as one batch. The reasoning is not guided: both read the tokens of the pass with the route.
    """

    def guided(x: Tensor, t: Tensor) -> Tensor:
        with_route, without = field(x.repeat(2, 1, 1), t.repeat(2, 1, 1)).float().chunk(2)
        return (1 - weight) * without + weight * with_route

    return guided


def make_training_pair(x: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy input t*x + (1-t)*noise and its velocity target x - noise. t has shape (R, 1, 1)."""
    return t * x + (1 - t) * noise, x - noise
