"""Query and key heads normalised and rotated, keys and values written into a cache: one op.

torch takes some forty small kernels a layer for it, which last longer than the products of a
decode step. Knows no model.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .norm import rms_norm_plain
from .swiglu import flatten_rows

try:
    import triton
    import triton.language as tl

    from .hopper import launch_options, wait_for_previous_kernel
except ImportError:  # CPU builds of torch come without Triton: the plain path serves
    triton = None

MAX_HEADS = 8  # of a block that rotates


def rotate_into_cache_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
) -> Tensor:
    """Normalise q and k per head, turn both by their position, write k and v into a cache.

    q (B, L, heads * d), k and v (B, L, kv heads * d); weights (d); cos and sin (B, 1, L, d);
    keys and values (B, kv heads, capacity, d) at slots (L): of the dtype of q, or int8 with
    key_scales and value_scales (B, kv heads, capacity) of that dtype. Returns q (B, heads, L, d),
    token by token in memory: attention then leaves its result as the next product reads it.
    """
    dim = q_weight.shape[0]
    # (B, L, heads * d) -> (B, heads, L, d)
    q, k, v = (x.unflatten(-1, (-1, dim)).transpose(1, 2) for x in (q, k, v))
    q, k = rms_norm_plain(q, q_weight, eps), rms_norm_plain(k, k_weight, eps)
    _write(keys, key_scales, slots, _rotate(k, cos, sin))
    _write(values, value_scales, slots, v)
    return _rotate(q, cos, sin).transpose(1, 2).contiguous().transpose(1, 2)


# torch 2.11 fails where an argument that is written to has a default and is left out
rotate_into_cache = torch.library.custom_op(
    'alpamayo_ros::rotate_into_cache',
    mutates_args=('keys', 'values', 'key_scales', 'value_scales'),
)(rotate_into_cache_plain)


@rotate_into_cache.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, q_weight: Tensor, *others: Any) -> Tensor:
    batch, length, width = q.shape
    dim = q_weight.shape[0]
    return q.new_empty(batch, length, width // dim, dim).transpose(1, 2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _write(cache: Tensor, scales: Tensor | None, slots: Tensor, x: Tensor) -> None:
    """Write x (B, kv heads, L, d) to slots (L) of a cache; its largest number becomes 127."""
    if scales is None:
        cache.index_copy_(2, slots, x)
        return
    least = torch.finfo(x.dtype).tiny
    scale = (x.abs().amax(-1).to(torch.float32) / 127).to(x.dtype).clamp(min=least)
    levels = (x.to(torch.float32) / scale.to(torch.float32).unsqueeze(-1) + 0.5).floor()
    cache.index_copy_(2, slots, levels.clamp(-127, 127).to(torch.int8))
    scales.index_copy_(2, slots, scale)


def rotate_into_cache_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
) -> Tensor:
    """The op in Triton: one block takes a few heads of a token. keys and values share strides."""
    batch, length, width = q.shape
    dim = q_weight.shape[0]
    heads, kv_heads = width // dim, k.shape[-1] // dim
    group = math.gcd(heads, kv_heads, MAX_HEADS)
    q, k, v = flatten_rows(q), flatten_rows(k), flatten_rows(v)
    out = torch.empty(batch, length, heads, dim, dtype=q.dtype, device=q.device)
    _rotate_kernel[(batch * length, (heads + 2 * kv_heads) // group)](
        q,
        k,
        v,
        q_weight,
        k_weight,
        cos.contiguous(),
        sin.contiguous(),
        keys,
        values,
        slots,
        key_scales,
        value_scales,
        out,
        length,
        heads,
        kv_heads,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        *((0, 0) if key_scales is None else key_scales.stride()[:2]),
        eps,
        torch.finfo(q.dtype).tiny,
        HEADS=group,
        DIM=dim,
        num_warps=max(1, group // 2),
        **launch_options(q.device, batch * length == 1),
    )
    return out.transpose(1, 2)


if triton is not None:

    @triton.jit
    def _normalise_and_rotate(
        x_ptr, weight_ptr, cos_ptr, sin_ptr, eps, HEADS: tl.constexpr, DIM: tl.constexpr
    ):
        """Heads, normalised and rotated: halves are read crosswise for the rotation."""
        at = tl.arange(0, DIM)
        half: tl.constexpr = DIM // 2
        across = tl.where(at < half, at + half, at - half)
        of = tl.arange(0, HEADS)[:, None] * DIM
        x = tl.load(x_ptr + of + at[None, :])
        wide = x.to(tl.float32)
        scale = tl.rsqrt(tl.sum(wide * wide, 1) / DIM + eps)[:, None]
        normed = (wide * scale).to(x.dtype) * tl.load(weight_ptr + at)[None, :]
        other = tl.load(x_ptr + of + across[None, :]).to(tl.float32)
        other = (other * scale).to(x.dtype) * tl.load(weight_ptr + across)[None, :]
        other = tl.where((at < half)[None, :], -other, other)
        return normed * tl.load(cos_ptr + at)[None, :] + other * tl.load(sin_ptr + at)[None, :]

    @triton.jit
    def _round_heads(x, least):
        """Heads x (HEADS, DIM) as int8, and their scales (HEADS) in the dtype of x."""
        wide = x.to(tl.float32)
        # a sum notices a NaN, a maximum does not
        peak = tl.max(tl.abs(wide), 1) + 0 * tl.sum(wide, 1)
        scale = (peak / 127).to(x.dtype)
        scale = tl.where(scale < least, least, scale.to(tl.float32)).to(x.dtype)
        level = tl.floor(wide / scale.to(tl.float32)[:, None] + 0.5)
        return tl.minimum(tl.maximum(level, -127.0), 127.0).to(tl.int8), scale

    @triton.jit
    def _rotate_kernel(
        q_ptr,
        k_ptr,
        v_ptr,
        q_weight_ptr,
        k_weight_ptr,
        cos_ptr,
        sin_ptr,
        keys_ptr,
        values_ptr,
        slots_ptr,
        key_scales_ptr,
        value_scales_ptr,
        out_ptr,
        length,
        heads,
        kv_heads,
        q_row,
        k_row,
        v_row,
        cache_batch,
        cache_head,
        cache_slot,
        scale_batch,
        scale_head,
        eps,
        least,
        HEADS: tl.constexpr,
        DIM: tl.constexpr,
        OVERLAP: tl.constexpr,
    ):
        wait_for_previous_kernel(OVERLAP)
        token = tl.program_id(0).to(tl.int64)
        head = tl.program_id(1) * HEADS
        batch, i = token // length, token % length
        some, at = tl.arange(0, HEADS)[:, None], tl.arange(0, DIM)[None, :]
        cos_ptr += token * DIM
        sin_ptr += token * DIM
        if head < heads:
            source = q_ptr + token * q_row + head * DIM
            q = _normalise_and_rotate(source, q_weight_ptr, cos_ptr, sin_ptr, eps, HEADS, DIM)
            tl.store(out_ptr + (token * heads + head + some) * DIM + at, q)
        else:
            kv_head = (head - heads) % kv_heads
            target = batch * cache_batch + (kv_head + some) * cache_head
            slot = tl.load(slots_ptr + i)
            target += slot * cache_slot
            own = batch * scale_batch + (kv_head + tl.arange(0, HEADS)) * scale_head + slot
            if head < heads + kv_heads:
                source = k_ptr + token * k_row + kv_head * DIM
                k = _normalise_and_rotate(source, k_weight_ptr, cos_ptr, sin_ptr, eps, HEADS, DIM)
                if key_scales_ptr is not None:
                    k, scale = _round_heads(k, least)
                    tl.store(key_scales_ptr + own, scale)
                tl.store(keys_ptr + target + at, k)
            else:
                v = tl.load(v_ptr + token * v_row + (kv_head + some) * DIM + at)
                if value_scales_ptr is not None:
                    v, scale = _round_heads(v, least)
                    tl.store(value_scales_ptr + own, scale)
                tl.store(values_ptr + target + at, v)

    rotate_into_cache.register_kernel('cuda')(rotate_into_cache_triton)
