"""Kernels of products of 1 to 16 rows with packed weights: one more token of each sample.

With one row every byte counts once. A tensor core multiplies with 8 columns: column i is the i-th
step of each warp along K. The kernel multiplies all codes with all columns and keeps the step's
own, so that it applies scales once, at the end, in float32 to sums of the codes themselves.

With 2 to 16 rows the codes of every group are summed themselves and scaled in float32, which is
exact. `packed_products` launches both kernels.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .hopper import wait_for_previous_kernel
from .unpack import decode_digit, locate_rows, replace_item

SLOTS = 8  # columns that a tensor core multiplies at once
MAX_ROWS = 16


@triton.jit
def _load_bytes(
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
    """Bytes (SEGMENTS, ROWS, STEP) of one step of each warp; the last step where none is left."""
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
def _stack_digits(values, COUNT: tl.constexpr, PLACES: tl.constexpr):
    """Stack tensors along a new last axis, filled up to a power of two."""
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
def one_row_kernel(
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
    byte_row, inside_matrix, row, stride = locate_rows(
        tl.program_id(0) * ROWS, byte_rows, bound0, bound1, ROWS, DIGITS
    )
    place = tl.arange(0, PLACES)  # of a digit
    every_row = row[:, None] + tl.minimum(place, DIGITS - 1)[None, :] * stride[:, None]
    slot = tl.arange(0, SLOTS)
    first = tl.program_id(1) * ROUNDS * SEGMENTS + tl.arange(0, SEGMENTS)
    steps = first[:, None] + slot[None, :] * SEGMENTS
    last = groups * STEPS_PER_GROUP - 1
    # scales of all steps are loaded first: no kernel writes them, and they arrive meanwhile
    group = tl.minimum(steps, last) // STEPS_PER_GROUP
    at = every_row[None, :, None, :] * groups + group[:, None, :, None]
    scales = tl.load(scale_ptr + at)
    if shift_ptr is not None:
        shifts = tl.load(shift_ptr + at)
    wait_for_previous_kernel(OVERLAP)
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
        w = _load_bytes(
            data_ptr, byte_row, columns, step, groups, GROUP, STEP, STEPS_PER_GROUP, EVEN
        )
        if ASSEMBLY != '':
            codes = tl.inline_asm_elementwise(
                ASSEMBLY, CONSTRAINTS, [w], dtype=(x.dtype,) * DIGITS, is_pure=True, pack=4
            )
        else:
            codes = ()
            for digit in tl.static_range(DIGITS):
                codes = codes + (decode_digit(w, digit, LEVELS, x.dtype),)
        for digit in tl.static_range(DIGITS):
            product = tl.dot(codes[digit], x, input_precision='ieee')
            own = (slot == i)[None, None, :]
            total = replace_item(total, digit, tl.where(own, product, total[digit]))
    sums_of_codes = ()
    for digit in tl.static_range(DIGITS):
        own_sum = (total[digit] - OFFSET * sums) * (1 / FACTORS[digit])
        sums_of_codes += (own_sum,)  # type: ignore[assignment]
    value = scales.to(tl.float32) * _stack_digits(sums_of_codes, DIGITS, PLACES)
    if shift_ptr is not None:
        value -= shifts.to(tl.float32) * sums[:, :, :, None]
    value = tl.sum(tl.sum(value, 2), 0)
    to = terms_ptr + tl.program_id(1) * DIGITS * byte_rows + every_row
    mask = inside_matrix[:, None] & (place < DIGITS)[None, :]
    tl.store(to, value.to(terms_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _load_scales(scale_ptr, shift_ptr, row, stride, group, groups, DIGITS: tl.constexpr):
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
def few_rows_kernel(
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
    byte_row, inside_matrix, row, stride = locate_rows(
        tl.program_id(0) * ROWS, byte_rows, bound0, bound1, ROWS, DIGITS
    )
    m = tl.arange(0, X_ROWS)
    dtype = x_ptr.dtype.element_ty
    first = split * rounds * SEGMENTS + tl.arange(0, SEGMENTS)
    # scales are loaded one step ahead, the first ones before waiting for the kernel before
    scales, shifts = _load_scales(
        scale_ptr, shift_ptr, row, stride, first // STEPS_PER_GROUP, groups, DIGITS
    )
    wait_for_previous_kernel(OVERLAP)
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
        next_scales, next_shifts = _load_scales(
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
                codes = codes + (decode_digit(w, digit, LEVELS, dtype),)
            ones = tl.full((SEGMENTS, ROWS, STEP), 1.0, dtype)
        sums = tl.dot(ones, x, input_precision='ieee')  # of x, in the layout of the products
        for digit in tl.static_range(DIGITS):
            s = scales[digit].to(tl.float32) / FACTORS[digit]
            h = s * OFFSET
            if shift_ptr is not None:
                h += shifts[digit].to(tl.float32)
            product = tl.dot(codes[digit], x, input_precision='ieee')
            product = s[:, :, None] * product - h[:, :, None] * sums
            total = replace_item(total, digit, total[digit] + product)
        scales = next_scales
        shifts = next_shifts
    n = DIGITS * byte_rows
    mask = (m < x_rows)[None, :] & inside_matrix[:, None]
    at = (split * x_rows + m[None, :]) * n + row[:, None]
    for digit in tl.static_range(DIGITS):
        value = tl.sum(total[digit], 0).to(terms_ptr.dtype.element_ty)
        tl.store(terms_ptr + at + (digit * stride)[:, None], value, mask=mask)
