"""The model with known answers, differentiable: the same computation as the rollout's.

The package's kernels have no gradients and write into a cache; here prompt and reasoning go
through in one pass, and the expert reads its keys and values. Knows no losses and no files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
import torch.nn.functional as F

from alpamayo_ros.kernels.attention import attend_causal, attend_plain
from alpamayo_ros.model.action_expert import PerWaypointActionInProjV2, expert_positions
from alpamayo_ros.model.alpamayo import AlpamayoR1, prompt_positions
from alpamayo_ros.model.config import AlpamayoConfig
from alpamayo_ros.model.image_processor import to_patches
from alpamayo_ros.model.text import Attention, Decoder, RMSNorm, rotary

Deepstack = tuple[Tensor, list[Tensor]]  # columns, and what each early layer adds there
Grid = tuple[int, int]  # height and width in patches


@dataclass(frozen=True)
class Layout:
    """Where the tokens of prompts with the same cameras stand.

    image_columns: of the prompt, in order. positions (3, 1, P + N) and rope_delta (1,): see
    alpamayo.prompt_positions.
    """

    image_columns: Tensor
    positions: Tensor
    rope_delta: Tensor


@dataclass(frozen=True)
class Batch:
    """B scenes with the same cameras.

    images (B, I, 3, H, W) uint8: cameras by ascending index, oldest frame first, of the model's
    size. prompt (B, P): ids with history written in. reasoning (B, N): ids up to the trajectory
    marker, whose index is marker (B), then pads. actions (B, T, 2): normalised.
    """

    layout: Layout
    images: Tensor
    prompt: Tensor
    reasoning: Tensor
    marker: Tensor
    actions: Tensor


@dataclass(frozen=True)
class Prefix:
    """Prompt and reasoning as the expert reads them: per layer keys and values (B, kv, S, d).

    offset (B): index of the first waypoint, behind the marker; nothing from there on is seen, so
    padding may follow. rope_delta (B).
    """

    keys: list[Tensor]
    values: list[Tensor]
    offset: Tensor
    rope_delta: Tensor


@dataclass(frozen=True)
class Past:
    """What new tokens see: per layer earlier keys and values (B, kv, S, d), and themselves.

    mask: bool (B, 1, L, S + L), True where visible.
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor


@dataclass(frozen=True)
class Passes:
    """The two passes that take the time: `encode` and `decode` of this module, or faster ones."""

    encode: Callable[[AlpamayoR1, Tensor], tuple[Tensor, list[Tensor]]]
    decode: Callable[
        [Decoder, Tensor, Tensor, Past | None, Deepstack | None],
        tuple[Tensor, list[Tensor], list[Tensor]],
    ]


