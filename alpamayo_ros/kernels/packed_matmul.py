"""Products of few rows with packed weights, in Triton: `decode` for 1 to 16, `block` for more.

Weights are unpacked in registers; every group of `decode` is summed with the codes themselves and
scaled in float32, which is exact; `block` multiplies with weights rounded to the dtype of x. Both
split K among blocks when there are too few rows of weights to fill the device. Knows no module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
import triton
import triton.language as tl

from . import overlap, spread
from .overlap import begin
from .packing import digits, group_size

MAX_DECODE_ROWS = 16
COLUMNS = 8  # of x, that a tensor core multiplies at once
SUM_BLOCK = 512  # elements of a block that adds up splits
MAX_COLUMNS_STEP = 128  # columns per inner step; a group is never straddled


class Tile(NamedTuple):
    """How a product is cut: byte rows and warps of a block, splits of K, pipeline stages."""

    rows: int
    warps: int
    splits: int
    stages: int


class _Shape(NamedTuple):
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
        return self.columns // self.group * self.steps_per_group


def path(x_rows: int) -> Callable[..., Tensor]:
    """The function below that serves so many rows of x."""
    return single if x_rows == 1 else decode if x_rows <= MAX_DECODE_ROWS else block


def single(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
    tile: Tile | None = None,
) -> Tensor:
    """Product (1, sum of rows) of x (1, K) with packed matrices; see packed_linear."""
    shape = _shape(x, data, scale, levels, rows)
    if tile is None:
        tile = _single_tile(shape, 16 if digits(levels) == 4 else 32)
    blocks = triton.cdiv(shape.byte_rows, tile.rows)
    rounds = triton.cdiv(shape.steps, tile.splits * tile.warps)
    if rounds > COLUMNS:
        tile = tile._replace(splits=triton.cdiv(shape.steps, COLUMNS * tile.warps))
        rounds = triton.cdiv(shape.steps, tile.splits * tile.warps)
    out = x.new_empty(1, sum(rows))
    partial = out
    if tile.splits > 1:
        partial = x.new_empty(tile.splits, sum(rows), dtype=torch.float32)
    _single_kernel[(blocks, tile.splits)](
        x,
        data,
        scale,
        shift,
        out,
        partial,
        _counters(x.device, blocks),
        shape.columns,
        shape.byte_rows,
        *shape.bounds,
        rounds,
        **_constants(x, levels, shape, tile, spread.codes(levels, _spread_dtype(x), ones=False)),
        SPLITS=tile.splits,
        SEGMENTS=tile.warps,
        SLOTS=COLUMNS,
    )
    return out


def decode(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
    tile: Tile | None = None,
) -> Tensor:
    """Product (M, sum of rows) of x (M, K), M <= 16, with packed matrices; see packed_linear."""
    shape = _shape(x, data, scale, levels, rows)
    if tile is None:
        tile = _decode_tile(shape, _multiprocessors(x.device))
    blocks = triton.cdiv(shape.byte_rows, tile.rows)
    out = x.new_empty(shape.x_rows, sum(rows))
    partial = out
    if tile.splits > 1:
        partial = x.new_empty(tile.splits, *out.shape, dtype=torch.float32)
    _decode_kernel[(blocks, tile.splits)](
        x,
        data,
        scale,
        shift,
        out,
        partial,
        _counters(x.device, blocks),
        shape.x_rows,
        shape.columns,
        shape.byte_rows,
        *shape.bounds,
        triton.cdiv(shape.steps, tile.splits * tile.warps),
        **_constants(x, levels, shape, tile, spread.codes(levels, _spread_dtype(x), ones=True)),
        SPLITS=tile.splits,
        SEGMENTS=tile.warps,
        X_ROWS=8 if shape.x_rows <= 8 else 16,
    )
    return out


def block(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
    tile: Tile | None = None,
) -> Tensor:
    """As `decode` for any M, in blocks of up to 64 rows of x."""
    shape = _shape(x, data, scale, levels, rows)
    x_block = min(64, max(16, triton.next_power_of_2(shape.x_rows)))
    x_blocks = triton.cdiv(shape.x_rows, x_block)
    if tile is None:
        tile = _block_tile(shape, x_blocks, _multiprocessors(x.device))
    dtype = x.dtype if tile.splits == 1 else torch.float32
    partial = x.new_empty(tile.splits, shape.x_rows, sum(rows), dtype=dtype)
    _block_kernel[(triton.cdiv(shape.byte_rows, tile.rows), tile.splits, x_blocks)](
        x,
        data,
        scale,
        shift,
        partial,
        shape.x_rows,
        shape.columns,
        shape.byte_rows,
        *shape.bounds,
        triton.cdiv(shape.steps, tile.splits),
        **_constants(x, levels, shape, tile, spread.weights(levels, _spread_dtype(x))),
        X_ROWS=x_block,
    )
    if tile.splits == 1:
        return partial[0]
    out = x.new_empty(partial.shape[1:])
    _sum_kernel[(triton.cdiv(out.numel(), SUM_BLOCK),)](
        partial,
        out,
        out.numel(),
        SPLITS=tile.splits,
        BLOCK=SUM_BLOCK,
        **overlap.options(x.device),
    )
    return out


def _shape(x: Tensor, data: Tensor, scale: Tensor, levels: int, rows: Sequence[int]) -> _Shape:
    group = group_size(data, scale, levels)
    step = min(MAX_COLUMNS_STEP, max(16, triton.next_power_of_2(group)))
    heights = [height // digits(levels) for height in rows]
    first = heights[0]
    second = first + (heights[1] if len(rows) > 1 else 0)
    return _Shape(
        len(x), x.shape[1], group, step, triton.cdiv(group, step), sum(heights), (first, second)
    )


def _constants(
    x: Tensor, levels: int, shape: _Shape, tile: Tile, how: spread.Spread
) -> dict[str, object]:
    return {
        'LEVELS': levels,
        'DIGITS': digits(levels),
        'GROUP': shape.group,
        'STEP': shape.step,
        'STEPS_PER_GROUP': shape.steps_per_group,
        'ASSEMBLY': how.assembly,
        'CONSTRAINTS': how.constraints,
        'OFFSET': how.offset,
        'FACTORS': how.factors,
        'ROWS': tile.rows,
        'STAGES': tile.stages,
        'num_warps': tile.warps,
        **overlap.options(x.device),
    }


def _spread_dtype(x: Tensor) -> torch.dtype:
    """The interpreter runs no assembly: float32 stands for plain conversions."""
    return x.dtype if x.is_cuda else torch.float32


def _single_tile(shape: _Shape, rows: int) -> Tile:
    """The fastest of a sweep on an H200, over the model's shapes."""
    return Tile(rows, 4, _splits(shape, 4), 4 if rows == 16 else 3)


