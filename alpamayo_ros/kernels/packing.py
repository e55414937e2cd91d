"""Codes of weights as digits of bytes: the stored layout, and back to numbers in plain torch.

A matrix (N, K) is cut along K into groups of g; group row r = n * K / g + k // g has one scale.
A code below `levels` is one digit of a byte, and byte row p holds group rows p, p + P, p + 2 P,
... in its digits, lowest first: P = ceil(group rows / digits). For 4 and 16 levels these are the
bytes of optimum-quanto, which are also (N / digits, K) without a copy when digits divides N. 256
levels are plain int8. Knows no kernel and no recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

SCRATCH_BYTES = 32 << 20  # of dense weights at a time, where many rows are multiplied


def digits(levels: int) -> int:
    """How many codes a byte holds: 1, 2, 4 or 5 for 256, 16, 4 or 3 levels."""
    count = 1
    while levels ** (count + 1) <= 256:
        count += 1
    return count


def pack(codes: Tensor, levels: int) -> Tensor:
    """Bytes (P, g) of codes (digits, P, g) uint8."""
    packed = codes[0].clone()
    for digit in range(1, codes.shape[0]):
        packed += codes[digit] * levels**digit
    return packed


def group_size(data: Tensor, scale: Tensor, levels: int) -> int:
    """Columns that share a scale, from the stored tensors."""
    return data.numel() // -(-scale.numel() // digits(levels))


def codes_of(packed: Tensor, levels: int, rows: Tensor | int) -> Tensor:
    """Codes (R, n) of `rows` (R) int64, or (n) of one, in bytes (P, n); int8 comes as it is.

    A row is a group row of n = g columns, or, where none lies in two digits, one of the matrix.
    """
    if levels == 256:
        return packed[rows]
    taken, digit = packed[rows % len(packed)], rows // len(packed)
    if isinstance(digit, Tensor):
        digit = digit.to(torch.uint8).unsqueeze(-1)
    if levels ** digits(levels) < 256:  # no whole number of bits a digit
        return taken // levels**digit % levels
    return (taken >> (digit * (8 // digits(levels)))) & (levels - 1)


def dense_rows(
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    columns: int,
    rows: Tensor | int,
) -> Tensor:
    """Rows (R, columns) of the matrix: scale * code - shift, rounded once to the dtype of scale.

    rows: (R) int64, or one as an int: a token is looked up between two steps of the device, where
    every call counts. Without a shift the codes are signed.
    """
    group = group_size(data, scale, levels)
    groups = columns // group
    if scale.numel() // groups % digits(levels) == 0:  # what a token is read with: few calls
        codes = codes_of(data.reshape(-1, columns), levels, rows)
    else:
        index = torch.as_tensor(rows, device=data.device).unsqueeze(-1) * groups
        index = index + torch.arange(groups, device=data.device)
        codes = codes_of(data.reshape(-1, group), levels, index.flatten())
    wide = codes.view(-1, groups, group).to(torch.float32)
    wide *= scale.view(-1, groups, 1)[rows]
    if shift is not None:
        wide -= shift.view(-1, groups, 1)[rows]
    return wide.to(scale.dtype).view(-1, columns)


def parts(
    data: Tensor, scale: Tensor, shift: Tensor | None, levels: int, rows: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """(data, scale, shift) of each matrix in joined tensors; `rows` are their heights."""
    total = sum(rows)
    flat = data.reshape(-1, group_size(data, scale, levels))
    scale, shift = scale.reshape(total, -1), None if shift is None else shift.reshape(total, -1)
    row = byte = 0
    for count in rows:
        size = -(-count * scale.shape[1] // digits(levels))
        own = slice(row, row + count)
        yield flat[byte : byte + size], scale[own], None if shift is None else shift[own]
        row, byte = row + count, byte + size
