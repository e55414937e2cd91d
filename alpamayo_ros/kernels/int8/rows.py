"""Rows of activations to rotated int8 with one scale a row: one op, plain or in Triton.

The kernel keeps rotated rows in registers. Knows no product.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F

from ..gpu import Gpu, gpu_of
from .rotation import BLOCK, make_rotation, rotate_plain

try:
    import triton
    import triton.language as tl

    from ..hopper import is_hopper, launch_options, wait_for_previous_kernel
    from .in_registers import rotate_blocks, round_levels
except ImportError:  # CPU builds of torch come without Triton: the plain path serves
    triton = None

LEVELS = 127  # int8 runs from -127 to 127: symmetric
TINY = 1e-30  # scale of a row of zeros
STEP = 128  # columns of a product's inner step: zeros fill int8 rows up to whole ones
LEAST_BLOCKS = 16  # a tensor core takes no fewer


class Int8Rows(NamedTuple):
    """Rows that are quantized already: what products take in place of x (..., K).

    values (rows, `fill_up(K)`) int8 and scale (rows) float32: see `quantize_rows`. like (..., K):
    of the shape and dtype of x, without memory for its numbers.
    """

    values: Tensor
    scale: Tensor
    like: Tensor


def fill_up(columns: int) -> int:
    """Columns of int8 rows that stand for so many: whole steps of a product."""
    return -(-columns // STEP) * STEP


def quantize_rows_plain(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate rows x (..., K) and round them: int8 (rows, `fill_up(K)`), scales (rows) float32.

    Row i of x, rotated, is about scale[i] * int8[i].
    """
    turned = rotate_plain(x.reshape(-1, x.shape[-1]))
    scale = turned.abs().amax(-1).clamp(min=TINY) / LEVELS
    return round_rows(turned, scale), scale


quantize_rows = torch.library.custom_op('alpamayo_ros::quantize_rows', mutates_args=())(
    quantize_rows_plain
)


@quantize_rows.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    rows = x.numel() // x.shape[-1]
    values = x.new_empty(rows, fill_up(x.shape[-1]), dtype=torch.int8)
    return values, x.new_empty(rows, dtype=torch.float32)


def make_int8_rows(x: Tensor) -> Int8Rows:
    """Rows of x as products take them; see `quantize_rows`."""
    values, scale = quantize_rows(x)
    return Int8Rows(values, scale, x.new_empty(()).expand(x.shape))


def round_rows(turned: Tensor, scale: Tensor) -> Tensor:
    """Levels (R, `fill_up(K)`) of rotated rows (R, K), zeros behind the last column."""
    levels = (turned / scale.unsqueeze(-1)).round().clamp(-LEVELS, LEVELS).to(torch.int8)
    return F.pad(levels, (0, fill_up(levels.shape[-1]) - levels.shape[-1]))