def _decode_tile(shape: _Shape, multiprocessors: int) -> Tile:
    """As `_single_tile`."""
    blocks = triton.cdiv(shape.byte_rows, 16)
    return Tile(16, 4, max(_splits(shape, 4), min(8, multiprocessors // blocks)), 3)


def _splits(shape: _Shape, warps: int) -> int:
    """Splits of K that leave each warp at most 8 steps, or 6 where there are more."""
    return 1 if shape.steps <= 8 * warps else triton.cdiv(shape.steps, 6 * warps)


def _block_tile(shape: _Shape, x_blocks: int, multiprocessors: int) -> Tile:
    """As `_single_tile`."""
    blocks = triton.cdiv(shape.byte_rows, 64) * x_blocks
    splits = max(1, min(32, 2 * multiprocessors // blocks, shape.steps // 2))
    return Tile(64, 4, splits, 3)


@cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != 'cuda':
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count


_COUNTERS: dict[torch.device, Tensor] = {}


def _counters(device: torch.device, count: int) -> Tensor:
    """Zeros, one a block of rows; a kernel leaves them as it found them."""
    if device not in _COUNTERS or len(_COUNTERS[device]) < count:
        _COUNTERS[device] = torch.zeros(max(count, 16384), dtype=torch.int32, device=device)
    return _COUNTERS[device]


@triton.jit
def _put(values, at: tl.constexpr, value):
    return values[:at] + (value,) + values[at + 1 :]


@triton.jit
def _digit(w, digit: tl.constexpr, LEVELS: tl.constexpr, dtype: tl.constexpr):
    """Codes of one digit, without assembly."""
    if LEVELS == 256:
        return w.to(dtype)
    return (w.to(tl.int32) // (LEVELS**digit) % LEVELS).to(dtype)


@triton.jit
def _row_of(at, byte_rows, bound0, bound1, DIGITS: tl.constexpr):
    """Matrix row of the lowest digit of a byte row, and how far the next digit's row is."""
    start = tl.where(at >= bound1, bound1, tl.where(at >= bound0, bound0, 0))
    stop = tl.where(at >= bound1, byte_rows, tl.where(at >= bound0, bound1, bound0))
    return DIGITS * start + at - start, stop - start


@triton.jit
def _single_kernel(
    x_ptr,
    data_ptr,
    scale_ptr,
    shift_ptr,
    out_ptr,
    partial_ptr,
    counter_ptr,
    columns,
    byte_rows,
    bound0,
    bound1,
    rounds,
    LEVELS: tl.constexpr,
    DIGITS: tl.constexpr,
    GROUP: tl.constexpr,
    STEP: tl.constexpr,
    STEPS_PER_GROUP: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    CONSTRAINTS: tl.constexpr,
    OFFSET: tl.constexpr,
    FACTORS: tl.constexpr,
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
    SPLITS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """One row of x. A tensor core multiplies with 8 columns: column i takes the i-th step of each
    warp along K and is zero elsewhere, so that scales are applied once, at the end.
    """
    block_row = tl.program_id(0)
    split = tl.program_id(1)
    byte_row = block_row * ROWS + tl.arange(0, ROWS)
    row, stride = _row_of(byte_row, byte_rows, bound0, bound1, DIGITS)
    inside_matrix = byte_row < byte_rows
    byte_row = tl.minimum(byte_row, byte_rows - 1)
    slot = tl.arange(0, SLOTS)
    groups = columns // GROUP
    dtype = x_ptr.dtype.element_ty
    first = (split * SEGMENTS + tl.arange(0, SEGMENTS)) * rounds
    # metadata of all steps is asked for first: it comes while the loop runs
    steps = first[:, None] + slot[None, :]
    used = (slot < rounds)[None, :] & (steps // STEPS_PER_GROUP < groups)
    known = used[:, None, :] & inside_matrix[None, :, None]
    scales = ()
    shifts = ()
    for digit in tl.static_range(DIGITS):
        of = (row + digit * stride)[None, :, None] * groups + (steps // STEPS_PER_GROUP)[
            :, None, :
        ]
        scales += (tl.load(scale_ptr + of, mask=known, other=0.0),)  # type: ignore[assignment]
        if shift_ptr is not None:
            shifts += (tl.load(shift_ptr + of, mask=known, other=0.0),)  # type: ignore[assignment]
    begin(OVERLAP)  # weights are not what the kernel before has written
    total = (tl.zeros((SEGMENTS, ROWS, SLOTS), tl.float32),) * DIGITS
    for i in tl.range(0, rounds, num_stages=STAGES):
        step = first + i
        group = step // STEPS_PER_GROUP
        within = ((step % STEPS_PER_GROUP) * STEP)[:, None] + tl.arange(0, STEP)[None, :]
        k = (group * GROUP)[:, None] + within
        live = (group[:, None] < groups) & (within < GROUP)
        at = byte_row[None, :, None] * columns + k[:, None, :]
        w = tl.load(data_ptr + at, mask=live[:, None, :], other=0)
        at = tl.zeros_like(slot)[None, :, None] + k[:, None, :]
        mask = (slot == i)[None, :, None] & live[:, None, :]
        x = tl.load(x_ptr + at, mask=mask, other=0.0).trans(0, 2, 1)
        if ASSEMBLY != '':
            codes = tl.inline_asm_elementwise(
                ASSEMBLY, CONSTRAINTS, [w], dtype=(dtype,) * DIGITS, is_pure=True, pack=4
            )
        else:
            codes = ()
            for digit in tl.static_range(DIGITS):
                codes = codes + (_digit(w, digit, LEVELS, dtype),)
        for digit in tl.static_range(DIGITS):
            product = tl.dot(codes[digit], x, total[digit], input_precision='ieee')
            total = _put(total, digit, product)
    place = (steps % STEPS_PER_GROUP * STEP)[:, :, None] + tl.arange(0, STEP)[None, None, :]
    real = used[:, :, None] & (place < GROUP)
    place += (steps // STEPS_PER_GROUP * GROUP)[:, :, None]
    every_x = tl.load(x_ptr + place, mask=real, other=0.0)
    sums = tl.sum(every_x.to(tl.float32), 2)[:, None, :]
    n = DIGITS * byte_rows
    for digit in tl.static_range(DIGITS):
        s = scales[digit].to(tl.float32) / FACTORS[digit]
        h = s * OFFSET
        if shift_ptr is not None:
            h += shifts[digit].to(tl.float32)
        value = tl.sum(tl.sum(s * total[digit] - h * sums, 2), 0)
        to = row + digit * stride
        if SPLITS == 1:
            tl.store(out_ptr + to, value.to(dtype), mask=inside_matrix)
        else:
            tl.store(partial_ptr + split * n + to, value, mask=inside_matrix)
    if SPLITS > 1:
        tl.debug_barrier()
        # the block that comes last adds up what the others left, always in the same order
        if tl.atomic_add(counter_ptr + block_row, 1, sem='acq_rel') == SPLITS - 1:
            for digit in tl.static_range(DIGITS):
                out = row + digit * stride
                summed = tl.zeros((ROWS,), tl.float32)
                for other in tl.static_range(SPLITS):
                    summed += tl.load(
                        partial_ptr + other * n + out, mask=inside_matrix, cache_modifier='.cg'
                    )
                tl.store(out_ptr + out, summed.to(dtype), mask=inside_matrix)
            tl.store(counter_ptr + block_row, 0)


@triton.jit
def _decode_kernel(
    x_ptr,
    data_ptr,
    scale_ptr,
    shift_ptr,
    out_ptr,
    partial_ptr,
    counter_ptr,
    x_rows,
    columns,
    byte_rows,
    bound0,
    bound1,
    rounds,
    LEVELS: tl.constexpr,
    DIGITS: tl.constexpr,
    GROUP: tl.constexpr,
    STEP: tl.constexpr,
    STEPS_PER_GROUP: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    CONSTRAINTS: tl.constexpr,
    OFFSET: tl.constexpr,
    FACTORS: tl.constexpr,
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
    SPLITS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    X_ROWS: tl.constexpr,
):
    """Each warp takes every SEGMENTS-th step along K: a batch of products, one a warp."""
    begin(OVERLAP)
    block_row = tl.program_id(0)
    split = tl.program_id(1)
    byte_row = block_row * ROWS + tl.arange(0, ROWS)
    row, stride = _row_of(byte_row, byte_rows, bound0, bound1, DIGITS)
    inside_matrix = byte_row < byte_rows
    byte_row = tl.minimum(byte_row, byte_rows - 1)
    m = tl.arange(0, X_ROWS)
    groups = columns // GROUP
    dtype = x_ptr.dtype.element_ty
    total = (tl.zeros((SEGMENTS, ROWS, X_ROWS), tl.float32),) * DIGITS
    for i in tl.range(0, rounds, num_stages=STAGES):
        step = (split * rounds + i) * SEGMENTS + tl.arange(0, SEGMENTS)
        group = step // STEPS_PER_GROUP
        within = ((step % STEPS_PER_GROUP) * STEP)[:, None] + tl.arange(0, STEP)[None, :]
        k = (group * GROUP)[:, None] + within
        live = (group[:, None] < groups) & (within < GROUP)
        at = byte_row[None, :, None] * columns + k[:, None, :]
        w = tl.load(data_ptr + at, mask=live[:, None, :], other=0)
        at = m[None, :, None] * columns + k[:, None, :]
        mask = (m < x_rows)[None, :, None] & live[:, None, :]
        x = tl.load(x_ptr + at, mask=mask, other=0.0).trans(0, 2, 1)
        if ASSEMBLY != '':
            codes = tl.inline_asm_elementwise(
                ASSEMBLY, CONSTRAINTS, [w], dtype=(dtype,) * (DIGITS + 1), is_pure=True, pack=4
            )
            ones = codes[DIGITS]
        else:
            codes = ()
            for digit in tl.static_range(DIGITS):
                codes = codes + (_digit(w, digit, LEVELS, dtype),)
            ones = tl.full((SEGMENTS, ROWS, STEP), 1.0, dtype)
        sums = tl.dot(ones, x, input_precision='ieee')  # of x, in the layout of the products
        group = tl.minimum(group, groups - 1)
        for digit in tl.static_range(DIGITS):
            at = (row + digit * stride)[None, :] * groups + group[:, None]
            mask = inside_matrix[None, :]
            s = tl.load(scale_ptr + at, mask=mask, other=0.0).to(tl.float32) / FACTORS[digit]
            h = s * OFFSET
            if shift_ptr is not None:
                h += tl.load(shift_ptr + at, mask=mask, other=0.0).to(tl.float32)
            product = tl.dot(codes[digit], x, input_precision='ieee')
            product = s[:, :, None] * product - h[:, :, None] * sums
            total = _put(total, digit, total[digit] + product)
    n = DIGITS * byte_rows
    mask = (m < x_rows)[None, :] & inside_matrix[:, None]
    at = m[None, :] * n + row[:, None]
    if SPLITS == 1:
        for digit in tl.static_range(DIGITS):
            value = tl.sum(total[digit], 0)
            tl.store(out_ptr + at + (digit * stride)[:, None], value.to(dtype), mask=mask)
    else:
        size = x_rows * n
        for digit in tl.static_range(DIGITS):
            own = split * size + at + (digit * stride)[:, None]
            tl.store(partial_ptr + own, tl.sum(total[digit], 0), mask=mask)
        tl.debug_barrier()
        # the block that comes last adds up what the others left, always in the same order
        if tl.atomic_add(counter_ptr + block_row, 1, sem='acq_rel') == SPLITS - 1:
            for digit in tl.static_range(DIGITS):
                to = at + (digit * stride)[:, None]
                summed = tl.zeros((ROWS, X_ROWS), tl.float32)
                for other in tl.static_range(SPLITS):
                    summed += tl.load(
                        partial_ptr + other * size + to, mask=mask, cache_modifier='.cg'
                    )
                tl.store(out_ptr + to, summed.to(dtype), mask=mask)
            tl.store(counter_ptr + block_row, 0)


@triton.jit
def _block_kernel(
    x_ptr,
    data_ptr,
    scale_ptr,
    shift_ptr,
    partial_ptr,
    x_rows,
    columns,
    byte_rows,
    bound0,
    bound1,
    rounds,
    LEVELS: tl.constexpr,
    DIGITS: tl.constexpr,
    GROUP: tl.constexpr,
    STEP: tl.constexpr,
    STEPS_PER_GROUP: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    CONSTRAINTS: tl.constexpr,
    OFFSET: tl.constexpr,
    FACTORS: tl.constexpr,
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
    X_ROWS: tl.constexpr,
):
    """All warps share the same step along K: one product a digit, accumulated."""
    begin(OVERLAP)
    split = tl.program_id(1)
    byte_row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row, stride = _row_of(byte_row, byte_rows, bound0, bound1, DIGITS)
    inside_matrix = byte_row < byte_rows
    byte_row = tl.minimum(byte_row, byte_rows - 1)
    m = tl.program_id(2) * X_ROWS + tl.arange(0, X_ROWS)
    groups = columns // GROUP
    dtype = x_ptr.dtype.element_ty
    total = (tl.zeros((ROWS, X_ROWS), tl.float32),) * DIGITS
    for i in tl.range(0, rounds, num_stages=STAGES):
        step = split * rounds + i
        group = step // STEPS_PER_GROUP
        within = (step % STEPS_PER_GROUP) * STEP + tl.arange(0, STEP)
        k = group * GROUP + within
        live = within < tl.where(group < groups, GROUP, 0)
        w = tl.load(
            data_ptr + byte_row[:, None] * columns + k[None, :], mask=live[None, :], other=0
        )
        x = tl.load(
            x_ptr + m[:, None] * columns + k[None, :],
            mask=(m < x_rows)[:, None] & live[None, :],
            other=0.0,
        ).trans()
        at = row * groups + tl.minimum(group, groups - 1)
        scales = ()
        shifts = ()
        for digit in tl.static_range(DIGITS):
            place = at + digit * stride * groups
            s = tl.load(scale_ptr + place, mask=inside_matrix, other=0.0)
            h = tl.zeros_like(s)
            if shift_ptr is not None:
                h = -tl.load(shift_ptr + place, mask=inside_matrix, other=0.0)
            scales += (s[:, None],)  # type: ignore[assignment]
            shifts += (h[:, None],)  # type: ignore[assignment]
        if ASSEMBLY != '':
            weights = tl.inline_asm_elementwise(
                ASSEMBLY,
                CONSTRAINTS,
                (w,) + scales + shifts,
                dtype=(dtype,) * DIGITS,
                is_pure=True,
                pack=4,
            )
        else:
            weights = ()
            for digit in tl.static_range(DIGITS):
                wide = _digit(w, digit, LEVELS, tl.float32) * scales[digit].to(tl.float32)
                weights = weights + ((wide + shifts[digit].to(tl.float32)).to(dtype),)
        for digit in tl.static_range(DIGITS):
            product = tl.dot(weights[digit], x, total[digit], input_precision='ieee')
            total = _put(total, digit, product)
    n = DIGITS * byte_rows
    for digit in tl.static_range(DIGITS):
        at = (split * x_rows + m[None, :]) * n + (row + digit * stride)[:, None]
        mask = (m < x_rows)[None, :] & inside_matrix[:, None]
        tl.store(partial_ptr + at, total[digit].to(partial_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _sum_kernel(
    partial_ptr,
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
        summed += tl.load(partial_ptr + split * count + at, mask=at < count, other=0.0)
    tl.store(out_ptr + at, summed.to(out_ptr.dtype.element_ty), mask=at < count)
