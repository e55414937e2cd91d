"""Kernel of products of 17 to 128 rows with packed weights: the 64 waypoints of a flow step.

Weights are unpacked in registers, rounded to the dtype of x as the library's would be, and
multiplied. `packed_products` launches it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .hopper import wait_for_previous_kernel
from .unpack import decode_digit, locate_rows, replace_item

X_BLOCK = 64  # rows of x of a block


@triton.jit
def _load_scales(
    scale_ptr, shift_ptr, row, stride, inside, group, groups, first, TAKEN: tl.constexpr
):
    """Scales and negative shifts (ROWS, 1) of some digits in one group."""
    scales = ()
    shifts = ()
    at = row * groups + tl.minimum(group, groups - 1)
    for digit in tl.static_range(TAKEN):
        place = at + (first + digit) * stride * groups
        s = tl.load(scale_ptr + place, mask=inside, other=0.0)
        h = tl.zeros_like(s)
        if shift_ptr is not None:
            h = -tl.load(shift_ptr + place, mask=inside, other=0.0)
        scales += (s[:, None],)  # type: ignore[assignment]
        shifts += (h[:, None],)  # type: ignore[assignment]
    return scales, shifts


@triton.jit
def block_kernel(
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
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
    X_ROWS: tl.constexpr,
    TAKEN: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """All warps share the same step along K: one product a digit, accumulated."""
    SHARES: tl.constexpr = DIGITS // TAKEN
    split = tl.program_id(1)
    byte_row, inside_matrix, row, stride = locate_rows(
        tl.program_id(0) // SHARES * ROWS, byte_rows, bound0, bound1, ROWS, DIGITS
    )
    lowest = tl.program_id(0) % SHARES * TAKEN  # the first of this block's digits
    bits = (lowest * (8 // DIGITS)).to(tl.uint8)
    m = tl.program_id(2) * X_ROWS + tl.arange(0, X_ROWS)
    dtype = x_ptr.dtype.element_ty
    if AHEAD:  # scales are loaded one step ahead
        group = split * rounds // STEPS_PER_GROUP
        scales, shifts = _load_scales(
            scale_ptr, shift_ptr, row, stride, inside_matrix, group, groups, lowest, TAKEN
        )
    wait_for_previous_kernel(OVERLAP)
    total = (tl.zeros((ROWS, X_ROWS), tl.float32),) * TAKEN
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
        if AHEAD:
            group = (step + 1) // STEPS_PER_GROUP
            next_scales, next_shifts = _load_scales(
                scale_ptr, shift_ptr, row, stride, inside_matrix, group, groups, lowest, TAKEN
            )
        else:
            scales, shifts = _load_scales(
                scale_ptr, shift_ptr, row, stride, inside_matrix, group, groups, lowest, TAKEN
            )
        if ASSEMBLY != '':
            inputs = (w,) + scales + shifts
            if SHARES > 1:
                inputs = inputs + (bits,)
            weights = tl.inline_asm_elementwise(
                ASSEMBLY, CONSTRAINTS, inputs, dtype=(dtype,) * TAKEN, is_pure=True, pack=4
            )
        else:
            if SHARES > 1:
                w = w >> bits
            weights = ()
            for digit in tl.static_range(TAKEN):
                wide = decode_digit(w, digit, LEVELS, tl.float32) * scales[digit].to(tl.float32)
                weights = weights + ((wide + shifts[digit].to(tl.float32)).to(dtype),)
        for digit in tl.static_range(TAKEN):
            product = tl.dot(weights[digit], x, total[digit], input_precision='ieee')
            total = replace_item(total, digit, product)
        if AHEAD:
            scales = next_scales
            shifts = next_shifts
    n = DIGITS * byte_rows
    mask = (m < x_rows)[None, :] & inside_matrix[:, None]
    for digit in tl.static_range(TAKEN):
        at = (split * x_rows + m[None, :]) * n + (row + (lowest + digit) * stride)[:, None]
        tl.store(terms_ptr + at, total[digit].to(terms_ptr.dtype.element_ty), mask=mask)
