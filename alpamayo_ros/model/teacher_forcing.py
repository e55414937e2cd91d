"""The differentiable forward pass of training: it equals the rollout with known reasonings.

The package's kernels have no gradients and write into a cache. Here prompt and reasoning go
through the language model in one pass, and the expert reads its keys and values. Knows no losses
and no files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
import torch.nn.functional as F

from ..kernels.attention.ops import attend_causal, attend_plain
from .action_expert import PerWaypointActionInProjV2, compute_expert_positions
from .alpamayo import AlpamayoModel
from .config import AlpamayoConfig
from .prefill import compute_prompt_positions
from .prompt.image_processor import to_patches
from .text import Attention, Decoder, RMSNorm, compute_rotary

Turns = tuple[Tensor, Tensor]
Deepstack = tuple[Tensor, list[Tensor]]  # token columns, and the features each layer adds there
Decoded = tuple[Tensor, list[Tensor], list[Tensor]]  # hidden states, and keys and values by layer
Grid = tuple[int, int]  # height and width in patches


@dataclass(frozen=True)
class Layout:
    """Columns and positions of the tokens; equal for all prompts with the same cameras.

    image_columns: columns of image tokens in the prompt, in order. positions (3, 1, P + N) and
    rope_delta (1,): see alpamayo.compute_prompt_positions.
    """

    image_columns: Tensor
    positions: Tensor
    rope_delta: Tensor


@dataclass(frozen=True)
class Batch:
    """B scenes with the same cameras.

    images (B, I, 3, H, W) uint8, in the model's size: cameras by ascending index, oldest frame
    first. prompt (B, P): ids up to the end of the history. rest (B, N): ids from there up to the
    trajectory marker, then padding. first (B): index in `rest` of the first token that the model
    writes itself. marker (B): index of the marker. actions (B, T, 2): normalized.
    """

    layout: Layout
    images: Tensor
    prompt: Tensor
    rest: Tensor
    first: Tensor
    marker: Tensor
    actions: Tensor

    @property
    def written(self) -> Tensor:
        """Which tokens (B, N) of `rest` the model writes: those of the reasoning."""
        index = torch.arange(self.rest.shape[1], device=self.rest.device)
        return (index >= self.first.unsqueeze(-1)) & (index <= self.marker.unsqueeze(-1))


@dataclass(frozen=True)
class Prefix:
    """Prompt and reasoning as the expert reads them: per layer keys and values (B, kv, S, d).

    offset (B): index of the first waypoint, one after the marker. The expert attends to nothing
    from there on, so padding may follow. rope_delta (B).
    """

    keys: list[Tensor]
    values: list[Tensor]
    offset: Tensor
    rope_delta: Tensor


@dataclass(frozen=True)
class Past:
    """Keys and values (B, kv, S, d) of earlier tokens, per layer.

    mask: bool (B, 1, L, S + L), True where a new token attends to an earlier or a new one.
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor


@dataclass(frozen=True)
class Passes:
    """The two expensive passes: `encode` and `decode` of this module, or faster twins."""

    encode: Callable[[AlpamayoModel, Tensor], tuple[Tensor, list[Tensor]]]
    decode: Callable[[Decoder, Tensor, Tensor, Past | None, Deepstack | None], Decoded]


