"""Losses and gradients compiled: for a GPU, and for a CPU that multiplies bfloat16 itself (AMX).

Most of an eager step goes by between the matrix products. Here a vision block and a decoder layer
are functions that torch.compile makes kernels or loops of, for each set of cameras anew (a minute
or so, then from torch's cache on disk); with compiled=False they run as they stand. A step of 256
scenes took 37 ms in place of 95 on an H200; two cores of an Intel Xeon with AMX do 22 scenes a
second, eagerly 8 to 11. Eager work on a CPU is twice as fast with MALLOC_MMAP_THRESHOLD_ and
MALLOC_TRIM_THRESHOLD_ (bytes) beyond every tensor's size in the environment: glibc otherwise gives
the memory of large tensors back at once. Knows no losses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
import torch.nn.functional as F

from alpamayo_ros.model.alpamayo import AlpamayoR1
from alpamayo_ros.model.image_processor import to_patches
from alpamayo_ros.model.text import Decoder, RMSNorm, rotary

from .forward import Deepstack, Passes, Past
from .settings import TrainingSettings
from .step import Step, plain_step

_ROWS = 32  # prompts are padded to a multiple, so that rows of scores begin at cache lines
_UNSEEN = -1e30  # finite: no infinity is subtracted from another
_GELU = 2 * (2 / torch.pi) ** 0.5
_VARIANTS = 64  # of a function: shapes by decoder and set of cameras; the default is 8
COMPILE: dict[str, Any] = {
    'fullgraph': True,
    'dynamic': False,  # loops of known lengths are the faster ones
    # a product and its sum in one instruction
    'options': {'cpp.enable_floating_point_contract_flag': 'fast'},
}


def compiled_step(model: AlpamayoR1, settings: TrainingSettings, compiled: bool = True) -> Step:
    """What plain_step makes; the same step to the rounding of the weights' dtype."""
    run = _Run(compiled)
    return plain_step(model, settings, Passes(run.encode, run.decode))


