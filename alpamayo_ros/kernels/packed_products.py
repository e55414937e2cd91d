"""Products of few rows with packed weights: which kernel computes them, cut into which blocks.

Weights are unpacked in registers and never stored. A product may be cut along K: it then comes as
several terms in float32. Whoever reads the terms adds them up, always in the same order. Knows no
module.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
import triton
import triton.language as tl

from . import assembly
from .gpu import Gpu, gpu_of
from .hopper import (
    block_shares,
    is_hopper,
    launch_options,
    wait_for_previous_kernel,
)
from .packed_block import X_BLOCK, block_kernel
from .packed_few_rows import MAX_ROWS, SLOTS, few_rows_kernel, one_row_kernel
from .packing import PackedMatrix, count_digits

SUM_BLOCK = 512  # elements of a block that adds up terms
MAX_COLUMNS_STEP = 128  # columns per inner step; a group is never straddled


class Tile(NamedTuple):
    """How a product is cut: byte rows and warps of a block, splits of K, pipeline stages.

    shares: blocks of `block_kernel` that share byte rows, each for some of the digits.
    """

    rows: int
    warps: int
    splits: int
    stages: int
    shares: int = 1


class ProductSizes(NamedTuple):
    """Sizes of one product; bounds: byte rows at which the second and third matrix begin."""

    x_rows: int
    columns: int
    group: int
    levels: int
    byte_rows: int
    bounds: tuple[int, int]

    @property
    def step(self) -> int:
        """Columns per inner step."""
        return min(MAX_COLUMNS_STEP, max(16, triton.next_power_of_2(self.group)))

    @property
    def steps_per_group(self) -> int:
        """Inner steps per group."""
        return int(triton.cdiv(self.group, self.step))

    @property
    def steps(self) -> int:
        """Inner steps along K."""
        return self.columns // self.group * self.steps_per_group


class ProductLaunch(NamedTuple):
    """A kernel, its grid, the rounds of its inner loop, the number of terms and the constants."""

    kernel: Any
    grid: tuple[int, ...]
    rounds: int
    tile: Tile
    constants: dict[str, Any]


def multiply(
    x: Tensor, matrix: PackedMatrix, rows: Sequence[int], tile: Tile | None = None
) -> Tensor:
    """Terms (S, M, sum of rows) of the product of x (M, K) with packed matrices of these heights.

    tile: for tests and sweeps; without one, the fastest known tile is taken.
    """
    sizes = product_sizes(len(x), x.shape[1], matrix.group, matrix.levels, tuple(rows))
    # the interpreter runs no assembly: float32 stands for plain conversions
    dtype = x.dtype if x.is_cuda else torch.float32
    plan = plan_launch(sizes, dtype, gpu_of(x.device), tile)
    splits = plan.tile.splits  # a single term is the result itself
    terms = x.new_empty(splits, len(x), sum(rows), dtype=x.dtype if splits == 1 else torch.float32)
    arguments = {
        'x_ptr': x,
        'data_ptr': matrix.data,
        'scale_ptr': matrix.scale,
        'shift_ptr': matrix.shift,
        'terms_ptr': terms,
        'x_rows': len(x),
        'columns': sizes.columns,
        'groups': sizes.columns // sizes.group,
        'byte_rows': sizes.byte_rows,
        'bound0': sizes.bounds[0],
        'bound1': sizes.bounds[1],
        'rounds': plan.rounds,
    }
    taken = {name: arguments[name] for name in plan.kernel.arg_names if name in arguments}
    options = launch_options(x.device)
    plan.kernel[plan.grid](**taken, **plan.constants, **options, num_warps=plan.tile.warps)
    return terms


def product_sizes(
    x_rows: int, columns: int, group: int, levels: int, rows: tuple[int, ...]
) -> ProductSizes:
    """Sizes of the product of x (x_rows, columns) with packed matrices of these heights."""
    heights = [height // count_digits(levels) for height in rows]
    first = heights[0]
    second = first + (heights[1] if len(rows) > 1 else 0)
    return ProductSizes(x_rows, columns, group, levels, sum(heights), (first, second))


@cache
def plan_launch(
    sizes: ProductSizes, dtype: torch.dtype, gpu: Gpu, tile: Tile | None = None
) -> ProductLaunch:
    """Choose kernel, tile and constants of a product on a GPU."""
    if sizes.x_rows == 1:
        return _plan_one_row(sizes, dtype, tile or _one_row_tile(sizes, gpu))
    if sizes.x_rows <= MAX_ROWS:
        return _plan_few_rows(sizes, dtype, tile or _few_rows_tile(sizes, gpu))
    return _plan_block(sizes, dtype, tile or _block_tile(sizes, gpu))


def _plan_one_row(sizes: ProductSizes, dtype: torch.dtype, tile: Tile) -> ProductLaunch:
    rounds = triton.cdiv(sizes.steps, tile.splits * tile.warps)
    if rounds > SLOTS:
        tile = tile._replace(splits=triton.cdiv(sizes.steps, SLOTS * tile.warps))
        rounds = triton.cdiv(sizes.steps, tile.splits * tile.warps)
    code = assembly.assemble_pairs(sizes.levels, dtype)
    constants = _constants(sizes, tile, code) | {
        'OFFSET': code.offset,
        'FACTORS': code.factors,
        'PLACES': triton.next_power_of_2(count_digits(sizes.levels)),
        'SEGMENTS': tile.warps,
        'SLOTS': SLOTS,
        'ROUNDS': rounds,
        'EVEN': sizes.steps == rounds * tile.splits * tile.warps,
    }
    grid = triton.cdiv(sizes.byte_rows, tile.rows), tile.splits
    return ProductLaunch(one_row_kernel, grid, rounds, tile, constants)


def _plan_few_rows(sizes: ProductSizes, dtype: torch.dtype, tile: Tile) -> ProductLaunch:
    code = assembly.assemble_codes(sizes.levels, dtype)
    constants = _constants(sizes, tile, code) | {
        'OFFSET': code.offset,
        'FACTORS': code.factors,
        'SEGMENTS': tile.warps,
        'X_ROWS': 8 if sizes.x_rows <= 8 else 16,
    }
    rounds = triton.cdiv(sizes.steps, tile.splits * tile.warps)
    grid = triton.cdiv(sizes.byte_rows, tile.rows), tile.splits
    return ProductLaunch(few_rows_kernel, grid, rounds, tile, constants)


def _plan_block(sizes: ProductSizes, dtype: torch.dtype, tile: Tile) -> ProductLaunch:
    digits = count_digits(sizes.levels)
    if sizes.levels**digits < 256 or digits % tile.shares:
        tile = tile._replace(shares=1)  # no whole bits a digit, or no equal shares
    taken, x_block = digits // tile.shares, _x_block(sizes)
    code = assembly.assemble_weights(sizes.levels, dtype, taken)
    constants = _constants(sizes, tile, code) | {
        'X_ROWS': x_block,
        'TAKEN': taken,
        'AHEAD': tile.shares > 1,
    }
    rounds = triton.cdiv(sizes.steps, tile.splits)
    blocks = triton.cdiv(sizes.byte_rows, tile.rows) * tile.shares
    grid = blocks, tile.splits, triton.cdiv(sizes.x_rows, x_block)
    return ProductLaunch(block_kernel, grid, rounds, tile, constants)


def _constants(sizes: ProductSizes, tile: Tile, code: assembly.UnpackAssembly) -> dict[str, Any]:
    """Constants that all kernels take."""
    return {
        'LEVELS': sizes.levels,
        'DIGITS': count_digits(sizes.levels),
        'GROUP': sizes.group,
        'STEP': sizes.step,
        'STEPS_PER_GROUP': sizes.steps_per_group,
        'ASSEMBLY': code.assembly,
        'CONSTRAINTS': code.constraints,
        'ROWS': tile.rows,
        'STAGES': tile.stages,
    }


def _one_row_tile(sizes: ProductSizes, gpu: Gpu) -> Tile:
    """The fastest of a sweep on an H200, over the model's shapes."""
    if 2 * triton.cdiv(sizes.byte_rows, 16) <= gpu.multiprocessors:  # too few to fill the device
        return Tile(16, 2, 4, 4) if sizes.steps <= 64 else Tile(16, 4, 4, 3)
    splits = 1 if sizes.steps <= 8 * 4 else triton.cdiv(sizes.steps, 6 * 4)
    return Tile(16 if count_digits(sizes.levels) == 4 else 32, 4, splits, 3)


