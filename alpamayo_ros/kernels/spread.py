"""Inline assembly that turns four packed bytes into pairs of bf16 or fp16, a few steps a weight.

A code is put, by one masked OR, into the mantissa of a float whose exponent makes it
offset + code * factor exactly: 2**7 for bf16, 2**10 for fp16, mantissas of 7 and 10 bits. Digits
that lie too high for the mantissa are shifted down first. No conversion instruction is used: they
are too slow for this. Knows no kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .packing import digits


class Spread(NamedTuple):
    """Assembly for `tl.inline_asm_elementwise` with pack=4, and what its results mean.

    Result t is offset + code * factors[t]. An empty assembly stands for plain conversions.
    """

    assembly: str
    constraints: str
    offset: float
    factors: tuple[float, ...]


class _Float(NamedTuple):
    mantissa: int
    name: str

    def pair(self, value: float) -> str:
        """The bits of a pair of equal values."""
        dtype = torch.bfloat16 if self.name == 'bf16x2' else torch.float16
        bits = int(torch.tensor(value, dtype=dtype).view(torch.int16)) & 0xFFFF
        return f'0x{bits:04X}{bits:04X}'


_FLOATS = {torch.bfloat16: _Float(7, 'bf16x2'), torch.float16: _Float(10, 'f16x2')}
# two bytes each of the four, one in the low half of either 16 bits
_WIDEN = ['prmt.b32 p0, {w}, 0, 0x4140;', 'prmt.b32 p1, {w}, 0, 0x4342;']


def plain(levels: int) -> Spread:
    """No assembly: the kernel converts the codes themselves."""
    return Spread('', '', 0.0, (1.0,) * digits(levels))


def codes(levels: int, dtype: torch.dtype, ones: bool) -> Spread:
    """Four bytes to the codes of each digit and, if asked for, to ones behind them."""
    if dtype not in _FLOATS or levels not in (4, 16):
        return plain(levels)
    count, real = digits(levels), _FLOATS[dtype]
    results = 2 * (count + ones)
    lines, factors = _masked(levels, real, f'${results}')
    lines += [f'mov.b32 ${i}, {real.pair(1.0)};' for i in range(2 * count, results)]
    constraints = ','.join(['=&r'] * results + ['r'])
    return Spread(_block(lines), constraints, 2.0**real.mantissa, factors)


def weights(levels: int, dtype: torch.dtype) -> Spread:
    """Four bytes, the scale of each digit and its negative shift to weights of each digit."""
    if dtype not in _FLOATS or levels not in (4, 16):
        return plain(levels)
    count, real = digits(levels), _FLOATS[dtype]
    lines, factors = _masked(levels, real, f'${2 * count}')
    for digit, factor in enumerate(factors):
        # the code itself, exactly; then one rounding
        unit, back = real.pair(1 / factor), real.pair(-(2.0**real.mantissa) / factor)
        lines += [f'mov.b32 unit, {unit};', f'mov.b32 back, {back};']
        for i in (2 * digit, 2 * digit + 1):
            scale, shift = 2 * count + 1 + i, 4 * count + 1 + i
            lines.append(f'fma.rn.{real.name} ${i}, ${i}, unit, back;')
            lines.append(f'fma.rn.{real.name} ${i}, ${i}, ${scale}, ${shift};')
    constraints = ','.join(['=&r'] * (2 * count) + ['r'] * (4 * count + 1))
    return Spread(_block(lines), constraints, 0.0, (1.0,) * count)


def _masked(levels: int, real: _Float, source: str) -> tuple[list[str], tuple[float, ...]]:
    """Lines that put digit t of the four bytes into outputs 2 t and 2 t + 1, and the factors."""
    count = digits(levels)
    bits = 8 // count
    lines = [line.format(w=source) for line in _WIDEN]
    exponent, factors = real.pair(2.0**real.mantissa), []
    for digit in range(count):
        low = bits * digit
        shift = max(0, low + bits - real.mantissa)
        shift = -(-shift // bits) * bits  # onto the place of a lower digit
        mask = f'0x{(levels - 1) << (low - shift):04X}' * 2
        mask = mask[:6] + mask[8:]
        factors.append(2.0 ** (low - shift))
        for half in range(2):
            value = f'p{half}'
            if shift:
                lines.append(f'shr.u32 q{half}, p{half}, {shift};')
                value = f'q{half}'
            lines.append(f'lop3.b32 ${2 * digit + half}, {value}, {mask}, {exponent}, 0xEA;')
    return lines, tuple(factors)


def _block(lines: list[str]) -> str:
    declared = '.reg .b32 p0, p1, q0, q1, unit, back;'
    return '\n'.join(['{', declared, *lines, '}'])
