"""Attention in Triton: the keys are split among blocks, then their partial softmaxes are merged.

A decode step has 4 query rows per kv head and some 3,000 keys, a flow step of six samples 768
rows. torch walks the masked keys of a head in a few blocks and leaves most of a GPU idle.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
import triton
import triton.language as tl

from ..gpu import Gpu, gpu_of
from ..hopper import is_hopper, launch_options, wait_for_previous_kernel

MIN_KEYS_PER_SPLIT = 128


class AttentionTile(NamedTuple):
    """Query rows of a block, keys per inner step, parts of the keys, warps of a block."""

    rows: int
    keys: int
    splits: int
    warps: int


@cache
def choose_tile(rows: int, kv_heads: int, keys: int, gpu: Gpu) -> AttentionTile:
    """Cut attention of `rows` query rows for each of `kv_heads` (of all scenes) to `keys` keys.

    Before Hopper a block of 64 rows loads each key too often: 128 rows with 8 warps keep tensor
    cores busy, but fill the registers of a multiprocessor.
    """
    if rows <= 16:
        block, step, warps, resident = 16, 64, 4, 2
    elif is_hopper(gpu):
        block, step, warps, resident = 64, 32, 4, 2
    else:
        block, step, warps, resident = 128, 32, 8, 1
    blocks = kv_heads * triton.cdiv(rows, block)
    wanted = max(1, round(resident * gpu.multiprocessors / blocks))
    splits = min(wanted, triton.cdiv(keys, MIN_KEYS_PER_SPLIT))
    return AttentionTile(block, step, triton.next_power_of_2(splits), warps)


def attend_split(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    count: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    tile: AttentionTile | None = None,
) -> Tensor:
    """The op in Triton: keys split among blocks, then merged. tile: for tests and sweeps."""
    batch, heads, length, dim = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    rows = heads // kv_heads * length
    q = q if q.stride(3) == 1 else q.contiguous()
    tile = tile or choose_tile(rows, batch * kv_heads, keys, gpu_of(q.device))
    # token by token in memory, as the product behind it reads it
    out = torch.empty(batch, length, heads, dim, dtype=q.dtype, device=q.device)
    partial, peak, total = None, None, None
    if tile.splits > 1:
        shape = (batch * kv_heads, rows, tile.splits)
        partial = torch.empty(*shape, dim, dtype=torch.float32, device=q.device)
        peak = torch.empty(shape, dtype=torch.float32, device=q.device)
        total = torch.empty(shape, dtype=torch.float32, device=q.device)
    options = launch_options(q.device, batch * length == 1)
    split_kernel[(triton.cdiv(rows, tile.rows), batch * kv_heads, tile.splits)](
        q,
        k,
        v,
        None if mask is None else mask.view(torch.uint8),
        count,
        k_scale,
        v_scale,
        out,
        partial,
        peak,
        total,
        rows,
        length,
        keys,
        kv_heads,
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        *((0, 0) if k_scale is None else k_scale.stride()[:2]),
        mask.stride(0) if mask is not None and mask.dim() == 4 else 0,
        0 if mask is None else mask.stride(-2),
        dim**-0.5,
        EXACT=q.dtype == torch.float32,
        MAY_END_INSIDE=count is not None or keys % tile.keys != 0,
        SPLITS=tile.splits,
        ROWS=tile.rows,
        KEYS=tile.keys,
        DIM=dim,
        num_warps=tile.warps,
        **options,
    )
    if tile.splits > 1:
        _merge_kernel[(batch * kv_heads * rows,)](
            partial,
            peak,
            total,
            out,
            length,
            heads,
            SPLITS=tile.splits,
            DIM=dim,
            num_warps=1,
            **options,
        )
    return out.transpose(1, 2)


@triton.jit
def _attend_keys(
    q,
    k_ptr,
    v_ptr,
    k_scale_ptr,
    v_scale_ptr,
    mask_ptr,
    visible,
    in_rows,
    in_keys,
    scale,
    peak,
    total,
    result,
    TAIL: tl.constexpr,
    EXACT: tl.constexpr,
):
    """One step of an online softmax: ROWS queries see KEYS more keys.

    k_ptr, v_ptr (KEYS, DIM): places of keys and values; k_scale_ptr, v_scale_ptr (KEYS): those of
    their factors, if they are int8. visible (ROWS, KEYS): places of the
    mask, if there is one. TAIL: not all of the keys exist. peak (ROWS) is a power of 2.
    """
    k = tl.load(k_ptr, in_keys[:, None], other=0) if TAIL else tl.load(k_ptr)
    if EXACT:
        score = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision='ieee') * scale
    else:
        score = tl.dot(q, tl.trans(k.to(q.dtype))) * scale
    if k_scale_ptr is not None:
        factor = tl.load(k_scale_ptr, in_keys, other=0.0) if TAIL else tl.load(k_scale_ptr)
        score *= factor.to(tl.float32)[None, :]
    if mask_ptr is not None:
        inside = in_rows[:, None] & in_keys[None, :] if TAIL else in_rows[:, None]
        seen = tl.load(mask_ptr + visible, inside, other=0) != 0
        score = tl.where(seen, score, -1e30)
    elif TAIL:
        score = tl.where(in_keys[None, :], score, -1e30)
    higher = tl.maximum(peak, tl.max(score, 1))
    weight = tl.exp2(score - higher[:, None])
    if mask_ptr is not None:  # a row that has seen nothing so far has a peak of -1e30
        weight = tl.where(seen, weight, 0.0)
    shrink = tl.exp2(peak - higher)
    total = total * shrink + tl.sum(weight, 1)
    if v_scale_ptr is not None:
        factor = tl.load(v_scale_ptr, in_keys, other=0.0) if TAIL else tl.load(v_scale_ptr)
        weight *= factor.to(tl.float32)[None, :]
    v = tl.load(v_ptr, in_keys[:, None], other=0) if TAIL else tl.load(v_ptr)
    if EXACT:
        added = tl.dot(weight, v.to(q.dtype), input_precision='ieee')
    else:
        added = tl.dot(weight.to(q.dtype), v.to(q.dtype))
    return higher, total, result * shrink[:, None] + added


@triton.jit
def split_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    mask_ptr,
    count_ptr,
    k_scale_ptr,
    v_scale_ptr,
    out_ptr,
    partial_ptr,
    peak_ptr,
    total_ptr,
    rows,
    length,
    keys,
    kv_heads,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_key,
    v_batch,
    v_head,
    v_key,
    scale_batch,
    scale_head,
    mask_batch,
    mask_row,
    scale,
    EXACT: tl.constexpr,
    MAY_END_INSIDE: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    DIM: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Online softmax of ROWS queries of one kv head over one of SPLITS parts of the keys."""
    wait_for_previous_kernel(OVERLAP)
    head = tl.program_id(1)
    split = tl.program_id(2)
    batch = head // kv_heads
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, DIM)
    in_rows = row < rows
    first_head = head % kv_heads * (rows // length)  # of the query heads that share it
    place = (first_head + row // length) * q_head + row % length * q_token
    place += batch.to(tl.int64) * q_batch
    q = tl.load(q_ptr + place[:, None] + at[None, :], in_rows[:, None], other=0.0)
    k_ptr += batch.to(tl.int64) * k_batch + (head % kv_heads) * k_head
    v_ptr += batch.to(tl.int64) * v_batch + (head % kv_heads) * v_head
    if k_scale_ptr is not None:
        own = batch.to(tl.int64) * scale_batch + head % kv_heads * scale_head
        k_scale_ptr += own
        v_scale_ptr += own
    if count_ptr is not None:
        keys = tl.load(count_ptr).to(tl.int32)
    if mask_ptr is not None:
        mask_ptr += batch.to(tl.int64) * mask_batch
    part = tl.cdiv(tl.cdiv(keys, SPLITS), KEYS) * KEYS
    start = split * part
    end = tl.minimum(start + part, keys)
    scale *= 1.4426950408889634  # of exponents to base 2
    peak = tl.full([ROWS], -1e30, tl.float32)  # finite: a part may see nothing
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, DIM], tl.float32)
    key = tl.arange(0, KEYS)
    # scalar pointers move on, and what is added to them stays: pointers fill registers
    k_place = key[:, None] * k_key + at[None, :]
    v_place = key[:, None] * v_key + at[None, :]
    k_ptr += start * k_key
    v_ptr += start * v_key
    visible = (row % length)[:, None] * mask_row + key[None, :]
    if mask_ptr is not None:
        mask_ptr += start
    k_scales, v_scales = k_scale_ptr, v_scale_ptr
    if k_scale_ptr is not None:
        k_scales = k_scale_ptr + start + key
        v_scales = v_scale_ptr + start + key
    whole = tl.maximum(end - start, 0) // KEYS
    for _ in range(whole):
        peak, total, result = _attend_keys(
            q,
            k_ptr + k_place,
            v_ptr + v_place,
            k_scales,
            v_scales,
            mask_ptr,
            visible,
            in_rows,
            key < KEYS,
            scale,
            peak,
            total,
            result,
            False,
            EXACT,
        )
        k_ptr += KEYS * k_key
        v_ptr += KEYS * v_key
        if k_scale_ptr is not None:
            k_scales += KEYS
            v_scales += KEYS
        if mask_ptr is not None:
            mask_ptr += KEYS
    rest = end - start - whole * KEYS
    if MAY_END_INSIDE and rest > 0:
        peak, total, result = _attend_keys(
            q,
            k_ptr + k_place,
            v_ptr + v_place,
            k_scales,
            v_scales,
            mask_ptr,
            visible,
            in_rows,
            key < rest,
            scale,
            peak,
            total,
            result,
            True,
            EXACT,
        )
    if SPLITS > 1:
        slot = (head * rows + row) * SPLITS + split
        tl.store(partial_ptr + slot[:, None] * DIM + at[None, :], result, in_rows[:, None])
        tl.store(peak_ptr + slot, peak, in_rows)
        tl.store(total_ptr + slot, total, in_rows)
    else:
        # (scene, token, head) in memory
        heads = kv_heads * (rows // length)
        place = (batch * length + row % length) * heads + first_head + row // length
        result = (result / total[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + place[:, None] * DIM + at[None, :], result, in_rows[:, None])


@triton.jit
def _merge_kernel(
    partial_ptr,
    peak_ptr,
    total_ptr,
    out_ptr,
    length,
    heads,
    SPLITS: tl.constexpr,
    DIM: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One row: partial results weighted by their share of the softmax."""
    wait_for_previous_kernel(OVERLAP)
    row = tl.program_id(0)
    split = tl.arange(0, SPLITS)
    at = tl.arange(0, DIM)
    peak = tl.load(peak_ptr + row * SPLITS + split)
    share = tl.exp2(peak - tl.max(peak, 0))
    total = tl.sum(share * tl.load(total_ptr + row * SPLITS + split), 0)
    where = partial_ptr + (row * SPLITS + split[:, None]) * DIM + at[None, :]
    result = tl.sum(tl.load(where) * share[:, None], 0) / total
    # rows are (scene, head, token), the result is (scene, token, head)
    head, token = row // length % heads, row % length
    place = (row // (length * heads) * length + token) * heads + head
    tl.store(out_ptr + place * DIM + at, result.to(out_ptr.dtype.element_ty))
