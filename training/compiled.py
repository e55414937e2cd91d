"""The training step through torch.compile, for a GPU and for a CPU with bfloat16 products (AMX).

Most of an eager step is spent between the matrix products. Here torch.compile turns a vision block
and a decoder layer into kernels or loops, once for each set of cameras (about a minute, then from
torch's cache on disk); compiled=False runs the same functions eagerly. On an H200 a step of 256
scenes takes 37 ms instead of 95. Two cores of an Intel Xeon with AMX train 22 scenes/s instead of
8 to 11. Eager work on a CPU is twice as fast with MALLOC_MMAP_THRESHOLD_ and
MALLOC_TRIM_THRESHOLD_ (bytes) above the size of every tensor: otherwise glibc returns their memory
to the system at once. Knows no losses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
import torch.nn.functional as F

from alpamayo_ros.model.alpamayo import AlpamayoModel
from alpamayo_ros.model.prompt.image_processor import to_patches
from alpamayo_ros.model.teacher_forcing import Decoded, Deepstack, Passes, Past
from alpamayo_ros.model.text import Decoder, RMSNorm, compute_rotary

from .settings import TrainingSettings
from .step import Step, make_plain_step

_ROWS = 32  # prompts are padded to a multiple: rows of scores then begin at cache lines
_UNSEEN = -1e30  # finite, since inf - inf is NaN
_GELU = 2 * (2 / torch.pi) ** 0.5
_VARIANTS = 64  # compiled shapes of a function (decoder, set of cameras); torch's default is 8
COMPILE: dict[str, Any] = {
    'fullgraph': True,
    'dynamic': False,  # loops of known lengths are faster
    # fused multiply-add
    'options': {'cpp.enable_floating_point_contract_flag': 'fast'},
}


def make_compiled_step(
    model: AlpamayoModel, settings: TrainingSettings, compiled: bool = True
) -> Step:
    """Return a step that equals make_plain_step's up to the rounding of the weights' dtype."""
    run = _CompiledPasses(compiled)
    return make_plain_step(model, settings, Passes(run.encode, run.decode))


class _CompiledPasses:
    """The passes of training/forward.py from functions that torch.compile accepts."""

    def __init__(self, compiled: bool) -> None:
        if compiled:
            torch.compiler.config.recompile_limit = _VARIANTS

        def prepare(function: Callable[..., Any]) -> Callable[..., Any]:
            return torch.compile(function, **COMPILE) if compiled else function

        self._embed, self._block, self._merge = (
            prepare(_embed_patches),
            prepare(_run_block),
            prepare(_merge_patches),
        )
        self._layer = prepare(_run_layer)

    def encode(self, model: AlpamayoModel, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return embeddings and deepstack levels (tokens, H) of images (B, I, 3, H, W)."""
        tower, config = model.vlm.model.visual, model.config.vision
        size = config.patch_size, config.spatial_merge_size
        x = self._embed(tower.patch_embed.proj, images.flatten(0, 1), *size)
        grid = images.shape[-2] // config.patch_size, images.shape[-1] // config.patch_size
        positions, cos, sin = tower.compute_positions(grid)
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
    ) -> Decoded:
        """Compute what forward.decode does; keys and values of a prompt end with padding."""
        length = x.shape[1]
        if past is None:  # no token in front of the padding attends to it
            extra = -length % _ROWS
            x, positions = F.pad(x, (0, 0, 0, extra)), F.pad(positions, (0, extra))
            mask = x.new_full((x.shape[1], x.shape[1]), _UNSEEN).triu(1)
        else:
            mask = x.new_zeros(past.mask.shape).masked_fill(~past.mask, _UNSEEN).unsqueeze(1)
        # the same rounding as in forward.decode
        cos, sin = (part.float() for part in compute_rotary(positions, decoder.config, x.dtype))
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

    mask is broadcast and added to the scores (B, kv, group, L, S); None for no mask. The forward
    pass keeps exp(score - largest) in the dtype of q for the gradients. It divides the result by
    the sum, not these weights: rows of the result have length d, those of the weights S.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Subtract the maximum over visible keys: a larger one would leave sums of zero."""
        rows, keys, values = (_flatten_heads(part, k) for part in (q, k, v))
        scores = torch.bmm(rows, keys.mT).view(*q.shape[:-1], -1).float()
        if mask is not None:
            scores = scores + mask
        # scaled last: inductor replaces a product in front of the maximum by a slower pattern
        e = torch.exp((scores - scores.amax(-1, keepdim=True)) * q.shape[-1] ** -0.5)
        inverse = _flatten_heads(1 / e.sum(-1, keepdim=True), k)
        e = _flatten_heads(e.to(q.dtype), k)
        out = (torch.bmm(e, values).float() * inverse).to(q.dtype)
        ctx.save_for_backward(q, k, v, e, inverse, out)
        return out.view(q.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of q, k and v."""
        q, k, v, e, inverse, out = ctx.saved_tensors
        rows, keys, values = (_flatten_heads(part, k) for part in (q, k, v))
        wide = _flatten_heads(gradients[0], k).float() * inverse
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