def layout_of(config: AlpamayoConfig, prompt: Tensor, grid: Grid, tokens: int) -> Layout:
    """Layout of prompts like this one (P) with images of one grid, and `tokens` behind it."""
    is_image = prompt == config.image_token_id
    merge = config.vision.spatial_merge_size
    grids = [grid] * (int(is_image.sum()) * merge**2 // (grid[0] * grid[1]))
    positions, delta = prompt_positions(is_image.unsqueeze(0), grids, merge)
    behind = torch.arange(len(prompt), len(prompt) + tokens) + delta
    positions = torch.cat([positions, behind.expand(3, 1, -1)], 2)
    return Layout(is_image.nonzero()[:, 0], positions, delta)


def read(model: AlpamayoR1, batch: Batch, passes: Passes | None = None) -> tuple[Tensor, Prefix]:
    """Logits (B, N, vocab) of the reasoning's tokens, and what the expert reads."""
    run = passes or _PLAIN
    embeds, levels = run.encode(model, batch.images)
    language, layout = model.vlm.model.language_model, batch.layout
    where, length = layout.image_columns, batch.prompt.shape[1]
    x = language.embed_tokens(torch.cat([batch.prompt, batch.reasoning], 1))
    x = x.index_copy(1, where, _by_scene(embeds, x))
    deepstack = (where, [_by_scene(level, x) for level in levels])
    x, keys, values = run.decode(language, x, layout.positions, None, deepstack)
    logits = model.vlm.lm_head(_norm(language.norm, x[:, length - 1 : -1]))
    offset = length + batch.marker + 1
    rope_delta = layout.rope_delta.expand(len(x))
    return logits.to(torch.float32), Prefix(keys, values, offset, rope_delta)


def encode(model: AlpamayoR1, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Embeddings and deepstack levels (tokens, H) of images (B, I, 3, H, W), all in one go."""
    config = model.config.vision
    patches = to_patches(
        images.flatten(0, 1), config.patch_size, config.temporal_patch_size,
        config.spatial_merge_size,
    )  # fmt: skip
    count = images.shape[0] * images.shape[1]
    grid = images.shape[-2] // config.patch_size, images.shape[-1] // config.patch_size
    return model.encode_images(patches, [grid] * count, chunk_images=count)


def velocities(
    model: AlpamayoR1, prefix: Prefix, x: Tensor, t: Tensor, passes: Passes | None = None
) -> Tensor:
    """Velocity (B, K, T, 2) of K noisy actions x (B, K, T, 2) of each scene at times t (B, K)."""
    scenes, draws, waypoints = x.shape[:3]
    embeds = _action_in(model.action_in_proj, x.flatten(0, 1), t.reshape(-1, 1, 1))
    embeds = embeds.reshape(scenes, draws * waypoints, -1)
    positions = expert_positions(prefix.rope_delta, prefix.offset, waypoints).repeat(1, 1, draws)
    past = Past(prefix.keys, prefix.values, _mask(prefix, draws, waypoints))
    hidden, _, _ = (passes or _PLAIN).decode(model.expert, embeds, positions, past, None)
    v = model.action_out_proj(_norm(model.expert.norm, hidden))
    return v.reshape(x.shape).to(torch.float32)


def _mask(prefix: Prefix, draws: int, waypoints: int) -> Tensor:
    """What waypoints see: bool (B, 1, K * T, S + K * T): up to the marker, and their own draw."""
    slot = torch.arange(prefix.keys[0].shape[2], device=prefix.offset.device)
    seen = slot < prefix.offset.unsqueeze(-1)  # (B, S)
    draw = torch.arange(draws, device=slot.device).repeat_interleave(waypoints)
    mates = draw == draw.unsqueeze(-1)
    rows = len(seen), len(draw)
    parts = [seen.unsqueeze(1).expand(*rows, -1), mates.expand(*rows, -1)]
    return torch.cat(parts, -1).unsqueeze(1)


def decode(
    decoder: Decoder,
    x: Tensor,
    positions: Tensor,
    past: Past | None,
    deepstack: Deepstack | None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Hidden states (B, L, H), and each layer's keys (post-rotary) and values of the new tokens.

    x (B, L, H) at positions (3, B or 1, L). Without a past each token sees those before it.
    """
    cos, sin = (part.transpose(1, 2) for part in rotary(positions, decoder.config, x.dtype))
    keys, values = [], []
    for i in range(len(decoder.layers)):
        layer: Any = decoder.layers[i]
        seen = None if past is None else (past.keys[i], past.values[i], past.mask)
        out, k, v = _attention(layer.self_attn, _norm(layer.input_layernorm, x), cos, sin, seen)
        x = x + out
        y, mlp = _norm(layer.post_attention_layernorm, x), layer.mlp
        x = x + mlp.down_proj(F.silu(mlp.gate_proj(y)) * mlp.up_proj(y))
        if deepstack is not None and i < len(deepstack[1]):
            x = x.index_add(1, deepstack[0], deepstack[1][i])
        keys.append(k)
        values.append(v)
    return x, keys, values


_PLAIN = Passes(encode, decode)


def _attention(
    part: Attention,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    past: tuple[Tensor, Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    dim = part.q_norm.weight.shape[0]
    # (B, L, heads * d) -> (B, L, heads, d): norms read rows, attention takes any strides
    q, k, v = (
        layer(x).unflatten(-1, (-1, dim)) for layer in (part.q_proj, part.k_proj, part.v_proj)
    )
    q = _rotate(_norm(part.q_norm, q), cos, sin).transpose(1, 2)
    k = _rotate(_norm(part.k_norm, k), cos, sin).transpose(1, 2)
    v = v.transpose(1, 2)  # (B, heads, L, d)
    if past is None:
        out = attend_causal(q, k, v)
    else:
        keys, values = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        out = attend_plain(q, keys, values, past[2])
    return part.o_proj(out.transpose(1, 2).flatten(2)), k, v


def _action_in(part: PerWaypointActionInProjV2, x: Tensor, t: Tensor) -> Tensor:
    """What PerWaypointActionInProjV2 computes."""
    features = [encode(x[..., i]) for i, encode in enumerate(part.sinus)]
    features.append(part.timestep_fourier_encoder(t.expand(*x.shape[:2], 1)[..., 0]))
    y = torch.cat(features, -1).to(part.norm.weight.dtype)
    for layer in part.encoder.trunk:
        y = _norm(layer, y) if isinstance(layer, RMSNorm) else layer(y)
    return part.norm(y)


def _norm(part: RMSNorm, x: Tensor) -> Tensor:
    return F.rms_norm(x, part.weight.shape, part.weight, part.eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _by_scene(features: Tensor, x: Tensor) -> Tensor:
    """(B * tokens, H) as (B, tokens, H) in the dtype of x (B, L, H)."""
    return features.unflatten(0, (len(x), -1)).to(x.dtype)
