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


@triton.jit
def apply_gelu(x, CURVE: tl.constexpr, EXACT: tl.constexpr):
    """GELU of x float32: its approximation by 'tanh', or with 'erf'."""
    if CURVE == 'erf':
        return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    inner = x * (0.7978845608028654 + 0.035677408136300125 * x * x)
    if EXACT:
        return x / (1 + tl.exp(-2 * inner))
    # one instruction in place of ten, within 5e-4 of the tangent: bfloat16 has steps of 4e-3
    tangent = tl.inline_asm_elementwise(
        'tanh.approx.f32 $0, $1;', '=f,f', [inner], dtype=tl.float32, is_pure=True, pack=1
    )
    half = 0.5 * x
    return half * tangent + half
