"""Packed weights: how codes of few bits lie in bytes, and how they become numbers in plain torch.

A matrix (N, K) is cut along K into groups of g; group row r = n * K / g + k // g has one scale.
A code below `levels` is one digit of a byte. Byte row p holds the group rows p, p + P, p + 2 P,
... in its digits, lowest first, with P = ceil(group rows / digits). For 4 and 16 levels these are
the bytes of optimum-quanto, which are also (N / digits, K) without a copy when digits divides N.
256 levels are plain int8. Knows no kernel and no recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

SCRATCH_BYTES = 32 << 20  # of dense weights at a time, int8 or wider, for products of many rows


def count_digits(levels: int) -> int:
    """Codes that a byte holds: 1, 2, 4 or 5 for 256, 16, 4 or 3 levels."""
    count = 1
    while levels ** (count + 1) <= 256:
        count += 1
    return count


class PackedMatrix(NamedTuple):
    """A packed matrix as stored, or several of one width K that are joined row by row.

    data: bytes (P, g), or (N / digits, K) uint8; int8 for 256 levels. scale and shift: one value a
    group row, N first; weight = scale * code - shift. Without a shift the codes are signed.
    """

    data: Tensor
    scale: Tensor
    shift: Tensor | None
    levels: int

    @property
    def digits(self) -> int:
        """Codes in a byte."""
        return count_digits(self.levels)

    @property
    def group_rows(self) -> int:
        """Group rows that a digit of all bytes holds: P."""
        return -(-self.scale.numel() // self.digits)

    @property
    def group(self) -> int:
        """Columns that share a scale: g."""
        return self.data.numel() // self.group_rows

    def split(self, rows: Sequence[int]) -> Iterator[PackedMatrix]:
        """The joined matrices one by one; `rows` are their heights N."""
        total = sum(rows)
        data = self.data.reshape(-1, self.group)
        scale = self.scale.reshape(total, -1)
        shift = None if self.shift is None else self.shift.reshape(total, -1)
        row = byte = 0
        for count in rows:
            size = -(-count * scale.shape[1] // self.digits)
            own = slice(row, row + count)
            own_shift = None if shift is None else shift[own]
            yield PackedMatrix(data[byte : byte + size], scale[own], own_shift, self.levels)
            row, byte = row + count, byte + size


def take_fields(function: Callable[..., Any], before: int = 1) -> Callable[..., Any]:
    """Let a function of a PackedMatrix take its fields one by one: op schemas know no named tuple.

    before: number of arguments in front of the matrix.
    """
    behind = before + len(PackedMatrix._fields)

    def call(*arguments: Any) -> Any:
        matrix = PackedMatrix(*arguments[before:behind])
        return function(*arguments[:before], matrix, *arguments[behind:])

    return call


def pack(codes: Tensor, levels: int) -> Tensor:
    """Bytes (P, g) of codes (digits, P, g) uint8."""
    packed = codes[0].clone()
    for digit in range(1, codes.shape[0]):
        packed += codes[digit] * levels**digit
    return packed


def unpack_codes(packed: Tensor, levels: int, rows: Tensor | int) -> Tensor:
    """Codes (R, n) of `rows` (R) int64, or (n) of one, in bytes (P, n); int8 comes as it is.

    A row is a group row of n = g columns, or, where no row lies in two digits, a matrix row.
    """
    if levels == 256:
        return packed[rows]
    taken, digit = packed[rows % len(packed)], rows // len(packed)
    if isinstance(digit, Tensor):
        digit = digit.to(torch.uint8).unsqueeze(-1)
    digits = count_digits(levels)
    if levels**digits < 256:  # no whole number of bits a digit
        return taken // levels**digit % levels
    return (taken >> (digit * (8 // digits))) & (levels - 1)


def unpack_rows(matrix: PackedMatrix, columns: int, rows: Tensor | int) -> Tensor:
    """Rows (R, columns) of the matrix: scale * code - shift, rounded once to the dtype of scale.

    rows: (R) int64, or one as an int: a token is looked up between two steps of the device, where
    every call counts.
    """
    data, scale, shift, levels = matrix
    group = matrix.group
    groups = columns // group
    if scale.numel() // groups % matrix.digits == 0:  # a token is read this way: few calls
        codes = unpack_codes(data.reshape(-1, columns), levels, rows)
    else:
        index = torch.as_tensor(rows, device=data.device).unsqueeze(-1) * groups
        index = index + torch.arange(groups, device=data.device)
        codes = unpack_codes(data.reshape(-1, group), levels, index.flatten())
    wide = codes.view(-1, groups, group).to(torch.float32)
    wide *= scale.view(-1, groups, 1)[rows]
    if shift is not None:
        wide -= shift.view(-1, groups, 1)[rows]
    return wide.to(scale.dtype).view(-1, columns)


def even_chunk(count: int, limit: int) -> int:
    """Size of equal pieces of `count` rows, whole blocks of 128: cuBLAS is slow with odd sizes."""
    limit = max(limit // 128 * 128, min(limit, 128))
    size = -(-count // -(-count // limit))
    return min(limit, -(-size // 128) * 128)
