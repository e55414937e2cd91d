"""Draws the next token from logits: mask, temperature, top-k, top-p, as the reference does.

Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...data_types import SamplingOptions
from ..prompt.tokens import TokenIds

FEW_ROWS = 16  # a GPU sums the rows of a draw one by one up to this number

Generators = torch.Generator | Sequence[torch.Generator]


def sample_token(
    logits: Tensor,
    ids: TokenIds,
    options: SamplingOptions,
    generator: Generators | None = None,
    hide_discrete: bool = True,
) -> Tensor:
    """Next tokens (B, K) from logits (B, K, vocab): mask, temperature, top-k, top-p, draw.

    hide_discrete: never draw discrete trajectory tokens; the reference hides them in reasoning,
    not in answers. Greedy means argmax. generator: one for all scenes, or one for each scene, so
    that its draws do not depend on the others. Logits that are not finite give meaningless draws;
    generate_reasoning raises for them.
    """
    logits = logits.to(torch.float32).clone()
    if hide_discrete:
        logits[..., ids.discrete_start : ids.discrete_end] = -torch.inf
    if options.greedy:
        return logits.argmax(-1)
    logits = logits / options.temperature
    if options.top_k > 0:
        floor = logits.topk(min(options.top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    # weights in proportion to the probabilities are enough for a draw: a softmax over one row of
    # the whole vocabulary leaves most of a GPU idle
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    if options.top_p < 1:
        ordered, order = weights.sort()
        sums = _running_sums(ordered)
        below = sums <= (1 - options.top_p) * sums[..., -1:]
        below[..., -1] = False  # the likeliest token always stays
        weights = weights.masked_fill(below.scatter(-1, order, below), 0.0)
    if isinstance(generator, Sequence):
        return torch.stack([_draw(w, g) for w, g in zip(weights, generator, strict=True)])
    return _draw(weights, generator)


def _running_sums(x: Tensor) -> Tensor:
    """Cumulative sums (..., n) of x."""
    if not x.is_cuda or x.numel() > FEW_ROWS * x.shape[-1]:
        return x.cumsum(-1)
    sums = torch.empty_like(x)  # a GPU sums six rows 40 times as slowly as one alone
    for row, out in zip(x.flatten(0, -2), sums.flatten(0, -2), strict=True):
        torch.cumsum(row, 0, out=out)
    return sums


def _draw(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """Indices (...) drawn in proportion to weights (..., n), as torch.multinomial draws them.

    torch.multinomial also checks its input: that takes as long as the draw, and a check that fails
    ends the context of a GPU.
    """
    return (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax(-1)
