"""Packed weights to dense ones, a piece at a time into a scratch that is reused, in Triton.

For products of many rows, which then go to the library. Knows no module.
"""

from __future__ import annotations

import torch
from torch import Tensor
import triton
import triton.language as tl

from .packing import SCRATCH_BYTES, digits, group_size

ROWS = 32  # rows of a block
MAX_STEP = 128  # columns of a block, never of two groups

_SCRATCH: dict[tuple[torch.device, torch.dtype], Tensor] = {}  # of SCRATCH_BYTES each


def dense_triton(
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    columns: int,
    start: int,
    stop: int,
) -> Tensor:
    """Rows (stop - start, columns) as packing.dense_rows; the next call overwrites them."""
    out = _scratch(scale, (stop - start) * columns).view(stop - start, columns)
    group = group_size(data, scale, levels)
    step = min(MAX_STEP, triton.next_power_of_2(group))
    steps_per_group = triton.cdiv(group, step)
    grid = (triton.cdiv(stop - start, ROWS), columns // group * steps_per_group)
    _unpack_kernel[grid](
        data,
        scale,
        shift,
        out,
        start,
        stop,
        columns,
        -(-scale.numel() // digits(levels)),
        LEVELS=levels,
        DIGITS=digits(levels),
        GROUP=group,
        STEP=step,
        STEPS_PER_GROUP=steps_per_group,
        ROWS=ROWS,
    )
    return out


def _scratch(like: Tensor, size: int) -> Tensor:
    """`size` elements of what is allocated once: recorded graphs keep its address."""
    key = like.device, like.dtype
    if key not in _SCRATCH:
        _SCRATCH[key] = like.new_empty(SCRATCH_BYTES // like.element_size())
    return _SCRATCH[key][:size]


@triton.jit
def _unpack_kernel(
    data_ptr,
    scale_ptr,
    shift_ptr,
    out_ptr,
    start,
    stop,
    columns,
    byte_rows,
    LEVELS: tl.constexpr,
    DIGITS: tl.constexpr,
    GROUP: tl.constexpr,
    STEP: tl.constexpr,
    STEPS_PER_GROUP: tl.constexpr,
    ROWS: tl.constexpr,
):
    group = tl.program_id(1) // STEPS_PER_GROUP
    within = (tl.program_id(1) % STEPS_PER_GROUP) * STEP + tl.arange(0, STEP)
    row = start + tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < stop
    group_row = row * (columns // GROUP) + group
    at = (group_row % byte_rows).to(tl.int64) * GROUP
    mask = inside[:, None] & (within < GROUP)[None, :]
    code = tl.load(data_ptr + at[:, None] + within[None, :], mask=mask, other=0)
    scale = tl.load(scale_ptr + group_row, mask=inside, other=0.0).to(tl.float32)
    if LEVELS == 256:
        wide = code.to(tl.float32)
    else:
        digit = group_row // byte_rows
        place = tl.full((ROWS,), 1, tl.int32)
        for i in tl.static_range(1, DIGITS):
            place = tl.where(digit == i, LEVELS**i, place)
        if LEVELS == 3:
            wide = (code.to(tl.int32) // place[:, None] % LEVELS).to(tl.float32)
        else:
            bits: tl.constexpr = 8 // DIGITS
            wide = ((code.to(tl.int32) >> (bits * digit)[:, None]) % LEVELS).to(tl.float32)
    wide *= scale[:, None]
    if shift_ptr is not None:
        wide -= tl.load(shift_ptr + group_row, mask=inside, other=0.0).to(tl.float32)[:, None]
    at = (row - start).to(tl.int64)[:, None] * columns + group * GROUP + within[None, :]
    tl.store(out_ptr + at, wide.to(out_ptr.dtype.element_ty), mask=mask)
