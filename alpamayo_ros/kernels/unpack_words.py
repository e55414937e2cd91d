"""Unpacks weights on a GPU four bytes at a time: the common shapes of `unpack`.

A step of columns lies in one group, and a matrix row in one digit of its bytes. Bytes that are
taken one by one, as a vector of bytes is, need several times the instructions. Knows no module.
"""

from __future__ import annotations

import torch
from torch import Tensor
import triton
import triton.language as tl

from .assembly import assemble_word
from .hopper import launch_options, wait_for_previous_kernel
from .packing import PackedMatrix

STEP = 128  # columns that are unpacked at once, never of two groups
ROWS = 32  # of a program
STEPS = 8  # that a program takes behind each other


def has_whole_words(matrix: PackedMatrix, columns: int) -> bool:
    """Whether the kernels of whole words can unpack a matrix."""
    return (
        matrix.levels in (4, 16)
        and matrix.group % STEP == 0
        and matrix.group_rows % (columns // matrix.group) == 0
    )


def unpack_words_into(out: Tensor, matrix: PackedMatrix, start: int) -> None:
    """Write the rows from `start` on into out (R, columns), as `unpack.unpack_into`."""
    count, columns = out.shape
    # the interpreter runs no assembly
    code = assemble_word(matrix.levels, out.dtype if out.is_cuda else torch.float32)
    _unpack_kernel[(triton.cdiv(count, ROWS), triton.cdiv(columns // STEP, STEPS))](
        matrix.data.view(torch.int32),
        matrix.scale,
        matrix.shift,
        out.view(torch.int32) if code.assembly else out,
        start,
        count,
        columns,
        matrix.group_rows // (columns // matrix.group),
        LEVELS=matrix.levels,
        DIGITS=matrix.digits,
        GROUP=matrix.group,
        ASSEMBLY=code.assembly,
        CONSTRAINTS=code.constraints,
        STEP=STEP,
        STEPS=STEPS,
        ROWS=ROWS,
        **launch_options(out.device),
    )


@triton.jit
def locate_words(place, start, count, columns, height, DIGITS: tl.constexpr):
    """Rows, offsets of their words, and bits below their digit, of places from `start` on.

    height: rows of a digit. Places behind the last row stand for the last one.
    """
    row = start + tl.minimum(place, count - 1)
    digit = row // height
    at = (row - digit * height).to(tl.int64) * (columns // 4)
    return row, at, digit * (8 // DIGITS)


@triton.jit
def decode_word(code, bits, scale, shift, byte: tl.constexpr, LEVELS: tl.constexpr):
    """Weights of one byte of words, float32, without assembly. shift: negative."""
    low = ((code >> (bits + 8 * byte)) & (LEVELS - 1)).to(tl.float32)
    return low * scale.to(tl.float32) + shift.to(tl.float32)


@triton.jit
def _repeat_bits(x):
    """A 16-bit number in both halves of a word."""
    return (x.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF) * 0x10001


@triton.jit
def _unpack_kernel(
    data_ptr,
    scale_ptr,
    shift_ptr,
    out_ptr,
    start,
    count,
    columns,
    height,
    LEVELS: tl.constexpr,
    DIGITS: tl.constexpr,
    GROUP: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    CONSTRAINTS: tl.constexpr,
    STEP: tl.constexpr,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """ROWS rows and STEPS steps; out_ptr: of words of two weights where there is assembly."""
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row, at, bits = locate_words(place, start, count, columns, height, DIGITS)
    words: tl.constexpr = STEP // 4
    data_ptr += at[:, None] + tl.arange(0, words)[None, :]
    scale_ptr += row * (columns // GROUP)
    shift_ptr += row * (columns // GROUP)
    inside = (place < count)[:, None]
    width: tl.constexpr = 2 if ASSEMBLY != '' else 4  # numbers that hold a word's weights
    out_ptr += place.to(tl.int64)[:, None] * (columns // 4 * width)
    out_ptr += tl.arange(0, words * width)[None, :]
    first = tl.program_id(1) * STEPS
    wait_for_previous_kernel(OVERLAP)  # the product before may still read the scratch
    for step in range(first, tl.minimum(first + STEPS, columns // STEP)):
        code = tl.load(data_ptr + step * words)
        scale = tl.load(scale_ptr + step * STEP // GROUP)
        shift = -tl.load(shift_ptr + step * STEP // GROUP)
        if ASSEMBLY != '':
            double, less = _repeat_bits(scale)[:, None], _repeat_bits(shift)[:, None]
            inputs = (code, double, less, bits[:, None])
            pairs = tl.inline_asm_elementwise(
                ASSEMBLY, CONSTRAINTS, inputs, dtype=(tl.int32, tl.int32), is_pure=True, pack=1
            )
            weights = tl.join(pairs[0], pairs[1])
        else:
            parts = ()
            for byte in tl.static_range(4):
                wide = decode_word(
                    code, bits[:, None], scale[:, None], shift[:, None], byte, LEVELS
                )
                parts += (wide.to(scale.dtype),)  # type: ignore[assignment]
            weights = tl.join(tl.join(parts[0], parts[2]), tl.join(parts[1], parts[3]))  # type: ignore[misc]
        tl.store(
            out_ptr + step * words * width, tl.reshape(weights, (ROWS, words * width)), inside
        )
