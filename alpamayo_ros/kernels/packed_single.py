"""Product of one row with packed weights, in Triton: a decode step, where every byte counts once.

A tensor core multiplies with 8 columns: column i is the i-th step of each warp along K. All codes
are multiplied with all columns and only the step's own is kept, so that scales are applied once,
at the end, in float32 to sums of the codes themselves. Knows no module.
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
from .packing import digits

COLUMNS = 8  # of x, that a tensor core multiplies at once


def single(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
    tile: Tile | None = None,
) -> Tensor:
    """Terms (S, 1, sum of rows) of the product of x (1, K) with packed matrices: `packed_terms`.

    tile: for tests and sweeps; none takes the fastest that is known.
    """
    shape = shape_of(x, data, scale, levels, rows)
    tile = tile or _tile(shape, digits(levels), multiprocessors(x.device))
    rounds = triton.cdiv(shape.steps, tile.splits * tile.warps)
    if rounds > COLUMNS:
        tile = tile._replace(splits=triton.cdiv(shape.steps, COLUMNS * tile.warps))
        rounds = triton.cdiv(shape.steps, tile.splits * tile.warps)
    how = spread.pairs(levels, spread_dtype(x))
    terms = new_terms(x, tile.splits, rows)
    _single_kernel[(triton.cdiv(shape.byte_rows, tile.rows), tile.splits)](
        x,
        data,
        scale,
        shift,
        terms,
        shape.columns,
        shape.columns // shape.group,
        shape.byte_rows,
        *shape.bounds,
        **constants(x, levels, shape, tile, how),
        OFFSET=how.offset,
        FACTORS=how.factors,
        PLACES=triton.next_power_of_2(digits(levels)),
        SEGMENTS=tile.warps,
        SLOTS=COLUMNS,
        ROUNDS=rounds,
        EVEN=shape.steps == rounds * tile.splits * tile.warps,
    )
    return terms


def _tile(shape: Shape, count: int, processors: int) -> Tile:
    """The fastest of a sweep on an H200, over the model's shapes."""
    if 2 * triton.cdiv(shape.byte_rows, 16) <= processors:  # too few rows to fill the device
        return Tile(16, 2 if shape.steps <= 64 else 4, 4, 4 if shape.steps <= 64 else 3)
    splits = 1 if shape.steps <= 8 * 4 else triton.cdiv(shape.steps, 6 * 4)
    return Tile(16 if count == 4 else 32, 4, splits, 3)


