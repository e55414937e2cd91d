"""Qwen3-style decoder with rotary positions on three axes over a key-value cache.

Knows no vision, no tokenizer, no sampling.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from einops import rearrange
import torch
from torch import Tensor, nn

from ..kernels.attention.ops import attend, attend_causal
from ..kernels.int8.norms import add_rms_norm_int8
from ..kernels.int8.rows import Int8Rows, make_int8_rows
from ..kernels.kv_cache import rotate_into_cache
from ..kernels.norm import add_rms_norm, add_terms, rms_norm
from ..kernels.swiglu import swiglu
from .config import TextConfig
from .kv_cache import KVCache, Window

RotaryTables = tuple[Tensor, Tensor]  # cosine and sine of positions, see `compute_rotary`


class RMSNorm(nn.Module):
    """Root-mean-square norm: statistics in float32, cast back, then times the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return rms_norm(x, self.weight, self.eps)


def compute_rotary(positions: Tensor, config: TextConfig, dtype: torch.dtype) -> RotaryTables:
    """Cosine and sine (B, 1, L, head_dim) of positions (3, B, L): rows are time, height, width.

    The axes are interleaved: frequency i belongs to height if i % 3 == 1 and i < 3 * section[1],
    to width if i % 3 == 2 and i < 3 * section[2], else to time. Computed in float32, then cast.
    """
    frequency, axis = _frequencies(config, positions.device)
    position = rearrange(positions.to(torch.float32), 'axes b l -> b l axes')
    position = position[..., axis]  # each frequency takes the position of its axis
    angle = position * frequency
    angle = torch.cat([angle, angle], -1).unsqueeze(1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


@cache  # else every token would launch 17 small kernels
def _frequencies(config: TextConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Frequencies float32 and their axes int64, (head_dim / 2) each."""
    index = torch.arange(config.head_dim // 2, device=device)
    # 1 / theta^(2i/d) in this order: another rounding moves far positions by up to 3e-4 rad
    frequency = 1.0 / config.rope_theta ** (2.0 * index.to(torch.float32) / config.head_dim)
    axis = torch.zeros_like(index)
    axis[(index % 3 == 1) & (index < 3 * config.mrope_section[1])] = 1
    axis[(index % 3 == 2) & (index < 3 * config.mrope_section[2])] = 2
    return frequency, axis


def takes_int8(layer: nn.Module, x: Tensor) -> bool:
    """Whether a layer multiplies the rows of x (..., K) as int8."""
    own = getattr(layer, 'takes_int8', None)
    return own is not None and own(x.numel() // x.shape[-1])


def quantize_for(layer: nn.Module, x: Tensor) -> Tensor | Int8Rows:
    """Quantize x where a layer would: no caller then keeps the wide x, 75 MB of a prompt."""
    return make_int8_rows(x) if takes_int8(layer, x) else x


def apply_joint(x: Tensor | Int8Rows, *layers: nn.Module) -> list[Tensor]:
    """Outputs of layers that read the same x. One pass when loading gave the first a `joint`."""
    joint = getattr(layers[0], 'joint', None)
    return joint(x) if joint else [layer(x) for layer in layers]


def compute_terms(layer: nn.Module, x: Tensor | Int8Rows) -> Tensor:
    """Terms (S, ...) that add up to a layer's output. A packed layer may give more than one."""
    several = getattr(layer, 'terms', None)
    return several(x) if several else layer(x).unsqueeze(0)


class Attention(nn.Module):
    """Self-attention over the cache and the new tokens; q and k are normalised per head."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        q_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, q_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor | Int8Rows,
        cos: Tensor,
        sin: Tensor,
        cache: KVCache,
        layer: int,
        window: Window,
        last_only: bool,
    ) -> Tensor:
        """Terms (S, B, L, hidden) of the output of x (B, L, hidden), which attends to the window.

        last_only: only the output of the last token, (S, B, 1, hidden). It sees the whole window.
        """
        keys, values, scales = cache.keys[layer], cache.values[layer], cache.layer_scales(layer)
        q = rotate_into_cache(
            *apply_joint(x, self.q_proj, self.k_proj, self.v_proj),
            self.q_norm.weight,
            self.k_norm.weight,
            self.q_norm.eps,
            cos,
            sin,
            keys,
            values,
            window.slots,
            *scales,
        )
        keys, values = keys[:, :, : window.span], values[:, :, : window.span]
        seen = [None if x is None else x[:, :, : window.span] for x in scales]
        if last_only:
            out = attend(q[:, :, -1:], keys, values, None, None, *seen)
        elif window.causal:
            out = attend_causal(q, keys, values, *seen)
        else:
            out = attend(q, keys, values, window.mask, window.count, *seen)
        return compute_terms(self.o_proj, rearrange(out, 'b heads l d -> b l (heads d)'))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor | Int8Rows) -> Tensor:
        """(B, L, hidden) to terms (S, B, L, hidden) of the output."""
        joint = getattr(self.gate_proj, 'joint', None)
        inner = quantize_for(
            self.down_proj,
            joint.swiglu(x) if joint else swiglu(self.gate_proj(x), self.up_proj(x)),
        )
        return compute_terms(self.down_proj, inner)


class DecoderLayer(nn.Module):
    """Attention and MLP, each with a norm before it. `Decoder.run_layers` runs them."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """Layers and final norm: the whole action expert, and the body of the language model."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        cache: KVCache,
        window: Window,
        deepstack: Iterable[Tensor] = (),
        last_only: bool = False,
    ) -> Tensor:
        """Hidden states (B, L, hidden) of inputs x at positions (3, B, L), not yet normalised.

        x is overwritten. deepstack: one tensor of the shape and dtype of x per early layer, added
        behind that layer: features at image tokens, zeros elsewhere. It is read one at a time.
        last_only: see `run_layers`. The caller advances `cache.length` by L to keep the tokens.
        """
        at, turns = 0, compute_rotary(positions, self.config, x.dtype)
        for at, added in enumerate(deepstack, 1):
            x = self.run_layers(x, turns, cache, window, at - 1, at).add_(added)
        return self.run_layers(x, turns, cache, window, at, len(self.layers), last_only)

    def run_layers(
        self,
        x: Tensor,
        turns: RotaryTables,
        cache: KVCache,
        window: Window,
        start: int,
        stop: int,
        last_only: bool = False,
    ) -> Tensor:
        """Hidden states (B, L, hidden) behind the layers from `start` to before `stop`.

        x is overwritten. turns: `compute_rotary` of the positions of x. last_only: return only the
        state of the last token, (B, 1, hidden). The layer before `stop` then computes the keys and
        values of the other tokens and nothing else of them.
        """
        cos, sin = turns
        branch: Tensor | None = None  # the last output, not yet added: the next norm adds it
        # one function, because a caller would keep used tensors alive, 25 MB each for a prompt
        for i in range(start, stop):
            layer: Any = self.layers[i]
            last = last_only and i == stop - 1
            normed = _add_and_norm(x, branch, layer.input_layernorm, layer.self_attn.q_proj)
            branch = None
            branch = layer.self_attn(normed, cos, sin, cache, i, window, last)
            if last:
                x = x[:, -1:]
            normed = _add_and_norm(x, branch, layer.post_attention_layernorm, layer.mlp.gate_proj)
            branch = None
            branch = layer.mlp(normed)
        return x if branch is None else add_terms(x, branch)


def _add_and_norm(
    x: Tensor, branch: Tensor | None, norm: RMSNorm, reader: nn.Module
) -> Tensor | Int8Rows:
    """Add the terms of a branch, if any, to x in place, and normalise x for the layer behind."""
    if branch is None:
        normed: Tensor = norm(x)
        return normed
    if takes_int8(reader, x):
        values, scale = add_rms_norm_int8(x, branch, norm.weight, norm.eps)
        return Int8Rows(values, scale, x)
    normed = add_rms_norm(x, branch, norm.weight, norm.eps)
    return normed


class LanguageModel(Decoder):
    """Decoder with token embeddings."""

    def __init__(self, config: TextConfig, vocab_size: int) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(vocab_size, config.hidden_size)
