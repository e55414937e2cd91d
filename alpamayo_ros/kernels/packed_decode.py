"""Product of 2 to 16 rows with packed weights, in Triton: one more token of several samples.

Every group is summed with the codes themselves and scaled in float32, which is exact. Knows no
module.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
import triton
import triton.language as tl

from . import spread
from .overlap import begin
from .packed_tiles import (
    Shape,
    Tile,
    constants,
    digit_of,
    multiprocessors,
    new_terms,
    put,
    row_of,
    shape_of,
    spread_dtype,
)

MAX_ROWS = 16


def decode(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
    tile: Tile | None = None,
) -> Tensor:
    """Terms (S, M, sum of rows) of the product of x (M, K), M <= 16; as `single`."""
    shape = shape_of(x, data, scale, levels, rows)
    tile = tile or _tile(shape, multiprocessors(x.device))
    how = spread.codes(levels, spread_dtype(x))
    terms = new_terms(x, tile.splits, rows)
    _decode_kernel[(triton.cdiv(shape.byte_rows, tile.rows), tile.splits)](
        x,
        data,
        scale,
        shift,
        terms,
        shape.x_rows,
        shape.columns,
        shape.columns // shape.group,
        shape.byte_rows,
        *shape.bounds,
        triton.cdiv(shape.steps, tile.splits * tile.warps),
        **constants(x, levels, shape, tile, how),
        OFFSET=how.offset,
        FACTORS=how.factors,
        SEGMENTS=tile.warps,
        X_ROWS=8 if shape.x_rows <= 8 else 16,
    )
    return terms


def _tile(shape: Shape, processors: int) -> Tile:
    """The fastest of a sweep on an H200, over the model's shapes."""
    splits = 1 if shape.steps <= 8 * 4 else triton.cdiv(shape.steps, 6 * 4)
    splits = max(splits, min(8, processors // triton.cdiv(shape.byte_rows, 16)))
    return Tile(16, 4, splits, 3)


@triton.jit
def _scales(scale_ptr, shift_ptr, row, stride, group, groups, DIGITS: tl.constexpr):
    """Scales and shifts (SEGMENTS, ROWS) of each digit in one group of each warp."""
    scales = ()
    shifts = ()
    group = tl.minimum(group, groups - 1)
    for digit in tl.static_range(DIGITS):
        at = (row + digit * stride)[None, :] * groups + group[:, None]
        scales += (tl.load(scale_ptr + at),)  # type: ignore[assignment]
        if shift_ptr is not None:
            shifts += (tl.load(shift_ptr + at),)  # type: ignore[assignment]
    return scales, shifts


@triton.jit
def _decode_kernel(
    x_ptr,
    data_ptr,
    scale_ptr,
    shift_ptr,
    terms_ptr,
    x_rows,
    columns,
    groups,
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
    SEGMENTS: tl.constexpr,
    X_ROWS: tl.constexpr,
):
    """Each warp takes every SEGMENTS-th step along K: a batch of products, one a warp."""
    split = tl.program_id(1)
    byte_row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside_matrix = byte_row < byte_rows
    byte_row = tl.minimum(byte_row, byte_rows - 1)
    row, stride = row_of(byte_row, byte_rows, bound0, bound1, DIGITS)
    m = tl.arange(0, X_ROWS)
    dtype = x_ptr.dtype.element_ty
    first = split * rounds * SEGMENTS + tl.arange(0, SEGMENTS)
    # scales are asked for one step ahead, the first before waiting for the kernel before
    scales, shifts = _scales(
        scale_ptr, shift_ptr, row, stride, first // STEPS_PER_GROUP, groups, DIGITS
    )
    begin(OVERLAP)
    total = (tl.zeros((SEGMENTS, ROWS, X_ROWS), tl.float32),) * DIGITS
    for i in tl.range(0, rounds, num_stages=STAGES):
        step = first + i * SEGMENTS
        group = step // STEPS_PER_GROUP
        within = ((step % STEPS_PER_GROUP) * STEP)[:, None] + tl.arange(0, STEP)[None, :]
        k = (group * GROUP)[:, None] + within
        live = (group[:, None] < groups) & (within < GROUP)
        at = byte_row[None, :, None] * columns + k[:, None, :]
        w = tl.load(data_ptr + at, mask=live[:, None, :], other=0)
        at = m[None, :, None] * columns + k[:, None, :]
        mask = (m < x_rows)[None, :, None] & live[:, None, :]
        x = tl.load(x_ptr + at, mask=mask, other=0.0).trans(0, 2, 1)
        following = (step + SEGMENTS) // STEPS_PER_GROUP
        next_scales, next_shifts = _scales(
            scale_ptr, shift_ptr, row, stride, following, groups, DIGITS
        )
        if ASSEMBLY != '':
            codes = tl.inline_asm_elementwise(
                ASSEMBLY, CONSTRAINTS, [w], dtype=(dtype,) * (DIGITS + 1), is_pure=True, pack=4
            )
            ones = codes[DIGITS]
        else:
            codes = ()
            for digit in tl.static_range(DIGITS):
                codes = codes + (digit_of(w, digit, LEVELS, dtype),)
            ones = tl.full((SEGMENTS, ROWS, STEP), 1.0, dtype)
        sums = tl.dot(ones, x, input_precision='ieee')  # of x, in the layout of the products
        for digit in tl.static_range(DIGITS):
            s = scales[digit].to(tl.float32) / FACTORS[digit]
            h = s * OFFSET
            if shift_ptr is not None:
                h += shifts[digit].to(tl.float32)
            product = tl.dot(codes[digit], x, input_precision='ieee')
            product = s[:, :, None] * product - h[:, :, None] * sums
            total = put(total, digit, total[digit] + product)
        scales = next_scales
        shifts = next_shifts
    n = DIGITS * byte_rows
    mask = (m < x_rows)[None, :] & inside_matrix[:, None]
    at = (split * x_rows + m[None, :]) * n + row[:, None]
    for digit in tl.static_range(DIGITS):
        value = tl.sum(total[digit], 0).to(terms_ptr.dtype.element_ty)
        tl.store(terms_ptr + at + (digit * stride)[:, None], value, mask=mask)