class _Run:
    """The passes of training/forward.py, from functions that may be compiled."""

    def __init__(self, compiled: bool) -> None:
        if compiled:
            torch.compiler.config.recompile_limit = _VARIANTS

        def made(function: Callable[..., Any]) -> Callable[..., Any]:
            return torch.compile(function, **COMPILE) if compiled else function

        self._embed, self._block, self._merge = made(_embed), made(_block), made(_merge)
        self._layer = made(_layer)

    def encode(self, model: AlpamayoR1, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Embeddings and deepstack levels (tokens, H) of images (B, I, 3, H, W), all in one go."""
        tower, config = model.vlm.model.visual, model.config.vision
        size = config.patch_size, config.spatial_merge_size
        x = self._embed(tower.patch_embed.proj, images.flatten(0, 1), *size)
        grid = images.shape[-2] // config.patch_size, images.shape[-1] // config.patch_size
        positions, cos, sin = tower.places(grid)
        x = x + positions.to(x.dtype)
        levels: list[Tensor] = []
        for i, block in enumerate(tower.blocks):
            x = self._block(block, x, cos, sin)
            if i in config.deepstack_visual_indexes:
                levels.append(self._merge(tower.deepstack_merger_list[len(levels)], x))
        return self._merge(tower.merger, x), levels

    def decode(
        self,
        decoder: Decoder,
        x: Tensor,
        positions: Tensor,
        past: Past | None,
        deepstack: Deepstack | None,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """What forward.decode computes; keys and values of a prompt with padding behind them."""
        length = x.shape[1]
        if past is None:  # nothing before the padding sees it
            extra = -length % _ROWS
            x, positions = F.pad(x, (0, 0, 0, extra)), F.pad(positions, (0, extra))
            mask = x.new_full((x.shape[1], x.shape[1]), _UNSEEN).triu(1)
        else:
            mask = x.new_zeros(past.mask.shape).masked_fill(~past.mask, _UNSEEN).unsqueeze(1)
        # rounded as forward.decode rounds them
        cos, sin = (part.float() for part in rotary(positions, decoder.config, x.dtype))
        keys, values = [], []
        for i, layer in enumerate(decoder.layers):
            seen = None if past is None else (past.keys[i], past.values[i])
            x, k, v = self._layer(layer, x, cos, sin, mask, seen)
            if deepstack is not None and i < len(deepstack[1]):
                x = x.index_add(1, deepstack[0], deepstack[1][i])
            keys.append(k)
            values.append(v)
        return x[:, :length], keys, values


class Attend(torch.autograd.Function):
    """Attention of q (B, kv, group, L, d) to k and v (B, kv, S, d); the shape of q.

    mask is added to the scores (B, kv, group, L, S) and broadcast, None for nothing. What is kept
    for the gradients is exp(score - largest) in the dtype of q: its division by the sum is done
    on the result, whose rows are d long and not S.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Take the maximum over what is seen: a larger one leaves sums of zero."""
        rows, keys, values = (_flat(part, k) for part in (q, k, v))
        scores = torch.bmm(rows, keys.mT).view(*q.shape[:-1], -1).float()
        if mask is not None:
            scores = scores + mask
        # scaled last: inductor takes a product in front of the maximum for a pattern of its own
        e = torch.exp((scores - scores.amax(-1, keepdim=True)) * q.shape[-1] ** -0.5)
        inverse = _flat(1 / e.sum(-1, keepdim=True), k)
        e = _flat(e.to(q.dtype), k)
        out = (torch.bmm(e, values).float() * inverse).to(q.dtype)
        ctx.save_for_backward(q, k, v, e, inverse, out)
        return out.view(q.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of q, k and v."""
        q, k, v, e, inverse, out = ctx.saved_tensors
        rows, keys, values = (_flat(part, k) for part in (q, k, v))
        wide = _flat(gradients[0], k).float() * inverse
        mean = (wide * out.float()).sum(-1, keepdim=True)
        narrow = wide.to(q.dtype)
        by_weight = torch.bmm(narrow, values.mT).float()
        by_score = (e.float() * (by_weight - mean) * q.shape[-1] ** -0.5).to(q.dtype)
        return (
            torch.bmm(by_score, keys).view(q.shape),
            torch.bmm(by_score.mT, rows).view(k.shape),
            torch.bmm(e.mT, narrow).view(v.shape),
            None,
        )


def _embed(part: Any, images: Tensor, patch: int, merge: int) -> Tensor:
    """Embeddings (N, P, V) of uint8 images (N, 3, H, W), without positions.

    Both frames of a patch are the same picture, so their weights add up: half the product, and no
    patches of twice the size.
    """
    weight = part.weight.sum(2).flatten(1)  # (V, 3, temporal, p, p) -> (V, 3 * p * p)
    patches = to_patches(images, patch, 1, merge).to(weight.dtype)
    return F.linear(patches, weight, part.bias).unflatten(0, (len(images), -1))


def _block(part: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """A VisionBlock: (images, P, V) to the same; cos and sin (P, d) float32."""
    attention, mlp = part.attn, part.mlp
    heads = attention.qkv(part.norm1(x)).unflatten(-1, (3, attention.num_heads, -1))
    # (images, P, 3, heads, d) -> 3 of (images, heads, P, d)
    q, k, v = heads.permute(2, 0, 3, 1, 4).unbind()
    q, k = (_turn(y.float(), cos, sin, x.dtype) for y in (q, k))
    out = Attend.apply(q.unsqueeze(2), k, v.contiguous(), None)  # (images, heads, 1, P, d)
    x = x + attention.proj(out.squeeze(2).transpose(1, 2).flatten(2))
    y = mlp.linear_fc1(part.norm2(x)).float()
    # tanh-GELU as the sigmoid that it is: a tanh of many values at once costs much more
    y = y * torch.sigmoid(_GELU * (y + 0.044715 * y * y * y))
    return x + mlp.linear_fc2(y.to(x.dtype))


def _merge(part: Any, x: Tensor) -> Tensor:
    """A PatchMerger: (images, P, V) to (images * P / 4, H)."""
    return part(x).flatten(0, 1)


def _layer(
    part: Any,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
    past: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A DecoderLayer: x (B, L, H), and keys and values (B, kv, L, d) of the new tokens.

    cos and sin (B or 1, 1, L, d) float32; mask as in Attend; past: keys and values (B, kv, S, d).
    """
    attention, mlp = part.self_attn, part.mlp
    dim = attention.q_norm.weight.shape[0]
    joint = [each.weight for each in (attention.q_proj, attention.k_proj, attention.v_proj)]
    y = F.linear(_norm(part.input_layernorm, x).to(x.dtype), torch.cat(joint))
    # (B, L, heads * d) -> (B, heads, L, d)
    q, k, v = (
        each.unflatten(-1, (-1, dim)).transpose(1, 2)
        for each in y.split([len(weight) for weight in joint], -1)
    )
    q = _turn(_norm(attention.q_norm, q), cos, sin, x.dtype)
    k = _turn(_norm(attention.k_norm, k), cos, sin, x.dtype)
    v = v.contiguous()
    keys, values = k, v
    if past is not None:
        keys, values = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    out = Attend.apply(q.unflatten(1, (k.shape[1], -1)), keys, values, mask)
    x = x + attention.o_proj(out.flatten(1, 2).transpose(1, 2).flatten(2))
    y = _norm(part.post_attention_layernorm, x).to(x.dtype)
    gate, up = F.linear(y, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])).chunk(2, -1)
    x = x + mlp.down_proj((F.silu(gate.float()) * up.float()).to(x.dtype))
    return x, k, v


def _norm(part: RMSNorm, x: Tensor) -> Tensor:
    """An RMSNorm, left in float32."""
    y = x.float()
    return y * torch.rsqrt(y.square().mean(-1, keepdim=True) + part.eps) * part.weight.float()


def _turn(x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """Heads x (..., L, d) float32 turned, in memory as they are named here."""
    (a, b), (ca, cb), (sa, sb) = (part.chunk(2, -1) for part in (x, cos, sin))
    halves = [(a * ca - b * sa).to(dtype), (b * cb + a * sb).to(dtype)]
    return torch.stack(halves, -2).flatten(-2)  # joined as rows: no choice at each value


def _flat(x: Tensor, k: Tensor) -> Tensor:
    """(B, kv, ..., n) as (B * kv, rows, n), for a product with k (B, kv, S, d)."""
    return x.reshape(k.shape[0] * k.shape[1], -1, x.shape[-1])
