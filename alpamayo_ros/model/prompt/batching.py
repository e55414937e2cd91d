"""Prompts of several scenes as one batch, and the pairs of prompts that guidance needs.

Guidance of Alpamayo 1.5 runs the model with and without the route text: scenes of one batch, first
all with, then all without the route. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from einops import rearrange
import torch
from torch import Tensor
import torch.nn.functional as F

from ...errors import BadInput
from .tokens import TokenIds


@dataclass(frozen=True)
class PromptBatch:
    """Prompts for a prefill: ids (S, P) on the host; lengths (S) and is_guided as in `Prompt`."""

    ids: Tensor
    lengths: Tensor | None = None
    is_guided: bool = False


def batch_prompts(prompts: Sequence[Tensor], ids: TokenIds, is_guided: bool) -> PromptBatch:
    """Batch of prompts (1, P_i). With guidance each stands there twice, the second without route.

    Raises BadInput for a guided prompt without a route.
    """
    rows, lengths = stack_prompts(prompts, ids.pad)
    if not is_guided:
        return PromptBatch(rows, lengths)
    return PromptBatch(*build_guided_prompts(rows, ids, lengths), is_guided)


def stack_prompts(prompts: Sequence[Tensor], pad: int) -> tuple[Tensor, Tensor | None]:
    """Ids (B, P) of prompts (1, P_i) with pads behind the shorter ones, and their lengths (B).

    The lengths are None when all prompts have the same.
    """
    sizes = [ids.shape[1] for ids in prompts]
    longest = max(sizes)
    rows = [
        F.pad(ids, (0, longest - size), value=pad)
        for ids, size in zip(prompts, sizes, strict=True)
    ]
    lengths = None if min(sizes) == longest else torch.tensor(sizes)
    return torch.cat(rows), lengths


def remove_route(input_ids: Tensor, ids: TokenIds) -> Tensor:
    """Prompt (1, P') without the span from the route's start to its end of a prompt (1, P).

    Raises BadInput unless the prompt has exactly one route.
    """
    row = input_ids[0]
    starts, ends = ((row == token).nonzero()[:, 0] for token in (ids.route_start, ids.route_end))
    if (len(starts), len(ends)) != (1, 1) or starts[0] > ends[0]:
        raise BadInput('guidance needs a prompt with one route text, and this prompt has none')
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
