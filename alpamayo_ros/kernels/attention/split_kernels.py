"""Kernels of attention whose keys are split among blocks. `split` launches them."""

from __future__ import annotations

import triton
import triton.language as tl

from ..hopper import wait_for_previous_kernel


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
def merge_kernel(
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
