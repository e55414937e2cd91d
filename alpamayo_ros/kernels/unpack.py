"""Packed weights to dense ones, a piece at a time into a scratch that is reused, in Triton.

For products of many rows, which then go to the library. Knows no module.
"""

from __future__ import annotations

import torch
from torch import Tensor
import triton
import triton.language as tl

from . import overlap
from .overlap import begin
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
    out = scratch(scale, stop - start, columns)
    fill(out, data, scale, shift, levels, start)
    return out


def fill(
    out: Tensor, data: Tensor, scale: Tensor, shift: Tensor | None, levels: int, start: int
) -> None:
    """Write the rows from `start` on into out (R, columns)."""
    _unpack(data, scale, shift, levels, None, start, out)


def rows_triton(
    data: Tensor, scale: Tensor, shift: Tensor | None, levels: int, columns: int, rows: Tensor
) -> Tensor:
    """As packing.dense_rows, rows (R) int64."""
    out = scale.new_empty(len(rows), columns)
    _unpack(data, scale, shift, levels, rows.contiguous(), 0, out)
    return out


def _unpack(
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Tensor | None,
    start: int,
    out: Tensor,
) -> None:
    """Fill out (R, columns) with the rows from `start` on, or those that are listed."""
    count, columns = out.shape
    group = group_size(data, scale, levels)
    step = min(MAX_STEP, triton.next_power_of_2(group))
    steps_per_group = triton.cdiv(group, step)
    grid = (triton.cdiv(count, ROWS), columns // group * steps_per_group)
    _unpack_kernel[grid](
        data,
        scale,
        shift,
        rows,
        out,
        start,
        count,
        columns,
        -(-scale.numel() // digits(levels)),
        LEVELS=levels,
        DIGITS=digits(levels),
        GROUP=group,
        STEP=step,
        STEPS_PER_GROUP=steps_per_group,
        ROWS=ROWS,
        **overlap.options(out.device),
    )


def scratch(like: Tensor, rows: int, columns: int) -> Tensor:
    """A matrix (rows, columns) in what is allocated once: recorded graphs keep its address."""
    key = like.device, like.dtype
    if key not in _SCRATCH:
        _SCRATCH[key] = like.new_empty(SCRATCH_BYTES // like.element_size())
    return _SCRATCH[key][: rows * columns].view(rows, columns)


@triton.jit
def _unpack_kernel(
    data_ptr,
    scale_ptr,
    shift_ptr,
    rows_ptr,
    out_ptr,
    start,
    count,
    columns,
    byte_rows,
    LEVELS: tl.constexpr,
    DIGITS: tl.constexpr,
    GROUP: tl.constexpr,
    STEP: tl.constexpr,
    STEPS_PER_GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    group = tl.program_id(1) // STEPS_PER_GROUP
    within = (tl.program_id(1) % STEPS_PER_GROUP) * STEP + tl.arange(0, STEP)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = place < count
    row = start + place
    if rows_ptr is not None:
        begin(OVERLAP)
        row = tl.load(rows_ptr + place, mask=inside, other=0).to(tl.int32)
    group_row = row * (columns // GROUP) + group
    at = (group_row % byte_rows).to(tl.int64) * GROUP
    mask = inside[:, None] & (within < GROUP)[None, :]
    code = tl.load(data_ptr + at[:, None] + within[None, :], mask=mask, other=0)
    scale = tl.load(scale_ptr + group_row, mask=inside, other=0.0).to(tl.float32)
    shift = tl.zeros((ROWS,), tl.float32)
    if shift_ptr is not None:
        shift = tl.load(shift_ptr + group_row, mask=inside, other=0.0).to(tl.float32)
    # the code becomes the upper mantissa of a number in [1, 2), as conversions are slow
    digit = group_row // byte_rows
    code = code.to(tl.int32)
    bits: tl.constexpr = (7 + DIGITS) // DIGITS
    if LEVELS**DIGITS < 256:
        power = tl.full((ROWS,), 1, tl.int32)
        for i in tl.static_range(1, DIGITS):
            power = tl.where(digit == i, LEVELS**i, power)
        code = code // power[:, None] % LEVELS << (23 - bits)
    else:
        if LEVELS == 256:  # signed
            code = code ^ 128
            shift += 128 * scale
        mask_bits: tl.constexpr = (LEVELS - 1) << (23 - bits)
        code = (code << (23 - bits - bits * digit)[:, None]) & mask_bits
    scale *= 2**bits
    wide = (code | 0x3F800000).to(tl.float32, bitcast=True)
    wide = wide * scale[:, None] - (scale + shift)[:, None]
    at = place.to(tl.int64)[:, None] * columns + group * GROUP + within[None, :]
    if rows_ptr is None:
        begin(OVERLAP)  # the product before may still read the scratch
    tl.store(out_ptr + at, wide.to(out_ptr.dtype.element_ty), mask=mask)