@cache
def split_blocks(blocks: int, tile: int) -> tuple[int, int, int]:
    """Powers of two: blocks of a row that a program takes first, then behind these, and its rows.

    tile: blocks that a program takes at once. Two parts leave little of what it computes unused.
    """
    most = 1 << (blocks.bit_length() - 1)
    rows = max(1, tile // most)
    if blocks == most:
        return most, 0, rows
    return most, max(triton.next_power_of_2(blocks - most), LEAST_BLOCKS // rows), rows


def choose_row_tile(gpu: Gpu) -> tuple[int, int]:
    """Blocks that a program takes at once, and its warps.

    Before Hopper, more warps would share operands of tensor cores, and rotate blocks twice.
    """
    return (256, 8) if is_hopper(gpu) else (128, 4)


def quantize_rows_triton(x: Tensor) -> tuple[Tensor, Tensor]:
    """The op in Triton: a block takes whole rows."""
    columns = x.shape[-1]
    x = x.reshape(-1, columns)
    x = x if x.stride(1) == 1 else x.contiguous()
    values = torch.empty(len(x), fill_up(columns), dtype=torch.int8, device=x.device)
    scale = torch.empty(len(x), dtype=torch.float32, device=x.device)
    full, rest = make_rotation(columns, x.dtype, x.device)
    tile, warps = choose_row_tile(gpu_of(x.device))
    most, left, rows = split_blocks(values.shape[1] // BLOCK, tile)
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
        HAS_REST=columns % BLOCK != 0,
        EXACT=x.dtype == torch.float32,
        BLOCK=BLOCK,
        BLOCKS=most,
        LEFT=left,
        ROWS=rows,
        num_warps=warps,
        **launch_options(x.device),
    )
    return values, scale


if triton is not None:

    @triton.jit
    def locate_blocks(first, start, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr):
        """Rows (ROWS * BLOCKS, 1) and columns (ROWS * BLOCKS, BLOCK) from `start` on of a part."""
        piece = tl.arange(0, ROWS * BLOCKS)
        row = (first + piece // BLOCKS)[:, None].to(tl.int64)
        return row, (piece % BLOCKS * BLOCK + start)[:, None] + tl.arange(0, BLOCK)[None, :]

    @triton.jit
    def sum_rows(x, BLOCKS: tl.constexpr, ROWS: tl.constexpr):
        """Sums (ROWS) of blocks (ROWS * BLOCKS, BLOCK)."""
        return tl.sum(tl.reshape(tl.sum(x, 1), (ROWS, BLOCKS)), 1)

    @triton.jit
    def repeat_rows(x, BLOCKS: tl.constexpr, ROWS: tl.constexpr):
        """A number of each row (ROWS) at each of its blocks, (ROWS * BLOCKS, 1)."""
        return tl.reshape(tl.broadcast_to(x[:, None], (ROWS, BLOCKS)), (ROWS * BLOCKS,))[:, None]

    @triton.jit
    def turn_blocks(
        x,
        full_ptr,
        rest_ptr,
        start,
        columns,
        HAS_REST: tl.constexpr,
        EXACT: tl.constexpr,
        BLOCK: tl.constexpr,
        BLOCKS: tl.constexpr,
        ROWS: tl.constexpr,
    ):
        """Rotated blocks of x (ROWS * BLOCKS, BLOCK) from column `start` on, and peaks of rows."""
        block = tl.arange(0, ROWS * BLOCKS) % BLOCKS + start // BLOCK
        is_rest = (block == columns // BLOCK)[:, None]
        turned = rotate_blocks(x, full_ptr, rest_ptr, is_rest, HAS_REST, EXACT)
        peak = tl.max(tl.reshape(tl.max(tl.abs(turned), 1), (ROWS, BLOCKS)), 1)
        # a sum notices a NaN, a maximum does not
        return turned, peak + 0 * sum_rows(turned, BLOCKS, ROWS)

    @triton.jit
    def store_levels(
        out_ptr,
        scale_ptr,
        turned,
        last,
        peak,
        first,
        rows,
        width,
        BLOCK: tl.constexpr,
        BLOCKS: tl.constexpr,
        LEFT: tl.constexpr,
        ROWS: tl.constexpr,
    ):
        """Write the scales of ROWS rows, and the levels of their blocks and of the last ones."""
        peak = tl.where(peak < 127 * 1e-30, 127 * 1e-30, peak)
        own = first + tl.arange(0, ROWS)
        tl.store(scale_ptr + own, peak / 127, own < rows)
        factor = 127 / peak
        row, column = locate_blocks(first, 0, BLOCK, BLOCKS, ROWS)
        level = round_levels(turned * repeat_rows(factor, BLOCKS, ROWS))
        tl.store(out_ptr + row * width + column, level, (row < rows) & (column < width))
        if LEFT > 0:
            row, column = locate_blocks(first, BLOCKS * BLOCK, BLOCK, LEFT, ROWS)
            level = round_levels(last * repeat_rows(factor, LEFT, ROWS))
            tl.store(out_ptr + row * width + column, level, (row < rows) & (column < width))

    @triton.jit
    def _load_blocks(
        x_ptr,
        first,
        start,
        rows,
        columns,
        x_row,
        BLOCK: tl.constexpr,
        BLOCKS: tl.constexpr,
        ROWS: tl.constexpr,
    ):
        row, column = locate_blocks(first, start, BLOCK, BLOCKS, ROWS)
        return tl.load(x_ptr + row * x_row + column, (row < rows) & (column < columns), other=0.0)

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
        x = _load_blocks(x_ptr, first, 0, rows, columns, x_row, BLOCK, BLOCKS, ROWS)
        has_rest: tl.constexpr = HAS_REST and LEFT == 0
        turned, peak = turn_blocks(
            x, full_ptr, rest_ptr, 0, columns, has_rest, EXACT, BLOCK, BLOCKS, ROWS
        )
        last = turned
        if LEFT > 0:
            x = _load_blocks(x_ptr, first, behind, rows, columns, x_row, BLOCK, LEFT, ROWS)
            last, other = turn_blocks(
                x, full_ptr, rest_ptr, behind, columns, HAS_REST, EXACT, BLOCK, LEFT, ROWS
            )
            peak = tl.where(other > peak, other, peak) + 0 * other
        store_levels(
            out_ptr, scale_ptr, turned, last, peak, first, rows, width, BLOCK, BLOCKS, LEFT, ROWS
        )

    quantize_rows.register_kernel('cuda')(quantize_rows_triton)
