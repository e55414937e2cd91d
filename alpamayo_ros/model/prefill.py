"""Prefill: prompts with image features and history go through the language model into the cache.

Knows no tokenizer and no sampling. Prompts of different lengths share a batch: pads behind the
shorter ones fill cache slots that later steps do not see. Rules of the rotary positions:
docs/model.md, section 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from einops import rearrange
import torch
from torch import Tensor

from .kv_cache import KVCache
from .text import LanguageModel
from .transfers import to_device


class PrefillSteps(Protocol):
    """The two steps that prefill runs: methods of AlpamayoModel, or recorded forms of them."""

    def allocate_chunk(self, cache: KVCache, length: int) -> Tensor:
        """See AlpamayoModel."""

    def run_chunk(
        self, x: Tensor, positions: Tensor, deepstack: Iterable[Tensor], cache: KVCache
    ) -> Tensor:
        """See AlpamayoModel."""


@dataclass
class Prompt:
    """Prefilled prompts of S scenes: the cache holds them.

    length: cache slots of the longest prompt. rope_delta (S): the rotary position behind a prompt
    minus `length` (negative behind images). logits (S, vocab) float32: behind the last token of
    each prompt. lengths (S): slots of each prompt, None when all have `length`. is_guided: the
    second half of the scenes is the first half without the route (see prompt/batching.py), and its
    logits mean nothing.
    """

    cache: KVCache
    length: int
    rope_delta: Tensor
    logits: Tensor
    lengths: Tensor | None = None
    is_guided: bool = False

    @property
    def sampled_scenes(self) -> int:
        """Number of scenes whose reasoning is sampled."""
        return self.logits.shape[0] // (2 if self.is_guided else 1)


@dataclass(frozen=True)
class PromptLayout:
    """Where everything of prompts (S, P) goes, on the host: S scenes, image tokens, positions."""

    ids: Tensor
    is_image: Tensor
    feature_rows: Tensor
    positions: Tensor
    rope_delta: Tensor


def lay_out_prompts(
    input_ids: Tensor,
    image_token_id: int,
    features: int,
    grids: Sequence[tuple[int, int]],
    merge: int,
    lengths: Tensor | None = None,
) -> PromptLayout:
    """Layout of prompts input_ids (S, P) whose images have these grids.

    features: rows of the image features. When the prompts hold a multiple of that many image
    tokens, the same features serve again (a guided prompt shows the same images twice).
    """
    ids = input_ids.cpu()
    is_image = ids == image_token_id
    repeats = int(is_image.sum()) // max(features, 1)
    positions, rope_delta = compute_prompt_positions(is_image, [*grids] * repeats, merge, lengths)
    number = is_image.flatten().cumsum(0).view_as(is_image) - 1
    return PromptLayout(ids, is_image, number % max(features, 1), positions, rope_delta)


def embed_chunk(
    x: Tensor,
    layout: PromptLayout,
    chunk: slice,
    vision: tuple[Tensor, list[Tensor]],
    language: LanguageModel,
) -> Iterable[Tensor]:
    """Write text embeddings and image features of a chunk into x (S, L, H).

    Returns the deepstack features, one tensor like x per level, made when they are asked for.
    """
    embeds, levels = vision
    device, table = x.device, language.embed_tokens.weight.device
    images = layout.is_image[:, chunk]
    image_rows, text_rows = (
        to_device(rows.flatten().nonzero()[:, 0], device) for rows in (images, ~images)
    )
    rows = to_device(layout.feature_rows[:, chunk][images], device)
    # most of a prompt is images; a table on the host is read while the device works
    text = language.embed_tokens(to_device(layout.ids[:, chunk][~images], table))
    x.flatten(0, 1).index_copy_(0, text_rows, to_device(text, device))
    x.flatten(0, 1).index_copy_(0, image_rows, embeds[rows].to(x.dtype))
    return (_scatter_rows(level[rows], image_rows, x) for level in levels)  # one at a time


def keep_last_states(states: Tensor, hidden: Tensor, last: Tensor) -> Tensor:
    """Update states (S, H) with the rows of hidden (S, L, H) that a chunk has at `last` (S)."""
    inside = rearrange((last >= 0) & (last < hidden.shape[1]), 's -> s 1')
    scenes = torch.arange(len(hidden), device=hidden.device)
    found = hidden[scenes, last.clamp(0, hidden.shape[1] - 1)]
    return found if not len(states) else torch.where(inside, found, states)


def _scatter_rows(features: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """Features (n, H) at the given rows of a tensor like `like` (S, L, H), zeros elsewhere."""
    scattered = torch.zeros_like(like)
    scattered.flatten(0, 1).index_copy_(0, rows, features.to(like.dtype))
    return scattered


def compute_prompt_positions(
    is_image: Tensor, grids: Sequence[tuple[int, int]], merge: int, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Positions (3, B, P) of time, height, width and rope_delta (B) of prompts is_image (B, P).

    Text advances all three rows. An image of merged grid h x w that starts at p has T = p,
    H = p + row, W = p + column, and the text behind it continues at p + max(h, w). rope_delta: the
    position behind a prompt minus P. lengths (B): the prompts' own lengths when pads fill them up
    to P; the positions of pads mean nothing.
    """
    scenes, length = is_image.shape
    positions = torch.empty(3, scenes, length, dtype=torch.int64)
    ends = [length] * scenes if lengths is None else lengths.tolist()
    deltas = torch.empty(scenes, dtype=torch.int64)
    remaining = iter(grids)
    for scene, row in enumerate(is_image.cpu()):
        images, at, end = row.nonzero()[:, 0].tolist(), 0, 0  # the next position, and its index
        seen = 0
        while seen < len(images):
            h, w = (n // merge for n in next(remaining))
            first = images[seen]
            at += first - end
            positions[:, scene, end:first] = torch.arange(at - (first - end), at)
            places = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
            end, seen = first + h * w, seen + h * w
            positions[0, scene, first:end] = at
            for axis, place in enumerate(places, 1):
                positions[axis, scene, first:end] = place + at
            at += max(h, w)
        positions[:, scene, end:] = torch.arange(at, at + length - end)
        deltas[scene] = at + ends[scene] - end - length
    return positions.to(is_image.device), deltas.to(is_image.device)
