"""Unpacks weights on a GPU: steps that product kernels share, and whole rows.

The scratch serves products of many rows, which the library then computes. Knows no module.
"""

from __future__ import annotations

import torch
from torch import Tensor
import triton
import triton.language as tl

from .hopper import launch_options, wait_for_previous_kernel
from .packing import SCRATCH_BYTES, PackedMatrix
from .unpack_words import has_whole_words, unpack_words_into

ROWS = 32  # rows of a block
MAX_STEP = 128  # columns of a block, never of two groups

_SCRATCH: dict[tuple[torch.device, torch.dtype], Tensor] = {}  # of SCRATCH_BYTES each


def unpack_range_triton(matrix: PackedMatrix, columns: int, start: int, stop: int) -> Tensor:
    """Rows (stop - start, columns) as `packing.unpack_rows`; the next call overwrites them."""
    out = get_scratch(matrix.scale, stop - start, columns)
    unpack_into(out, matrix, start)
    return out


def unpack_into(out: Tensor, matrix: PackedMatrix, start: int) -> None:
    """Write the rows from `start` on into out (R, columns)."""
    if has_whole_words(matrix, out.shape[1]):
        unpack_words_into(out, matrix, start)
    else:
        _launch_unpack(matrix, None, start, out)


def unpack_rows_triton(matrix: PackedMatrix, columns: int, rows: Tensor) -> Tensor:
    """As `packing.unpack_rows`, rows (R) int64."""
    out = matrix.scale.new_empty(len(rows), columns)
    _launch_unpack(matrix, rows.contiguous(), 0, out)
    return out


def get_scratch(like: Tensor, rows: int, columns: int) -> Tensor:
    """A matrix (rows, columns) in memory allocated once: recorded graphs keep its address."""
    key = like.device, like.dtype
    if key not in _SCRATCH:
        _SCRATCH[key] = like.new_empty(SCRATCH_BYTES // like.element_size())
    return _SCRATCH[key][: rows * columns].view(rows, columns)


def _launch_unpack(matrix: PackedMatrix, rows: Tensor | None, start: int, out: Tensor) -> None:
    """Fill out (R, columns) with the listed rows, or with those from `start` on."""
    count, columns = out.shape
    group = matrix.group
    step = min(MAX_STEP, triton.next_power_of_2(group))
    steps_per_group = triton.cdiv(group, step)
    _unpack_kernel[(triton.cdiv(count, ROWS), columns // group * steps_per_group)](
        *matrix[:3],
        rows,
        out,
        start,
        count,
        columns,
        matrix.group_rows,
        LEVELS=matrix.levels,
        DIGITS=matrix.digits,
        GROUP=group,
        STEP=step,
        STEPS_PER_GROUP=steps_per_group,
        WHOLE=rows is None and has_whole_digits(matrix, columns, ROWS),
        ROWS=ROWS,
        **launch_options(out.device),
    )


@triton.jit
def replace_item(values, at: tl.constexpr, value):
    """A tuple with one value replaced."""
    return values[:at] + (value,) + values[at + 1 :]


@triton.jit
def decode_digit(w, digit: tl.constexpr, LEVELS: tl.constexpr, dtype: tl.constexpr):
    """Codes of one digit of bytes, without assembly."""
    if LEVELS == 256:
        return w.to(dtype)
    return (w.to(tl.int32) // (LEVELS**digit) % LEVELS).to(dtype)


@triton.jit
def locate_rows(first, byte_rows, bound0, bound1, ROWS: tl.constexpr, DIGITS: tl.constexpr):
    """Byte rows (ROWS) of a block from `first` on, whether each exists, and its matrix rows.

    The lowest digit of a byte row belongs to the matrix row `row`, each next digit to one `stride`
    further on. bound0 and bound1: byte rows at which the second and third joined matrix begin.
    """
    byte_row = first + tl.arange(0, ROWS)
    inside = byte_row < byte_rows
    at = tl.minimum(byte_row, byte_rows - 1)
    start = tl.where(at >= bound1, bound1, tl.where(at >= bound0, bound0, 0))
    stop = tl.where(at >= bound1, byte_rows, tl.where(at >= bound0, bound1, bound0))
    return at, inside, DIGITS * start + at - start, stop - start


@triton.jit
def locate_digits(row, first, groups, group, byte_rows, WHOLE: tl.constexpr):
    """Group row, byte row and digit of one group of matrix rows.

    row: an ascending block of them that begins at `first`. byte_rows: of groups. WHOLE: a digit
    holds whole rows, at least as many as the block: comparisons replace slow divisions.
    """
    group_row = row * groups + group
    if WHOLE:
        height = byte_rows // groups
        lowest = first // height
        digit = lowest + (row >= (lowest + 1) * height).to(tl.int32)
    else:
        digit = group_row // byte_rows
    return group_row, group_row - digit * byte_rows, digit


def has_whole_digits(matrix: PackedMatrix, columns: int, rows: int) -> bool:
    """Whether a digit of all bytes holds whole rows, at least so many."""
    groups = columns // matrix.group
    return matrix.group_rows % groups == 0 and matrix.group_rows // groups >= rows


@triton.jit
def decode_weights(code, digit, scale, shift, LEVELS: tl.constexpr, DIGITS: tl.constexpr):
    """Weights scale * code - shift, float32, of one digit of bytes (R, C).

    digit, scale and shift: (R, 1) or (R, C). The bits of a code become the lowest ones of a number
    whose last place is one, as conversions are slow.
    """
    code = code.to(tl.int32)
    if LEVELS**DIGITS < 256:
        power = tl.full(digit.shape, 1, tl.int32)
        for i in tl.static_range(1, DIGITS):
            power = tl.where(digit == i, LEVELS**i, power)
        code = code // power % LEVELS
    else:
        if LEVELS == 256:  # signed
            code = code ^ 128
            shift += 128 * scale
        low = digit * (8 // DIGITS)
        code &= (LEVELS - 1) << low
        scale *= ((127 - low) << 23).to(tl.float32, bitcast=True)  # 2**-low
    wide = (code | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0
    return wide * scale - shift


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
    WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    group = tl.program_id(1) // STEPS_PER_GROUP
    within = (tl.program_id(1) % STEPS_PER_GROUP) * STEP + tl.arange(0, STEP)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = place < count
    row = start + place
    if rows_ptr is not None:
        wait_for_previous_kernel(OVERLAP)
        row = tl.load(rows_ptr + place, mask=inside, other=0).to(tl.int32)
    groups = columns // GROUP
    first = start + tl.program_id(0) * ROWS
    group_row, byte_row, digit = locate_digits(row, first, groups, group, byte_rows, WHOLE)
    at = byte_row.to(tl.int64) * GROUP
    mask = inside[:, None] & (within < GROUP)[None, :]
    code = tl.load(data_ptr + at[:, None] + within[None, :], mask=mask, other=0)
    scale = tl.load(scale_ptr + group_row, mask=inside, other=0.0).to(tl.float32)
    shift = tl.zeros((ROWS,), tl.float32)
    if shift_ptr is not None:
        shift = tl.load(shift_ptr + group_row, mask=inside, other=0.0).to(tl.float32)
    wide = decode_weights(code, digit[:, None], scale[:, None], shift[:, None], LEVELS, DIGITS)
    at = place.to(tl.int64)[:, None] * columns + group * GROUP + within[None, :]
    if rows_ptr is None:
        wait_for_previous_kernel(OVERLAP)  # the product before may still read the scratch
    tl.store(out_ptr + at, wide.to(out_ptr.dtype.element_ty), mask=mask)
