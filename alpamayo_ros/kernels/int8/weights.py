"""Packed weights to rotated int8 with one scale a row, for products of many rows.

On a GPU one kernel unpacks, rotates and rounds them. Knows no product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..packing import PackedMatrix, unpack_rows
from .rotation import BLOCK, make_rotation, rotate_plain
from .rows import LEVELS, STEP, TINY, round_rows

try:
    import triton
    import triton.language as tl

    from ..hopper import launch_options, wait_for_previous_kernel
    from ..unpack import decode_weights, has_whole_digits, locate_digits
    from ..unpack_words import has_whole_words
    from .in_registers import rotate_blocks, round_levels
    from .words import unpack_words
except ImportError:  # CPU builds of torch come without Triton: the plain path serves
    triton = None

WEIGHT_ROWS = 64  # of a program that unpacks any matrix


def compute_weight_scales(matrix: PackedMatrix, columns: int) -> Tensor:
    """Scales (N) float32 with which `unpack_int8` rounds the rows of a packed matrix."""
    count = matrix.group_rows * matrix.digits * matrix.group // columns
    rows = torch.arange(min(count, matrix.scale.numel() * matrix.group // columns))
    parts = rows.to(matrix.data.device).split(max(1, (1 << 24) // columns))
    peaks = [rotate_plain(unpack_rows(matrix, columns, part)).abs().amax(-1) for part in parts]
    return torch.cat(peaks).clamp(min=TINY) / LEVELS


def unpack_int8_plain(
    matrix: PackedMatrix, row_scale: Tensor, columns: int, start: int, stop: int
) -> Tensor:
    """Rows (stop - start, fill_up(columns)) of a packed matrix, rotated: int8 of row_scale (N)."""
    rows = torch.arange(start, stop, device=matrix.data.device)
    return round_rows(rotate_plain(unpack_rows(matrix, columns, rows)), row_scale[start:stop])


def unpack_int8_into(
    out: Tensor, matrix: PackedMatrix, row_scale: Tensor, columns: int, start: int
) -> None:
    """Write the rows from `start` on into out (R, fill_up(columns)), as `unpack_int8_plain`."""
    if has_whole_words(matrix, columns):
        unpack_words(out, matrix, row_scale, columns, start)
        return
    count, width = out.shape
    full, rest = make_rotation(columns, matrix.scale.dtype, out.device)
    _unpack_int8_kernel[(triton.cdiv(count, WEIGHT_ROWS), width // STEP)](
        *matrix[:3],
        row_scale,
        full,
        rest,
        out,
        start,
        count,
        columns,
        width,
        matrix.group_rows,
        LEVELS=matrix.levels,
        DIGITS=matrix.digits,
        GROUP=matrix.group,
        WHOLE=has_whole_digits(matrix, columns, WEIGHT_ROWS),
        EXACT=matrix.scale.dtype == torch.float32,
        BLOCK=BLOCK,
        STEP=STEP,
        ROWS=WEIGHT_ROWS,
        num_warps=4,
        **launch_options(out.device),
    )


if triton is not None:

    @triton.jit
    def _unpack_int8_kernel(
        data_ptr,
        scale_ptr,
        shift_ptr,
        row_scale_ptr,
        full_ptr,
        rest_ptr,
        out_ptr,
        start,
        count,
        columns,
        width,
        byte_rows,
        LEVELS: tl.constexpr,
        DIGITS: tl.constexpr,
        GROUP: tl.constexpr,
        WHOLE: tl.constexpr,
        EXACT: tl.constexpr,
        BLOCK: tl.constexpr,
        STEP: tl.constexpr,
        ROWS: tl.constexpr,
        OVERLAP: tl.constexpr,
    ):
        """ROWS rows and STEP columns of a packed matrix."""
        first = tl.program_id(0) * ROWS
        place = first + tl.arange(0, ROWS)
        column = tl.program_id(1) * STEP + tl.arange(0, STEP)
        real = (place < count)[:, None]
        one_group: tl.constexpr = GROUP % STEP == 0  # then no column is missing either
        if one_group:
            group = tl.program_id(1) * STEP // GROUP
            within = tl.program_id(1) * STEP - group * GROUP + tl.arange(0, STEP)[None, :]
        else:
            real = real & (column < columns)[None, :]  # what is behind them becomes zeros
            group = column[None, :] // GROUP
            within = (column % GROUP)[None, :]
        groups = columns // GROUP
        row = (start + place)[:, None]
        group_row, byte_row, digit = locate_digits(
            row, start + first, groups, group, byte_rows, WHOLE
        )
        code = tl.load(data_ptr + byte_row.to(tl.int64) * GROUP + within, real, other=0)
        scale = tl.load(scale_ptr + group_row, real, other=0.0).to(tl.float32)
        shift = tl.zeros_like(scale)
        if shift_ptr is not None:
            shift = tl.load(shift_ptr + group_row, real, other=0.0).to(tl.float32)
        weight = decode_weights(code, digit, scale, shift, LEVELS, DIGITS)
        if not one_group:
            weight = tl.where(real, weight, 0.0)
        blocks: tl.constexpr = ROWS * (STEP // BLOCK)
        weight = tl.reshape(weight.to(scale_ptr.dtype.element_ty), (blocks, BLOCK))
        block = tl.program_id(1) * (STEP // BLOCK) + tl.arange(0, blocks) % (STEP // BLOCK)
        is_rest = (block == columns // BLOCK)[:, None]
        turned = rotate_blocks(weight, full_ptr, rest_ptr, is_rest, not one_group, EXACT)
        factor = 1 / tl.load(row_scale_ptr + start + place, place < count, other=1.0)
        level = round_levels(tl.reshape(turned, (ROWS, STEP)) * factor[:, None])
        wait_for_previous_kernel(OVERLAP)  # the product before may still read what is overwritten
        at = place.to(tl.int64)[:, None] * width + column[None, :]
        tl.store(out_ptr + at, level, (place < count)[:, None])
