"""Rows of numbers to rotated int8 with one scale a row: activations, and packed weights.

On a GPU each is one kernel, which keeps the rotated rows in registers. Knows no product.
"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F

from ..packing import PackedMatrix, unpack_rows
from .rotation import BLOCK, make_rotation, rotate_plain

try:
    import triton
    import triton.language as tl

    from ..hopper import launch_options, wait_for_previous_kernel
    from ..unpack import decode_weights, has_whole_digits, locate_digits
except ImportError:  # CPU builds of torch come without Triton: the plain path serves
    triton = None

LEVELS = 127  # int8 runs from -127 to 127: symmetric
TINY = 1e-30  # scale of a row of zeros
STEP = (
    128  # columns of a product's inner step: rows of int8 are filled up with zeros to whole ones
)
TILE_BLOCKS = 256  # blocks of 64 columns that a program rotates at once
LEAST_BLOCKS = 16  # a tensor core takes no fewer
WEIGHT_ROWS = 64  # of a program that unpacks
CURVES = ('', 'tanh', 'erf')  # GELU before the rounding: none, its approximation by tanh, exact


def fill_up(columns: int) -> int:
    """Columns of int8 rows that stand for so many: whole steps of a product."""
    return -(-columns // STEP) * STEP


def quantize_rows_plain(x: Tensor, curve: str = '') -> tuple[Tensor, Tensor]:
    """Rotate rows x (..., K) and round them: int8 (rows, `fill_up(K)`), scales (rows) float32.

    curve: GELU of x first, see CURVES. Row i of x, rotated, is about scale[i] * int8[i].
    """
    if curve:
        x = F.gelu(x, approximate='tanh' if curve == 'tanh' else 'none')
    turned = rotate_plain(x.reshape(-1, x.shape[-1]))
    scale = turned.abs().amax(-1).clamp(min=TINY) / LEVELS
    return _round(turned, scale), scale


quantize_rows = torch.library.custom_op('alpamayo_ros::quantize_rows', mutates_args=())(
    quantize_rows_plain
)


@quantize_rows.register_fake
def _(x: Tensor, curve: str = '') -> tuple[Tensor, Tensor]:
    rows = x.numel() // x.shape[-1]
    values = x.new_empty(rows, fill_up(x.shape[-1]), dtype=torch.int8)
    return values, x.new_empty(rows, dtype=torch.float32)


def _round(turned: Tensor, scale: Tensor) -> Tensor:
    levels = (turned / scale.unsqueeze(-1)).round().clamp(-LEVELS, LEVELS).to(torch.int8)
    return F.pad(levels, (0, fill_up(levels.shape[-1]) - levels.shape[-1]))


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
    return _round(rotate_plain(unpack_rows(matrix, columns, rows)), row_scale[start:stop])


def quantize_rows_triton(x: Tensor, curve: str = '') -> tuple[Tensor, Tensor]:
    """The op in Triton: a block takes whole rows."""
    columns = x.shape[-1]
    x = x.reshape(-1, columns)
    x = x if x.stride(1) == 1 else x.contiguous()
    values = torch.empty(len(x), fill_up(columns), dtype=torch.int8, device=x.device)
    scale = torch.empty(len(x), dtype=torch.float32, device=x.device)
    full, rest = make_rotation(columns, x.dtype, x.device)
    # a power of two of blocks, and what is left: little of what a program computes is unused
    blocks = values.shape[1] // BLOCK
    most = 1 << (blocks.bit_length() - 1)
    rows = max(1, TILE_BLOCKS // most)
    left = triton.next_power_of_2(blocks - most) if blocks > most else 0
    _quantize_kernel[(triton.cdiv(len(x), rows),)](
        x,
        full,
        rest,
        values,
        scale,
        len(x),
        columns,
        values.shape[1],
        x.stride(0),
        CURVE=curve,
        HAS_REST=columns % BLOCK != 0,
        EXACT=x.dtype == torch.float32,
        BLOCK=BLOCK,
        BLOCKS=most,
        LEFT=max(left, triton.cdiv(LEAST_BLOCKS, rows)) if left else 0,
        ROWS=rows,
        num_warps=8,
        **launch_options(x.device),
    )
    return values, scale


def unpack_int8_into(
    out: Tensor, matrix: PackedMatrix, row_scale: Tensor, columns: int, start: int
) -> None:
    """Write the rows from `start` on into out (R, fill_up(columns)), as `unpack_int8_plain`."""
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
    def _rotate(x, full_ptr, rest_ptr, is_rest, HAS_REST: tl.constexpr, EXACT: tl.constexpr):
        """Rotate blocks x (R, BLOCK); is_rest (R, 1): where the smaller blocks are."""
        at = tl.arange(0, x.shape[1])
        place = at[:, None] * x.shape[1] + at[None, :]
        full = tl.load(full_ptr + place)
        precision: tl.constexpr = 'ieee' if EXACT else 'tf32'
        if HAS_REST:
            rest = tl.load(rest_ptr + place)
            zero = tl.zeros_like(x)
            turned = tl.dot(tl.where(is_rest, zero, x), full, input_precision=precision)
            return tl.dot(tl.where(is_rest, x, zero), rest, turned, input_precision=precision)
        return tl.dot(x, full, input_precision=precision)

    @triton.jit
    def _round_levels(x):
        """Round x, at most 2**21, to int8, half to even: conversions are slow, a sum is not.

        The sum has a place of one as its last one, so its low byte is that of the integer.
        """
        return (x + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)

    @triton.jit
    def _gelu(x, CURVE: tl.constexpr):
        if CURVE == 'tanh':
            inner = x * (1.5957691216057308 + 0.07135481282553 * x * x)
            total = 1 + tl.exp(-inner)
            return x * tl.rsqrt(total * total)  # a division takes eight instructions more
        return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))

    @triton.jit
    def _turn_blocks(
        x_ptr,
        full_ptr,
        rest_ptr,
        first,
        start,
        rows,
        columns,
        x_row,
        CURVE: tl.constexpr,
        HAS_REST: tl.constexpr,
        EXACT: tl.constexpr,
        BLOCK: tl.constexpr,
        BLOCKS: tl.constexpr,
        ROWS: tl.constexpr,
    ):
        """Rotated blocks (ROWS * BLOCKS, BLOCK) from column `start` on of ROWS rows, and peaks."""
        piece = tl.arange(0, ROWS * BLOCKS)
        row = (first + piece // BLOCKS)[:, None].to(tl.int64)
        block = piece % BLOCKS + start // BLOCK
        column = (block * BLOCK)[:, None] + tl.arange(0, BLOCK)[None, :]
        x = tl.load(x_ptr + row * x_row + column, (row < rows) & (column < columns), other=0.0)
        if CURVE != '':
            x = _gelu(x.to(tl.float32), CURVE).to(x.dtype)
        is_rest = (block == columns // BLOCK)[:, None]
        turned = _rotate(x, full_ptr, rest_ptr, is_rest, HAS_REST, EXACT)
        peak = tl.max(tl.reshape(tl.max(tl.abs(turned), 1), (ROWS, BLOCKS)), 1)
        # a sum notices a NaN, a maximum does not
        return turned, peak + 0 * tl.sum(tl.reshape(tl.sum(turned, 1), (ROWS, BLOCKS)), 1)

    @triton.jit
    def _store_blocks(
        out_ptr,
        turned,
        factor,
        first,
        start,
        rows,
        width,
        BLOCK: tl.constexpr,
        BLOCKS: tl.constexpr,
        ROWS: tl.constexpr,
    ):
        piece = tl.arange(0, ROWS * BLOCKS)
        row = (first + piece // BLOCKS)[:, None].to(tl.int64)
        column = (piece % BLOCKS * BLOCK + start)[:, None] + tl.arange(0, BLOCK)[None, :]
        factor = tl.reshape(tl.broadcast_to(factor[:, None], (ROWS, BLOCKS)), (ROWS * BLOCKS,))
        level = _round_levels(turned * factor[:, None])
        tl.store(out_ptr + row * width + column, level, (row < rows) & (column < width))

    @triton.jit
    def _quantize_kernel(
        x_ptr,
        full_ptr,
        rest_ptr,
        out_ptr,
        scale_ptr,
        rows,
        columns,
        width,
        x_row,
        CURVE: tl.constexpr,
        HAS_REST: tl.constexpr,
        EXACT: tl.constexpr,
        BLOCK: tl.constexpr,
        BLOCKS: tl.constexpr,
        LEFT: tl.constexpr,
        ROWS: tl.constexpr,
        OVERLAP: tl.constexpr,
    ):
        """ROWS rows: BLOCKS blocks of each, and LEFT behind them."""
        wait_for_previous_kernel(OVERLAP)
        first = tl.program_id(0) * ROWS
        behind: tl.constexpr = BLOCKS * BLOCK
        turned, peak = _turn_blocks(
            x_ptr, full_ptr, rest_ptr, first, 0, rows, columns, x_row,
            CURVE, HAS_REST and LEFT == 0, EXACT, BLOCK, BLOCKS, ROWS,
        )  # fmt: skip
        if LEFT > 0:
            last, other = _turn_blocks(
                x_ptr, full_ptr, rest_ptr, first, behind, rows, columns, x_row,
                CURVE, HAS_REST, EXACT, BLOCK, LEFT, ROWS,
            )  # fmt: skip
            peak = tl.where(other > peak, other, peak) + 0 * other
        peak = tl.where(peak < 127 * 1e-30, 127 * 1e-30, peak)
        own = first + tl.arange(0, ROWS)
        tl.store(scale_ptr + own, peak / 127, own < rows)
        factor = 127 / peak
        _store_blocks(out_ptr, turned, factor, first, 0, rows, width, BLOCK, BLOCKS, ROWS)
        if LEFT > 0:
            _store_blocks(out_ptr, last, factor, first, behind, rows, width, BLOCK, LEFT, ROWS)

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
        turned = _rotate(weight, full_ptr, rest_ptr, is_rest, not one_group, EXACT)
        factor = 1 / tl.load(row_scale_ptr + start + place, place < count, other=1.0)
        level = _round_levels(tl.reshape(turned, (ROWS, STEP)) * factor[:, None])
        wait_for_previous_kernel(OVERLAP)  # the product before may still read what is overwritten
        at = place.to(tl.int64)[:, None] * width + column[None, :]
        tl.store(out_ptr + at, level, (place < count)[:, None])

    quantize_rows.register_kernel('cuda')(quantize_rows_triton)
