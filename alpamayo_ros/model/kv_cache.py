"""The preallocated cache of keys and values, and which of its slots new tokens see.

One cache row holds one scene: the prompt once, then the tokens of its K samples interleaved step
by step, so that samples share the prompt without a copy.
"""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
import torch
from torch import Tensor

from .config import TextConfig


@dataclass(frozen=True)
class Window:
    """The cache slots that L new tokens are written to, and the slots that they see.

    slots (L) int64. span: attention reads the first `span` slots. mask: bool (L, span) or
    (B, 1, L, span), True where visible; None means that every slot is visible. causal: each new
    token sees itself and the slots before it, and there is no mask. count: int64 () in place of a
    mask: every new token sees the first `count` slots. Offsets may be tensors on the device: then
    one recorded CUDA graph serves every prompt length, and span is the capacity.
    """

    slots: Tensor
    span: int
    mask: Tensor | None = None
    causal: bool = False
    count: Tensor | None = None


class KVCache:
    """Keys (post-rotary) and values of all layers, allocated once.

    keys, values: (layers, scenes, kv heads, capacity, head_dim). With `bits` 8 they are int8 and
    have key_scales and value_scales (layers, scenes, kv heads, capacity), else None: one for each
    token and head. dtype: of the numbers that they stand for. The first `length` slots are in use.
    The caller advances `length`; a flow step does not, so every step overwrites the keys of
    the step before. The prompts take the first slots, and a prompt that is shorter than the
    longest leaves unused slots behind it. After the prompts, decode step i of K samples takes K
    slots, the r-th for sample r: slot s belongs to sample (s - prompt) % K.
    """

    def __init__(
        self,
        config: TextConfig,
        scenes: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device | str,
        bits: int = 16,
    ) -> None:
        shape = (
            config.num_hidden_layers,
            scenes,
            config.num_key_value_heads,
            capacity,
            config.head_dim,
        )
        self.dtype, self.capacity, self.length = dtype, capacity, 0
        stored = torch.int8 if bits == 8 else dtype
        self.keys = torch.zeros(shape, dtype=stored, device=device)
        self.values = torch.zeros(shape, dtype=stored, device=device)
        self.key_scales = self.value_scales = None
        if bits == 8:
            self.key_scales = torch.zeros(shape[:-1], dtype=dtype, device=device)
            self.value_scales = torch.zeros(shape[:-1], dtype=dtype, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, with their scales."""
        parts = self.keys, self.values, self.key_scales, self.value_scales
        return sum(part.nbytes for part in parts if part is not None)

    def layer_scales(self, layer: int) -> tuple[Tensor | None, Tensor | None]:
        """Scales of keys and values (scenes, kv heads, capacity) of a layer, if there are any."""
        if self.key_scales is None or self.value_scales is None:
            return None, None
        return self.key_scales[layer], self.value_scales[layer]

    def clear(self) -> None:
        """Empty the cache. Zeros, because a NaN spreads even from a masked slot."""
        for part in (self.keys, self.values, self.key_scales, self.value_scales):
            if part is not None:
                part.zero_()
        self.length = 0


def build_prompt_window(length: int, past: int, device: torch.device | str) -> Window:
    """The next `length` prompt tokens behind `past` ones: each sees itself and those before."""
    slots = torch.arange(past, past + length, device=device)
    return Window(slots, past + length, causal=True)


def build_decode_window(
    prompt: int | Tensor,
    used: int | Tensor,
    samples: int,
    span: int,
    device: torch.device | str,
    lengths: Tensor | None = None,
    tokens: int = 1,
) -> Window:
    """So many more tokens of each sample behind `used` slots, step by step.

    A token sees the prompt, and its own sample up to itself. Slots behind the prompt are
    interleaved (see KVCache). lengths (B): see `Prompt.lengths`. No mask is needed for one token
    of a single sample that sees every slot of the span.
    """
    query = torch.arange(samples * tokens, device=device)
    slots = query + used
    if len(query) == 1 and lengths is None and isinstance(used, int) and span == used + 1:
        return Window(slots, span)
    if len(query) == 1 and lengths is None:
        return Window(slots, span, count=slots[0] + 1)
    slot = torch.arange(span, device=device)
    own = (slot - prompt) % samples == (query % samples).unsqueeze(-1)
    own &= slot <= slots.unsqueeze(-1)
    if lengths is None:
        return Window(slots, span, (slot < prompt) | own)
    own &= slot >= prompt
    in_prompt = slot < rearrange(lengths, 'b -> b 1 1')
    return Window(slots, span, rearrange(in_prompt | own, 'b q span -> b 1 q span'))