def _few_rows_tile(sizes: ProductSizes, gpu: Gpu) -> Tile:
    """The fastest of a sweep on an H200, over the model's shapes."""
    splits = 1 if sizes.steps <= 8 * 4 else triton.cdiv(sizes.steps, 6 * 4)
    splits = max(splits, min(8, gpu.multiprocessors // triton.cdiv(sizes.byte_rows, 16)))
    return Tile(16, 4, splits, 3)


def _block_tile(sizes: ProductSizes, gpu: Gpu) -> Tile:
    """The fastest of a sweep on an H200, over the model's shapes."""
    shares, rows, wanted = 1, 64, 2 * gpu.multiprocessors
    if is_hopper(gpu):
        shares, rows = block_shares(count_digits(sizes.levels), sizes.byte_rows, sizes.steps)
        wanted = gpu.multiprocessors
    blocks = triton.cdiv(sizes.byte_rows, rows) * shares
    blocks *= triton.cdiv(sizes.x_rows, _x_block(sizes))
    splits = max(1, min(32, wanted // blocks, sizes.steps // 2))
    return Tile(rows, rows // 16, splits, 3, shares)


def _x_block(sizes: ProductSizes) -> int:
    """Rows of x of a block."""
    return min(X_BLOCK, max(16, triton.next_power_of_2(sizes.x_rows)))


def sum_terms(terms: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum (...) of terms (S, ...), rounded once."""
    if len(terms) == 1:
        return terms[0]
    out = terms.new_empty(terms.shape[1:], dtype=dtype)
    _sum_kernel[(triton.cdiv(out.numel(), SUM_BLOCK),)](
        terms,
        out,
        out.numel(),
        SPLITS=len(terms),
        BLOCK=SUM_BLOCK,
        **launch_options(out.device),
    )
    return out


@triton.jit
def _sum_kernel(
    terms_ptr,
    out_ptr,
    count,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    wait_for_previous_kernel(OVERLAP)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    summed = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLITS):
        summed += tl.load(terms_ptr + split * count + at, mask=at < count, other=0.0)
    tl.store(out_ptr + at, summed.to(out_ptr.dtype.element_ty), mask=at < count)
