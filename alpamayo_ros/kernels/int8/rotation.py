"""A rotation of the inputs of a product in blocks, which spreads outliers before they are rounded.

One channel fifty times as large as the others would leave these a few of the 255 levels of int8.
In a block of 64 it is spread over all of them. A rotation of both operands keeps their product:
(x R)(w R)^T = x w^T. R is a Hadamard matrix whose rows have random signs. Its entries are powers
of two, so that products with them are exact in bfloat16. Knows no kernel.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
import torch.nn.functional as F

BLOCK = 64  # with 64 = 8 * 8, the entries are +-1 / 8


@cache
def make_rotation(columns: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rotations (BLOCK, BLOCK) of the whole blocks of a row, and of what is left behind them.

    The last columns are rotated in blocks of 16 and 4; up to 3 of them stay as they are.
    """
    generator = torch.Generator().manual_seed(0)
    left, sizes = columns % BLOCK, []
    for size in (16, 4, 1):
        sizes += [size] * (left // size)
        left %= size
    rest = torch.block_diag(torch.zeros(0, 0), *(_make_hadamard(size) for size in sizes))
    missing = BLOCK - len(rest)
    parts = []
    for matrix in (_make_hadamard(BLOCK), F.pad(rest, (0, missing, 0, missing))):
        signs = torch.randint(0, 2, (BLOCK, 1), generator=generator) * 2 - 1
        parts.append((signs * matrix).to(device, dtype))
    return parts[0], parts[1]


def rotate_plain(x: Tensor) -> Tensor:
    """Rotated rows (..., K) of x (..., K), float32."""
    wide = x.to(torch.float32)
    whole = x.shape[-1] // BLOCK * BLOCK
    full, rest = make_rotation(x.shape[-1], torch.float32, x.device)
    left = x.shape[-1] - whole
    turned = wide[..., :whole].unflatten(-1, (-1, BLOCK)) @ full
    return torch.cat([turned.flatten(-2), wide[..., whole:] @ rest[:left, :left]], -1)


def _make_hadamard(size: int) -> Tensor:
    """The orthonormal Hadamard matrix of a power of 4."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix / len(matrix) ** 0.5
