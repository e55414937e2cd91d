"""Product of up to a few hundred rows with packed weights, in Triton: the 64 of a flow step.

Weights are unpacked in registers and multiplied as the library's would be, rounded to the dtype of
x. Knows no module.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
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

X_BLOCK = 64  # rows of x of a block


def block(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
    tile: Tile | None = None,
) -> Tensor:
    """Terms (S, M, sum of rows) of the product of x (M, K), in blocks of rows; as `single`."""
    shape = shape_of(x, data, scale, levels, rows)
    x_block = min(X_BLOCK, max(16, triton.next_power_of_2(shape.x_rows)))
    x_blocks = triton.cdiv(shape.x_rows, x_block)
    tile = tile or _tile(shape, digits(levels), x_blocks, x.device)
    count = digits(levels)
    if levels**count < 256 or count % tile.shares:
        tile = tile._replace(shares=1)  # no whole bits a digit, or no equal shares
    taken = count // tile.shares
    terms = new_terms(x, tile.splits, rows)
    _block_kernel[(triton.cdiv(shape.byte_rows, tile.rows) * tile.shares, tile.splits, x_blocks)](
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
        triton.cdiv(shape.steps, tile.splits),
        **constants(x, levels, shape, tile, spread.weights(levels, spread_dtype(x), taken)),
        X_ROWS=x_block,
        TAKEN=taken,
        AHEAD=tile.shares > 1,
    )
    return terms


def _tile(shape: Shape, count: int, x_blocks: int, device: torch.device) -> Tile:
    """The fastest of a sweep on an H200, over the model's shapes.

    Hopper's tensor cores take weights from registers, of which all digits of a byte need so many
    that no product could run beside the next one's unpacking. Before it, bytes are read once.
    """
    hopper = device.type == 'cuda' and torch.cuda.get_device_capability(device) >= (9, 0)
    shares, rows, processors = count if hopper else 1, 64, multiprocessors(device)
    if hopper and shape.byte_rows * shape.steps >= 16384:
        rows = 128
    blocks = triton.cdiv(shape.byte_rows, rows) * x_blocks * shares
    wanted = processors if hopper else 2 * processors
    splits = max(1, min(32, wanted // blocks, shape.steps // 2))
    return Tile(rows, rows // 16, splits, 3, shares)


@triton.jit
def _scales(scale_ptr, shift_ptr, row, stride, inside, group, groups, first, TAKEN: tl.constexpr):
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
def _block_kernel(
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
    byte_row = tl.program_id(0) // SHARES * ROWS + tl.arange(0, ROWS)
    inside_matrix = byte_row < byte_rows
    byte_row = tl.minimum(byte_row, byte_rows - 1)
    row, stride = row_of(byte_row, byte_rows, bound0, bound1, DIGITS)
    lowest = tl.program_id(0) % SHARES * TAKEN  # of the digits that are this block's
    bits = (lowest * (8 // DIGITS)).to(tl.uint8)
    m = tl.program_id(2) * X_ROWS + tl.arange(0, X_ROWS)
    dtype = x_ptr.dtype.element_ty
    if AHEAD:  # scales are asked for one step ahead
        group = split * rounds // STEPS_PER_GROUP
        scales, shifts = _scales(
            scale_ptr, shift_ptr, row, stride, inside_matrix, group, groups, lowest, TAKEN
        )
    begin(OVERLAP)
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
            next_scales, next_shifts = _scales(
                scale_ptr, shift_ptr, row, stride, inside_matrix, group, groups, lowest, TAKEN
            )
        else:
            scales, shifts = _scales(
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
                wide = digit_of(w, digit, LEVELS, tl.float32) * scales[digit].to(tl.float32)
                weights = weights + ((wide + shifts[digit].to(tl.float32)).to(dtype),)
        for digit in tl.static_range(TAKEN):
            product = tl.dot(weights[digit], x, total[digit], input_precision='ieee')
            total = put(total, digit, product)
        if AHEAD:
            scales = next_scales
            shifts = next_shifts
    n = DIGITS * byte_rows
    mask = (m < x_rows)[None, :] & inside_matrix[:, None]
    for digit in tl.static_range(TAKEN):
        at = (split * x_rows + m[None, :]) * n + (row + (lowest + digit) * stride)[:, None]
        tl.store(terms_ptr + at, total[digit].to(terms_ptr.dtype.element_ty), mask=mask)
