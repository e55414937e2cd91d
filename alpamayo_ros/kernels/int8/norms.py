"""Norms whose results become int8 rows at once: each op is one kernel, with a plain twin.

A norm and `quantize_rows` behind it write a row, read it again, and launch two kernels. Knows no
model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..norm import add_layer_norm_plain, add_rms_norm_plain
from .rotation import BLOCK, make_rotation
from .rows import fill_up, quantize_rows_plain, split_blocks

try:
    import triton
    import triton.language as tl

    from ..hopper import launch_options, wait_for_previous_kernel
    from .rows import locate_blocks, repeat_rows, store_levels, sum_rows, turn_blocks
except ImportError:  # CPU builds of torch come without Triton: the plain path serves
    triton = None


# Sums and norms need more registers than the rounding alone: smaller programs, more at a time.
TILE_BLOCKS = 64
WARPS = 4


def add_rms_norm_int8_plain(
    x: Tensor, terms: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of `add_rms_norm`: int8 (rows, `fill_up(n)`) and scales (rows) float32."""
    return quantize_rows_plain(add_rms_norm_plain(x, terms, weight, eps))


add_rms_norm_int8 = torch.library.custom_op(
    'alpamayo_ros::add_rms_norm_int8', mutates_args=('x',)
)(add_rms_norm_int8_plain)


