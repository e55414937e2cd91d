"""Guidance on the route: velocities with and without the route text, combined by a weight.

Classifier-free guidance of Alpamayo 1.5: v = (1 - weight) * v_without + weight * v_with. The
reasoning is not guided: both passes read the tokens of the pass with the route. Both passes are
scenes of one batch and one cache, first all scenes with, then all scenes without the route.
"""

from __future__ import annotations

from einops import rearrange
import torch
from torch import Tensor

from .flow_matching import VelocityField
from .prefill import stack_prompts
from .prompt.tokens import TokenIds


def remove_route(input_ids: Tensor, ids: TokenIds) -> Tensor:
    """Prompt (1, P') without the span from the route's start to its end of a prompt (1, P).

    Raises ValueError unless the prompt has exactly one route.
    """
    row = input_ids[0]
    starts, ends = ((row == token).nonzero()[:, 0] for token in (ids.route_start, ids.route_end))
    if (len(starts), len(ends)) != (1, 1) or starts[0] > ends[0]:
        raise ValueError('guidance needs a prompt with one route text, and this prompt has none')
    kept = torch.cat([row[: int(starts[0])], row[int(ends[0]) + 1 :]])
    return rearrange(kept, 'p -> 1 p')


def build_guided_prompts(
    input_ids: Tensor, ids: TokenIds, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Ids (2 * B, P) and lengths (2 * B) for a guided prefill of prompts (B, P) with a route.

    The second half of the rows are the prompts without their routes. lengths: see `Prompt`.
    """
    sizes = [input_ids.shape[1]] * len(input_ids) if lengths is None else lengths.tolist()
    prompts = [input_ids[i : i + 1, :size] for i, size in enumerate(sizes)]
    prompts += [remove_route(prompt, ids) for prompt in prompts]
    rows, own = stack_prompts(prompts, ids.pad)
    assert own is not None  # a route has at least its two marks
    return rows, own


def guide_field(field: VelocityField, weight: float) -> VelocityField:
    """Guided velocity (R, T, 2) from a field over the 2 * R rows of a guided prompt.

    weight 1 gives the velocity with the route, 0 the one without; both passes run as one batch.
    """

    def guided(x: Tensor, t: Tensor) -> Tensor:
        with_route, without = field(x.repeat(2, 1, 1), t.repeat(2, 1, 1)).float().chunk(2)
        return (1 - weight) * without + weight * with_route

    return guided