def make_layout(config: AlpamayoConfig, prompt: Tensor, grid: Grid, tokens: int) -> Layout:
    """Return the layout of prompts like `prompt` (P), images of one grid, `tokens` after it."""
    is_image = prompt == config.image_token_id
    merge = config.vision.spatial_merge_size
    grids = [grid] * (int(is_image.sum()) * merge**2 // (grid[0] * grid[1]))
    positions, delta = compute_prompt_positions(is_image.unsqueeze(0), grids, merge)
    behind = torch.arange(len(prompt), len(prompt) + tokens) + delta
    positions = torch.cat([positions, behind.expand(3, 1, -1)], 2)
    return Layout(is_image.nonzero()[:, 0], positions, delta)


def run_language_model(
    model: AlpamayoModel, batch: Batch, passes: Passes | None = None
) -> tuple[Tensor, Prefix]:
    """Return logits (B, N, vocab) float32 of the tokens of `rest`, and the prefix."""
    run = passes or _PLAIN
    embeds, levels = run.encode(model, batch.images)
    language, layout = model.vlm.model.language_model, batch.layout
    where, length = layout.image_columns, batch.prompt.shape[1]
    x = language.embed_tokens(torch.cat([batch.prompt, batch.rest], 1))
    x = x.index_copy(1, where, _split_by_scene(embeds, x))
    deepstack = (where, [_split_by_scene(level, x) for level in levels])
    x, keys, values = run.decode(language, x, layout.positions, None, deepstack)
    logits = model.vlm.lm_head(normalize(language.norm, x[:, length - 1 : -1]))
    offset = length + batch.marker + 1
    rope_delta = layout.rope_delta.expand(len(x))
    return logits.to(torch.float32), Prefix(keys, values, offset, rope_delta)


def encode(model: AlpamayoModel, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return embeddings and deepstack levels (tokens, H) of images (B, I, 3, H, W)."""
    config = model.config.vision
    patches = to_patches(
        images.flatten(0, 1), config.patch_size, config.temporal_patch_size,
        config.spatial_merge_size,
    )  # fmt: skip
    count = images.shape[0] * images.shape[1]
    grid = images.shape[-2] // config.patch_size, images.shape[-1] // config.patch_size
    return model.encode_images(patches, [grid] * count, chunk_images=count)


def predict_velocities(
    model: AlpamayoModel, prefix: Prefix, x: Tensor, t: Tensor, passes: Passes | None = None
) -> Tensor:
    """Return velocities of K noisy actions x (B, K, T, 2) of each scene at times t (B, K)."""
    scenes, draws, waypoints = x.shape[:3]
    embeds = embed_actions(model.action_in_proj, x.flatten(0, 1), t.reshape(-1, 1, 1))
    embeds = embeds.reshape(scenes, draws * waypoints, -1)
    positions = compute_expert_positions(prefix.rope_delta, prefix.offset, waypoints).repeat(
        1, 1, draws
    )
    past = Past(prefix.keys, prefix.values, make_mask(prefix, draws, waypoints))
    hidden, _, _ = (passes or _PLAIN).decode(model.expert, embeds, positions, past, None)
    v = model.action_out_proj(normalize(model.expert.norm, hidden))
    return v.reshape(x.shape).to(torch.float32)


def make_mask(prefix: Prefix, draws: int, waypoints: int) -> Tensor:
    """Return bool (B, 1, K * T, S + K * T): waypoints see the prefix and their own draw."""
    slot = torch.arange(prefix.keys[0].shape[2], device=prefix.offset.device)
    seen = slot < prefix.offset.unsqueeze(-1)  # (B, S)
    draw = torch.arange(draws, device=slot.device).repeat_interleave(waypoints)
    same_draw = draw == draw.unsqueeze(-1)
    rows = len(seen), len(draw)
    parts = [seen.unsqueeze(1).expand(*rows, -1), same_draw.expand(*rows, -1)]
    return torch.cat(parts, -1).unsqueeze(1)


def decode(
    decoder: Decoder, x: Tensor, positions: Tensor, past: Past | None, deepstack: Deepstack | None
) -> Decoded:
    """Return hidden states (B, L, H) and each layer's keys (after rotary) and values.

    x (B, L, H) at positions (3, B or 1, L). Without a past the attention is causal.
    """
    turns = make_turns(decoder, positions, x.dtype)
    keys, values = [], []
    for i in range(len(decoder.layers)):
        seen = None if past is None else (past.keys[i], past.values[i], past.mask)
        x, k, v = run_layer(decoder.layers[i], x, turns, seen)
        if deepstack is not None and i < len(deepstack[1]):
            x = x.index_add(1, deepstack[0], deepstack[1][i])
        keys.append(k)
        values.append(v)
    return x, keys, values


def make_turns(decoder: Decoder, positions: Tensor, dtype: torch.dtype) -> Turns:
    """Return cosine and sine (B or 1, L, 1, d) of positions (3, B or 1, L), for `run_layer`."""
    cos, sin = compute_rotary(positions, decoder.config, dtype)
    return cos.transpose(1, 2), sin.transpose(1, 2)


def run_layer(
    layer: Any, x: Tensor, turns: Turns, past: tuple[Tensor, Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a DecoderLayer: hidden states (B, L, H), keys after rotary and values (B, kv, L, d).

    past: keys, values and mask of `Past` for this layer; without it the attention is causal.
    """
    out, k, v = _attend(layer.self_attn, normalize(layer.input_layernorm, x), *turns, past)
    x = x + out
    y, mlp = normalize(layer.post_attention_layernorm, x), layer.mlp
    return x + mlp.down_proj(F.silu(mlp.gate_proj(y)) * mlp.up_proj(y)), k, v


_PLAIN = Passes(encode, decode)


def _attend(
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
    q = _rotate(normalize(part.q_norm, q), cos, sin).transpose(1, 2)
    k = _rotate(normalize(part.k_norm, k), cos, sin).transpose(1, 2)
    v = v.transpose(1, 2)  # (B, heads, L, d)
    if past is None:
        out = attend_causal(q, k, v)
    else:
        keys, values = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        out = attend_plain(q, keys, values, past[2])
    return part.o_proj(out.transpose(1, 2).flatten(2)), k, v


def embed_actions(part: PerWaypointActionInProjV2, x: Tensor, t: Tensor) -> Tensor:
    """Compute what PerWaypointActionInProjV2 does, with gradients."""
    features = [encode(x[..., i]) for i, encode in enumerate(part.sinus)]
    features.append(part.timestep_fourier_encoder(t.expand(*x.shape[:2], 1)[..., 0]))
    y = torch.cat(features, -1).to(part.norm.weight.dtype)
    for layer in part.encoder.trunk:
        y = normalize(layer, y) if isinstance(layer, RMSNorm) else layer(y)
    return part.norm(y)


def normalize(part: RMSNorm, x: Tensor) -> Tensor:
    """Root-mean-square norm of x with a gradient; RMSNorm's own kernel has none."""
    return F.rms_norm(x, part.weight.shape, part.weight, part.eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _split_by_scene(features: Tensor, x: Tensor) -> Tensor:
    """Reshape (B * tokens, H) to (B, tokens, H) in the dtype of x (B, L, H)."""
    return features.unflatten(0, (len(x), -1)).to(x.dtype)