@add_rms_norm_int8.register_fake
def _(x: Tensor, terms: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _allocate_rows(x)


def add_layer_norm_int8_plain(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum and the norm of `add_layer_norm`, the norm as int8 rows and their scales."""
    total, normed = add_layer_norm_plain(x, y, weight, bias, eps)
    return total, *quantize_rows_plain(normed)


add_layer_norm_int8 = torch.library.custom_op(
    'alpamayo_ros::add_layer_norm_int8', mutates_args=()
)(add_layer_norm_int8_plain)


@add_layer_norm_int8.register_fake
def _(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), *_allocate_rows(x)


def _allocate_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    rows = x.numel() // x.shape[-1]
    values = x.new_empty(rows, fill_up(x.shape[-1]), dtype=torch.int8)
    return values, x.new_empty(rows, dtype=torch.float32)


def add_rms_norm_int8_triton(
    x: Tensor, terms: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The op in Triton: a block takes whole rows."""
    rows = x.view(-1, x.shape[-1])  # a view, as the sum goes where x is
    found = _allocate_rows(x)
    _launch(rows, terms.contiguous(), rows, weight, None, *found, eps)
    return found


def add_layer_norm_int8_triton(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The op in Triton: a block takes whole rows."""
    total, found = x.new_empty(x.shape), _allocate_rows(x)
    rows = x.contiguous().view(-1, x.shape[-1])
    out = total.view(rows.shape)
    _launch(rows, y.contiguous().unsqueeze(0), out, weight, bias, *found, eps)
    return total, *found


def _launch(
    x: Tensor,
    terms: Tensor,
    total: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    values: Tensor,
    scale: Tensor,
    eps: float,
) -> None:
    """Quantize the norm of x (R, n) plus terms, and write the sum to total (R, n).

    bias: of a layer norm, None for a root-mean-square norm.
    """
    count, columns = x.shape
    full, rest = make_rotation(columns, x.dtype, x.device)
    most, left, rows = split_blocks(values.shape[1] // BLOCK, TILE_BLOCKS)
    constants: dict[str, Any] = {
        'SPLITS': len(terms),
        'HAS_REST': columns % BLOCK != 0,
        'EXACT': x.dtype == torch.float32,
        'BLOCK': BLOCK,
        'BLOCKS': most,
        'LEFT': left,
        'ROWS': rows,
    }
    _norm_int8_kernel[(triton.cdiv(count, rows),)](
        x,
        terms,
        total,
        weight,
        bias,
        full,
        rest,
        values,
        scale,
        count,
        columns,
        values.shape[1],
        x.stride(0),
        total.stride(0),
        terms.stride(0),
        eps,
        **constants,
        num_warps=WARPS,
        **launch_options(x.device),
    )


if triton is not None:

    @triton.jit
    def _add_blocks(
        x_ptr,
        terms_ptr,
        total_ptr,
        first,
        start,
        rows,
        columns,
        x_row,
        total_row,
        terms_size,
        SPLITS: tl.constexpr,
        BLOCK: tl.constexpr,
        BLOCKS: tl.constexpr,
        ROWS: tl.constexpr,
    ):
        """Blocks of the sum, which are also written to total."""
        row, column = locate_blocks(first, start, BLOCK, BLOCKS, ROWS)
        inside = (row < rows) & (column < columns)
        x = tl.load(x_ptr + row * x_row + column, inside, other=0.0)
        terms_ptr += row * columns + column
        summed = tl.load(terms_ptr, inside, other=0.0)
        for split in tl.static_range(1, SPLITS):
            summed += tl.load(terms_ptr + split * terms_size, inside, other=0.0)
        x += summed.to(x.dtype)
        tl.store(total_ptr + row * total_row + column, x, inside)
        return x

    @triton.jit
    def _center_blocks(
        x, mean, start, columns, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr
    ):
        """Blocks less the mean of their row, zeros behind the last column."""
        _, column = locate_blocks(0, start, BLOCK, BLOCKS, ROWS)
        return tl.where(column < columns, x - repeat_rows(mean, BLOCKS, ROWS), 0.0)

    @triton.jit
    def _scale_blocks(
        wide,
        factor,
        weight_ptr,
        bias_ptr,
        start,
        columns,
        BLOCK: tl.constexpr,
        BLOCKS: tl.constexpr,
        ROWS: tl.constexpr,
    ):
        """Normalised blocks, rounded as the norms of `kernels.norm` round them."""
        _, column = locate_blocks(0, start, BLOCK, BLOCKS, ROWS)
        inside = column < columns
        weight = tl.load(weight_ptr + column, inside, other=0.0)
        wide *= repeat_rows(factor, BLOCKS, ROWS)
        if bias_ptr is not None:
            bias = tl.load(bias_ptr + column, inside, other=0.0)
            normed = (wide * weight.to(tl.float32) + bias.to(tl.float32)).to(weight.dtype)
        else:
            normed = wide.to(weight.dtype) * weight
        return normed

    @triton.jit
    def _norm_int8_kernel(
        x_ptr,
        terms_ptr,
        total_ptr,
        weight_ptr,
        bias_ptr,
        full_ptr,
        rest_ptr,
        out_ptr,
        scale_ptr,
        rows,
        columns,
        width,
        x_row,
        total_row,
        terms_size,
        eps,
        SPLITS: tl.constexpr,
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
        x = _add_blocks(
            x_ptr, terms_ptr, total_ptr, first, 0, rows, columns, x_row, total_row, terms_size,
            SPLITS, BLOCK, BLOCKS, ROWS,
        ).to(tl.float32)  # fmt: skip
        y = x
        if LEFT > 0:
            y = _add_blocks(
                x_ptr, terms_ptr, total_ptr, first, behind, rows, columns, x_row, total_row,
                terms_size, SPLITS, BLOCK, LEFT, ROWS,
            ).to(tl.float32)  # fmt: skip
        if bias_ptr is not None:
            total = sum_rows(x, BLOCKS, ROWS)
            if LEFT > 0:
                total += sum_rows(y, LEFT, ROWS)
            x = _center_blocks(x, total / columns, 0, columns, BLOCK, BLOCKS, ROWS)
            if LEFT > 0:
                y = _center_blocks(y, total / columns, behind, columns, BLOCK, LEFT, ROWS)
        power = sum_rows(x * x, BLOCKS, ROWS)
        if LEFT > 0:
            power += sum_rows(y * y, LEFT, ROWS)
        factor = tl.rsqrt(power / columns + eps)
        normed = _scale_blocks(x, factor, weight_ptr, bias_ptr, 0, columns, BLOCK, BLOCKS, ROWS)
        has_rest: tl.constexpr = HAS_REST and LEFT == 0
        turned, peak = turn_blocks(
            normed, full_ptr, rest_ptr, 0, columns, has_rest, EXACT, BLOCK, BLOCKS, ROWS
        )
        last = turned
        if LEFT > 0:
            normed = _scale_blocks(
                y, factor, weight_ptr, bias_ptr, behind, columns, BLOCK, LEFT, ROWS
            )
            last, other = turn_blocks(
                normed, full_ptr, rest_ptr, behind, columns, HAS_REST, EXACT, BLOCK, LEFT, ROWS
            )
            peak = tl.where(other > peak, other, peak) + 0 * other
        store_levels(
            out_ptr, scale_ptr, turned, last, peak, first, rows, width, BLOCK, BLOCKS, LEFT, ROWS
        )

    add_rms_norm_int8.register_kernel('cuda')(add_rms_norm_int8_triton)
    add_layer_norm_int8.register_kernel('cuda')(add_layer_norm_int8_triton)