@triton.jit
def _bytes(
    data_ptr,
    byte_row,
    columns,
    step,
    groups,
    GROUP: tl.constexpr,
    STEP: tl.constexpr,
    STEPS_PER_GROUP: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Bytes (SEGMENTS, ROWS, STEP) of a step of each warp; of the last one where there is none."""
    if not EVEN:
        step = tl.minimum(step, groups * STEPS_PER_GROUP - 1)
    within = tl.arange(0, STEP)
    first = step * STEP
    if GROUP != STEP:
        place = step % STEPS_PER_GROUP * STEP
        first = step // STEPS_PER_GROUP * GROUP + place
    at = byte_row[None, :, None] * columns + first[:, None, None] + within[None, None, :]
    if GROUP % STEP != 0:
        inside = place[:, None, None] + within[None, None, :] < GROUP
        return tl.load(data_ptr + at, mask=inside, other=0)
    return tl.load(data_ptr + at)


@triton.jit
def _stack(values, COUNT: tl.constexpr, PLACES: tl.constexpr):
    """Tensors along a new last axis, which is filled up to a power of two."""
    a: tl.constexpr = values[0].shape[0]
    b: tl.constexpr = values[0].shape[1]
    c: tl.constexpr = values[0].shape[2]
    if PLACES == 1:
        stacked = values[0]
    elif PLACES == 2:
        stacked = tl.join(values[0], values[1])
    elif PLACES == 4:
        stacked = tl.join(tl.join(values[0], values[2]), tl.join(values[1], values[3]))
    else:
        for _ in tl.static_range(COUNT, PLACES):
            values = values + (values[0],)
        even = tl.join(tl.join(values[0], values[4]), tl.join(values[2], values[6]))
        odd = tl.join(tl.join(values[1], values[5]), tl.join(values[3], values[7]))
        stacked = tl.join(even, odd)
    return stacked.reshape(a, b, c, PLACES)


@triton.jit
def _single_kernel(
    x_ptr,
    data_ptr,
    scale_ptr,
    shift_ptr,
    terms_ptr,
    columns,
    groups,
    byte_rows,
    bound0,
    bound1,
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
    PLACES: tl.constexpr,
    SEGMENTS: tl.constexpr,
    SLOTS: tl.constexpr,
    ROUNDS: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Warps of a block take turns along K: together they read whole stretches of a row."""
    byte_row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside_matrix = byte_row < byte_rows
    byte_row = tl.minimum(byte_row, byte_rows - 1)
    row, stride = row_of(byte_row, byte_rows, bound0, bound1, DIGITS)
    place = tl.arange(0, PLACES)  # of a digit
    every_row = row[:, None] + tl.minimum(place, DIGITS - 1)[None, :] * stride[:, None]
    slot = tl.arange(0, SLOTS)
    first = tl.program_id(1) * ROUNDS * SEGMENTS + tl.arange(0, SEGMENTS)
    steps = first[:, None] + slot[None, :] * SEGMENTS
    last = groups * STEPS_PER_GROUP - 1
    # scales of all steps are asked for first: no kernel writes them, and they come meanwhile
    group = tl.minimum(steps, last) // STEPS_PER_GROUP
    at = every_row[None, :, None, :] * groups + group[:, None, :, None]
    scales = tl.load(scale_ptr + at)
    if shift_ptr is not None:
        shifts = tl.load(shift_ptr + at)
    begin(OVERLAP)
    within = steps % STEPS_PER_GROUP * STEP
    start = steps // STEPS_PER_GROUP * GROUP + within
    k = start[:, :, None] + tl.arange(0, STEP)[None, None, :]
    if EVEN and GROUP % STEP == 0 and ROUNDS == SLOTS:
        every_x = tl.load(x_ptr + k)
    else:
        real = (slot < ROUNDS)[None, :] & (steps <= last)
        real = real[:, :, None] & (within[:, :, None] + tl.arange(0, STEP)[None, None, :] < GROUP)
        every_x = tl.load(x_ptr + k, mask=real, other=0.0)
    sums = tl.sum(every_x.to(tl.float32), 2)[:, None, :]
    if ASSEMBLY != '':  # codes come in pairs (0, 2) and (1, 3) of each four
        fours = every_x.reshape(SEGMENTS, SLOTS, STEP // 4, 2, 2).trans(0, 1, 2, 4, 3)
        every_x = fours.reshape(SEGMENTS, SLOTS, STEP)
    x = every_x.trans(0, 2, 1)
    total = (tl.zeros((SEGMENTS, ROWS, SLOTS), tl.float32),) * DIGITS
    for i in tl.range(0, ROUNDS, num_stages=STAGES):
        step = first + i * SEGMENTS
        w = _bytes(data_ptr, byte_row, columns, step, groups, GROUP, STEP, STEPS_PER_GROUP, EVEN)
        if ASSEMBLY != '':
            codes = tl.inline_asm_elementwise(
                ASSEMBLY, CONSTRAINTS, [w], dtype=(x.dtype,) * DIGITS, is_pure=True, pack=4
            )
        else:
            codes = ()
            for digit in tl.static_range(DIGITS):
                codes = codes + (digit_of(w, digit, LEVELS, x.dtype),)
        for digit in tl.static_range(DIGITS):
            product = tl.dot(codes[digit], x, input_precision='ieee')
            own = (slot == i)[None, None, :]
            total = put(total, digit, tl.where(own, product, total[digit]))
    sums_of_codes = ()
    for digit in tl.static_range(DIGITS):
        own_sum = (total[digit] - OFFSET * sums) * (1 / FACTORS[digit])
        sums_of_codes += (own_sum,)  # type: ignore[assignment]
    value = scales.to(tl.float32) * _stack(sums_of_codes, DIGITS, PLACES)
    if shift_ptr is not None:
        value -= shifts.to(tl.float32) * sums[:, :, :, None]
    value = tl.sum(tl.sum(value, 2), 0)
    to = terms_ptr + tl.program_id(1) * DIGITS * byte_rows + every_row
    mask = inside_matrix[:, None] & (place < DIGITS)[None, :]
    tl.store(to, value.to(terms_ptr.dtype.element_ty), mask=mask)
