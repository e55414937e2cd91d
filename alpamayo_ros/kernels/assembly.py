"""Inline assembly that turns four packed bytes into pairs of bf16 or fp16 numbers.

One masked OR puts a code into the mantissa of a float whose exponent makes the float equal to
offset + code * factor exactly; the offset is 2**7 for bf16 and 2**10 for fp16, whose mantissas
have 7 and 10 bits. Digits that lie too high for the mantissa are shifted down first. Conversion
instructions would be several times slower. Knows no kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .packing import count_digits


class UnpackAssembly(NamedTuple):
    """Assembly for `tl.inline_asm_elementwise` with pack=4, and the meaning of its results.

    Result t is offset + code * factors[t]. An empty assembly stands for plain conversions.
    """

    assembly: str
    constraints: str
    offset: float
    factors: tuple[float, ...]


class _Float(NamedTuple):
    mantissa: int
    name: str

    def format_pair(self, value: float) -> str:
        """Bits of a pair of equal values, as text."""
        dtype = torch.bfloat16 if self.name == 'bf16x2' else torch.float16
        bits = int(torch.tensor(value, dtype=dtype).view(torch.int16)) & 0xFFFF
        return f'0x{bits:04X}{bits:04X}'


_FLOATS = {torch.bfloat16: _Float(7, 'bf16x2'), torch.float16: _Float(10, 'f16x2')}
# two bytes each of the four, one in the low half of either 16 bits
_WIDEN = ['prmt.b32 p0, {w}, 0, 0x4140;', 'prmt.b32 p1, {w}, 0, 0x4342;']


def use_plain_conversions(levels: int) -> UnpackAssembly:
    """No assembly: the kernel converts the codes itself."""
    return UnpackAssembly('', '', 0.0, (1.0,) * count_digits(levels))


def assemble_pairs(levels: int, dtype: torch.dtype) -> UnpackAssembly:
    """Turn four bytes into codes of each digit: bytes 0 and 2 as a pair, 1 and 3 as another.

    Bytes 0 and 2 lie in the low bits of the two halves of a word, so a shift replaces two
    permutations.
    """
    if dtype not in _FLOATS or levels not in (4, 16):
        return use_plain_conversions(levels)
    count, real = count_digits(levels), _FLOATS[dtype]
    bits, source = 8 // count, f'${2 * count}'
    exponent, factors = real.format_pair(2.0**real.mantissa), []
    lines, shifted = [], {0: source}
    for digit in range(count):
        low = bits * digit
        down = 0 if low + bits <= real.mantissa else low
        factors.append(2.0 ** (low - down))
        for odd in range(2):
            shift = down + 8 * odd
            if shift not in shifted:
                shifted[shift] = f'q{shift}'
                lines.append(f'shr.u32 q{shift}, {source}, {shift};')
            mask = f'{(levels - 1) << (low - down):04X}'
            result = f'${2 * digit + odd}'
            lines.append(f'lop3.b32 {result}, {shifted[shift]}, 0x{mask * 2}, {exponent}, 0xEA;')
    names = ', '.join(name for shift, name in shifted.items() if shift)
    constraints = ','.join(['=&r'] * (2 * count) + ['r'])
    assembly = '\n'.join(['{', f'.reg .b32 {names};', *lines, '}'])
    return UnpackAssembly(assembly, constraints, 2.0**real.mantissa, tuple(factors))


def assemble_codes(levels: int, dtype: torch.dtype) -> UnpackAssembly:
    """Turn four bytes into the codes of each digit, and ones behind them."""
    if dtype not in _FLOATS or levels not in (4, 16):
        return use_plain_conversions(levels)
    count, real = count_digits(levels), _FLOATS[dtype]
    results = 2 * (count + 1)
    lines, factors = _mask_digits(levels, real, f'${results}', count)
    lines += [f'mov.b32 ${i}, {real.format_pair(1.0)};' for i in range(2 * count, results)]
    constraints = ','.join(['=&r'] * results + ['r'])
    return UnpackAssembly(_enclose(lines), constraints, 2.0**real.mantissa, factors)


def assemble_weights(levels: int, dtype: torch.dtype, count: int) -> UnpackAssembly:
    """Turn four bytes, the scale of each digit and its negative shift into weights of each digit.

    count: digits taken of each byte. Where it is less than all, the last input is the number of
    bits between the lowest digit and the first one taken.
    """
    if dtype not in _FLOATS or levels not in (4, 16):
        return use_plain_conversions(levels)
    real, source, lines = _FLOATS[dtype], f'${2 * count}', []
    some = count < count_digits(levels)
    if some:  # the input is four equal bytes
        lines += [f'and.b32 q0, ${6 * count + 1}, 7;', f'shr.b32 q1, {source}, q0;']
        source = 'q1'
    masked, factors = _mask_digits(levels, real, source, count)
    lines += masked
    for digit, factor in enumerate(factors):
        # the code itself, exactly; then one rounding
        unit, back = real.format_pair(1 / factor), real.format_pair(-(2.0**real.mantissa) / factor)
        lines += [f'mov.b32 unit, {unit};', f'mov.b32 back, {back};']
        for i in (2 * digit, 2 * digit + 1):
            scale, shift = 2 * count + 1 + i, 4 * count + 1 + i
            lines.append(f'fma.rn.{real.name} ${i}, ${i}, unit, back;')
            lines.append(f'fma.rn.{real.name} ${i}, ${i}, ${scale}, ${shift};')
    constraints = ','.join(['=&r'] * (2 * count) + ['r'] * (4 * count + 1 + some))
    return UnpackAssembly(_enclose(lines), constraints, 0.0, (1.0,) * count)


def assemble_word(levels: int, dtype: torch.dtype) -> UnpackAssembly:
    """Turn a word of four bytes into two pairs of weights, in order, for pack=1.

    Inputs: the word, scale and negative shift as pairs, the bits below the digit that is taken.
    """
    if dtype not in _FLOATS or levels not in (4, 16):
        return use_plain_conversions(levels)
    real = _FLOATS[dtype]
    exponent, mask = real.format_pair(2.0**real.mantissa), f'0x{levels - 1:04X}{levels - 1:04X}'
    lines = [
        'shr.u32 q0, $2, $5;',
        *(line.format(w='q0') for line in _WIDEN),
        f'mov.b32 unit, {real.format_pair(1.0)};',
        f'mov.b32 back, {real.format_pair(-(2.0**real.mantissa))};',
    ]
    for half in range(2):
        lines += [
            f'lop3.b32 ${half}, p{half}, {mask}, {exponent}, 0xEA;',
            f'fma.rn.{real.name} ${half}, ${half}, unit, back;',
            f'fma.rn.{real.name} ${half}, ${half}, $3, $4;',
        ]
    return UnpackAssembly(_enclose(lines), '=&r,=&r,r,r,r,r', 0.0, (1.0,) * 2)


def assemble_words(levels: int, dtype: torch.dtype) -> UnpackAssembly:
    """Turn two words of four bytes into weights, for pack=2: result t holds byte t of both.

    Inputs: the words, the scale and the negative shift, the bits below the digit that is taken.
    """
    if dtype not in _FLOATS or levels not in (4, 16):
        return use_plain_conversions(levels)
    real = _FLOATS[dtype]
    exponent, mask = real.format_pair(2.0**real.mantissa), f'0x{levels - 1:04X}{levels - 1:04X}'
    lines = [
        'shr.u32 p0, $4, $8;',
        'shr.u32 p1, $5, $9;',
        f'mov.b32 unit, {real.format_pair(1.0)};',
        f'mov.b32 back, {real.format_pair(-(2.0**real.mantissa))};',
    ]
    for byte in range(4):
        lines += [
            f'prmt.b32 q0, p0, p1, 0x{4 + byte}{4 + byte}{byte}{byte};',
            f'lop3.b32 ${byte}, q0, {mask}, {exponent}, 0xEA;',
            f'fma.rn.{real.name} ${byte}, ${byte}, unit, back;',
            f'fma.rn.{real.name} ${byte}, ${byte}, $6, $7;',
        ]
    return UnpackAssembly(_enclose(lines), ','.join(['=&r'] * 4 + ['r'] * 6), 0.0, (1.0,) * 4)


def _mask_digits(
    levels: int, real: _Float, source: str, count: int
) -> tuple[list[str], tuple[float, ...]]:
    """Lines that put digit t < count of four bytes into outputs 2 t and 2 t + 1; the factors."""
    bits = 8 // count_digits(levels)
    lines = [line.format(w=source) for line in _WIDEN]
    exponent, factors = real.format_pair(2.0**real.mantissa), []
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
                lines.append(f'shr.u32 r{half}, p{half}, {shift};')
                value = f'r{half}'
            lines.append(f'lop3.b32 ${2 * digit + half}, {value}, {mask}, {exponent}, 0xEA;')
    return lines, tuple(factors)


def _enclose(lines: list[str]) -> str:
    declared = '.reg .b32 p0, p1, q0, q1, r0, r1, unit, back;'
    return '\n'.join(['{', declared, *lines, '}'])
