"""What the kernels of int8 rows share: blocks rotated and numbers rounded in registers."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rotate_blocks(x, full_ptr, rest_ptr, is_rest, HAS_REST: tl.constexpr, EXACT: tl.constexpr):
    """Rotate blocks x (R, BLOCK); is_rest (R, 1): where the smaller blocks are."""
    at = tl.arange(0, x.shape[1])
    place = at[:, None] * x.shape[1] + at[None, :]
    full = tl.load(full_ptr + place)
    precision: tl.constexpr = 'ieee' if EXACT else 'tf32'
    if HAS_REST:
        rest = tl.load(rest_ptr + place)
        zero = tl.zeros_like(x)
        turned = tl.dot(tl.where(is_rest, zero, x), full, input_precision=precision)
        return tl.dot(tl.where(is_rest, x, zero), rest, turned, input_precision=precision)
    return tl.dot(x, full, input_precision=precision)


@triton.jit
def round_levels(x):
    """Round x, at most 2**21, to int8, half to even: conversions are slow, a sum is not.

    The sum has a place of one as its last one, so its low byte is that of the integer.
    """
    return (x + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
