"""How products of few rows with packed weights are cut into blocks, and what their kernels share.

A product may be cut along K: it then comes as several terms in float32, which whoever reads them
adds up, always in the same order. Knows no module.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
import triton
import triton.language as tl

from . import overlap, spread
from .overlap import begin
from .packing import digits, group_size

SUM_BLOCK = 512  # elements of a block that adds up terms
MAX_COLUMNS_STEP = 128  # columns per inner step; a group is never straddled


class Tile(NamedTuple):
    """How a product is cut: byte rows and warps of a block, splits of K, pipeline stages.

    shares: blocks of `block` that share byte rows, each for some of the digits.
    """

    rows: int
    warps: int
    splits: int
    stages: int
    shares: int = 1


class Shape(NamedTuple):
    """Sizes of one product."""

    x_rows: int
    columns: int
    group: int
    step: int
    steps_per_group: int
    byte_rows: int
    bounds: tuple[int, int]

    @property
    def steps(self) -> int:
        """Inner steps along K."""
        return self.columns // self.group * self.steps_per_group


def shape_of(x: Tensor, data: Tensor, scale: Tensor, levels: int, rows: Sequence[int]) -> Shape:
    """Sizes of the product of x (M, K) with packed matrices of so many rows."""
    group = group_size(data, scale, levels)
    step = min(MAX_COLUMNS_STEP, max(16, triton.next_power_of_2(group)))
    heights = [height // digits(levels) for height in rows]
    first = heights[0]
    second = first + (heights[1] if len(rows) > 1 else 0)
    return Shape(
        len(x), x.shape[1], group, step, triton.cdiv(group, step), sum(heights), (first, second)
    )


def constants(
    x: Tensor, levels: int, shape: Shape, tile: Tile, how: spread.Spread
) -> dict[str, object]:
    """Constants that all kernels take."""
    return {
        'LEVELS': levels,
        'DIGITS': digits(levels),
        'GROUP': shape.group,
        'STEP': shape.step,
        'STEPS_PER_GROUP': shape.steps_per_group,
        'ASSEMBLY': how.assembly,
        'CONSTRAINTS': how.constraints,
        'ROWS': tile.rows,
        'STAGES': tile.stages,
        'num_warps': tile.warps,
        **overlap.options(x.device),
    }


def spread_dtype(x: Tensor) -> torch.dtype:
    """The interpreter runs no assembly: float32 stands for plain conversions."""
    return x.dtype if x.is_cuda else torch.float32


def new_terms(x: Tensor, splits: int, rows: Sequence[int]) -> Tensor:
    """Room (splits, M, sum of rows) for terms; a single one is the result itself."""
    dtype = x.dtype if splits == 1 else torch.float32
    return x.new_empty(splits, len(x), sum(rows), dtype=dtype)


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
        **overlap.options(out.device),
    )
    return out


@cache
def multiprocessors(device: torch.device) -> int:
    """Of a GPU; a small number where there is none, for the interpreter."""
    if device.type != 'cuda':
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def put(values, at: tl.constexpr, value):
    """A tuple with one value replaced."""
    return values[:at] + (value,) + values[at + 1 :]


@triton.jit
def digit_of(w, digit: tl.constexpr, LEVELS: tl.constexpr, dtype: tl.constexpr):
    """Codes of one digit, without assembly."""
    if LEVELS == 256:
        return w.to(dtype)
    return (w.to(tl.int32) // (LEVELS**digit) % LEVELS).to(dtype)


@triton.jit
def row_of(at, byte_rows, bound0, bound1, DIGITS: tl.constexpr):
    """Matrix row of the lowest digit of a byte row, and how far the next digit's row is."""
    start = tl.where(at >= bound1, bound1, tl.where(at >= bound0, bound0, 0))
    stop = tl.where(at >= bound1, byte_rows, tl.where(at >= bound0, bound1, bound0))
    return DIGITS * start + at - start, stop - start


@triton.jit
def _sum_kernel(
    terms_ptr,
    out_ptr,
    count,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    begin(OVERLAP)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    summed = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLITS):
        summed += tl.load(terms_ptr + split * count + at, mask=at < count, other=0.0)
    tl.store(out_ptr + at, summed.to(out_ptr.dtype.element_ty), mask=at < count)