def _embed_patches(part: Any, images: Tensor, patch: int, merge: int) -> Tensor:
    """Return embeddings (N, P, V) of uint8 images (N, 3, H, W), without positions.

    Both frames of a patch are the same picture, so their weights are added: this halves the
    product and the size of the patches.
    """
    weight = part.weight.sum(2).flatten(1)  # (V, 3, temporal, p, p) -> (V, 3 * p * p)
    patches = to_patches(images, patch, 1, merge).to(weight.dtype)
    return F.linear(patches, weight, part.bias).unflatten(0, (len(images), -1))


def _run_block(part: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Run a VisionBlock on (images, P, V); cos and sin (P, d) float32."""
    attention, mlp = part.attn, part.mlp
    heads = attention.qkv(part.norm1(x)).unflatten(-1, (3, attention.num_heads, -1))
    # (images, P, 3, heads, d) -> 3 of (images, heads, P, d)
    q, k, v = heads.permute(2, 0, 3, 1, 4).unbind()
    q, k = (_rotate(y.float(), cos, sin, x.dtype) for y in (q, k))
    out = Attend.apply(q.unsqueeze(2), k, v.contiguous(), None)  # (images, heads, 1, P, d)
    x = x + attention.proj(out.squeeze(2).transpose(1, 2).flatten(2))
    y = mlp.linear_fc1(part.norm2(x)).float()
    # tanh-GELU written as a sigmoid: tanh of many values costs much more
    y = y * torch.sigmoid(_GELU * (y + 0.044715 * y * y * y))
    return x + mlp.linear_fc2(y.to(x.dtype))


def _merge_patches(part: Any, x: Tensor) -> Tensor:
    """Run a PatchMerger: (images, P, V) to (images * P / 4, H)."""
    return part(x).flatten(0, 1)


def _run_layer(
    part: Any,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
    past: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a DecoderLayer: return x (B, L, H), keys and values (B, kv, L, d) of the new tokens.

    cos and sin (B or 1, 1, L, d) float32; mask as in Attend; past: keys and values (B, kv, S, d).
    """
    attention, mlp = part.self_attn, part.mlp
    dim = attention.q_norm.weight.shape[0]
    joint = [each.weight for each in (attention.q_proj, attention.k_proj, attention.v_proj)]
    y = F.linear(_normalize(part.input_layernorm, x).to(x.dtype), torch.cat(joint))
    # (B, L, heads * d) -> (B, heads, L, d)
    q, k, v = (
        each.unflatten(-1, (-1, dim)).transpose(1, 2)
        for each in y.split([len(weight) for weight in joint], -1)
    )
    q = _rotate(_normalize(attention.q_norm, q), cos, sin, x.dtype)
    k = _rotate(_normalize(attention.k_norm, k), cos, sin, x.dtype)
    v = v.contiguous()
    keys, values = k, v
    if past is not None:
        keys, values = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    out = Attend.apply(q.unflatten(1, (k.shape[1], -1)), keys, values, mask)
    x = x + attention.o_proj(out.flatten(1, 2).transpose(1, 2).flatten(2))
    y = _normalize(part.post_attention_layernorm, x).to(x.dtype)
    gate, up = F.linear(y, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])).chunk(2, -1)
    x = x + mlp.down_proj((F.silu(gate.float()) * up.float()).to(x.dtype))
    return x, k, v


def _normalize(part: RMSNorm, x: Tensor) -> Tensor:
    """Apply an RMSNorm; the result stays float32."""
    y = x.float()
    return y * torch.rsqrt(y.square().mean(-1, keepdim=True) + part.eps) * part.weight.float()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """Apply rotary positions to heads x (..., L, d) float32; return contiguous `dtype`."""
    (a, b), (ca, cb), (sa, sb) = (part.chunk(2, -1) for part in (x, cos, sin))
    halves = [(a * ca - b * sa).to(dtype), (b * cb + a * sb).to(dtype)]
    return torch.stack(halves, -2).flatten(-2)  # stacked as rows: no branch per value


def _flatten_heads(x: Tensor, k: Tensor) -> Tensor:
    """Reshape (B, kv, ..., n) to (B * kv, rows, n), for a product with k (B, kv, S, d)."""
    return x.reshape(k.shape[0] * k.shape[1], -1, x.shape[-1])
