"""Packed weights to rotated int8, four bytes at a time: the common shapes of `weights`.

A step of columns lies in one group, and a matrix row in one digit of its bytes. Knows no product.
"""

from __future__ import annotations

import torch
from torch import Tensor
import triton
import triton.language as tl

from ..assembly import assemble_words
from ..gpu import gpu_of
from ..hopper import launch_options, wait_for_previous_kernel
from ..packing import PackedMatrix
from ..unpack_words import STEP, decode_word, locate_words
from .in_registers import round_levels
from .rotation import BLOCK, make_rotation

ROWS = 32  # of a program
MOST_STEPS, LEAST_STEPS = 16, 4  # that a program takes behind each other


def unpack_words(
    out: Tensor, matrix: PackedMatrix, row_scale: Tensor, columns: int, start: int
) -> None:
    """As `weights.unpack_int8_into`, for 4 or 16 levels and a shift."""
    count, kind = len(out), matrix.scale.dtype
    steps, blocks = MOST_STEPS, triton.cdiv(count, ROWS)
    wanted = 4 * gpu_of(out.device).multiprocessors  # blocks that keep a GPU busy
    while steps > LEAST_STEPS and blocks * triton.cdiv(columns // STEP, steps) < wanted:
        steps //= 2
    # the interpreter runs no assembly
    code = assemble_words(matrix.levels, kind if out.is_cuda else torch.float32)
    unpack_words_kernel[(blocks, triton.cdiv(columns // STEP, steps))](
        matrix.data.view(torch.int32),
        matrix.scale,
        matrix.shift,
        row_scale,
        make_rotation(columns, kind, out.device)[0],
        out,
        start,
        count,
        columns,
        matrix.group_rows // (columns // matrix.group),
        LEVELS=matrix.levels,
        DIGITS=matrix.digits,
        GROUP=matrix.group,
        EXACT=kind == torch.float32,
        ASSEMBLY=code.assembly,
        CONSTRAINTS=code.constraints,
        BLOCK=BLOCK,
        STEP=STEP,
        STEPS=steps,
        ROWS=ROWS,
        num_warps=4,
        **launch_options(out.device),
    )


@triton.jit
def _load_group(scale_ptr, shift_ptr, group):
    """Scales and negative shifts (ROWS) of one group."""
    scale = tl.load(scale_ptr + group)
    return scale, -tl.load(shift_ptr + group)


@triton.jit
def unpack_words_kernel(
    data_ptr,
    scale_ptr,
    shift_ptr,
    row_scale_ptr,
    full_ptr,
    out_ptr,
    start,
    count,
    columns,
    height,
    LEVELS: tl.constexpr,
    DIGITS: tl.constexpr,
    GROUP: tl.constexpr,
    EXACT: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    CONSTRAINTS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """ROWS rows and STEPS steps of STEP columns; height: rows of a digit.

    Bytes are read as words of four. The first bytes of all words are one operand of a
    product with every fourth row of the rotation, and so on: bytes taken one by one, as a
    vector of bytes is, would need twice the instructions.
    """
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row, at, bits = locate_words(place, start, count, columns, height, DIGITS)
    bits = bits[:, None]
    words: tl.constexpr = STEP // 4
    blocks: tl.constexpr = ROWS * (STEP // BLOCK)
    precision: tl.constexpr = 'ieee' if EXACT else 'tf32'
    data_ptr += at[:, None] + tl.arange(0, words)[None, :]
    scale_ptr += row * (columns // GROUP)
    shift_ptr += row * (columns // GROUP)
    out_ptr += place.to(tl.int64)[:, None] * columns + tl.arange(0, STEP)[None, :]
    factor = 1 / tl.load(row_scale_ptr + row)[:, None]
    turn = 4 * tl.arange(0, BLOCK // 4)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    turns = ()
    for byte in tl.static_range(4):
        turns += (tl.load(full_ptr + turn + byte * BLOCK),)  # type: ignore[assignment]
    first = tl.program_id(1) * STEPS
    stop = tl.minimum(first + STEPS, columns // STEP)
    # a step is loaded while the one before is rotated
    code = tl.load(data_ptr + first * words)
    scale, shift = _load_group(scale_ptr, shift_ptr, first * STEP // GROUP)
    wait_for_previous_kernel(OVERLAP)  # the product before may still read what is overwritten
    for step in range(first, stop):
        ahead = tl.minimum(step + 1, stop - 1)
        next_code = tl.load(data_ptr + ahead * words)
        next_scale, next_shift = _load_group(scale_ptr, shift_ptr, ahead * STEP // GROUP)
        if ASSEMBLY != '':
            inputs = (code, scale[:, None], shift[:, None], bits)
            weights = tl.inline_asm_elementwise(
                ASSEMBLY, CONSTRAINTS, inputs, dtype=(scale.dtype,) * 4, is_pure=True, pack=2
            )
        else:
            weights = ()
            for byte in tl.static_range(4):
                wide = decode_word(code, bits, scale[:, None], shift[:, None], byte, LEVELS)
                weights += (wide.to(scale.dtype),)
        turned = tl.zeros((blocks, BLOCK), tl.float32)
        for byte in tl.static_range(4):
            weight = tl.reshape(weights[byte], (blocks, BLOCK // 4))
            turned = tl.dot(weight, turns[byte], turned, input_precision=precision)
        level = round_levels(tl.reshape(turned, (ROWS, STEP)) * factor)
        tl.store(out_ptr + step * STEP, level, (place < count)[:, None])
        code = next_code
        scale = next_scale
        shift = next_shift
