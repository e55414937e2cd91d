"""Error feedback (GPTQ, Frantar et al. 2023): later columns make up for errors of earlier ones.

Columns are rounded one by one, in the order of the matrix. The error that counts is that of the
layer's output, so the second moments of its input are needed. The scale and the shift of a group
are fitted when its first column comes. Works on a whole matrix; knows no file and no module.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
import torch.nn.functional as F

from ..kernels.packing import count_digits, pack
from .scheme import QuantScheme, Rule
from .solver import nearest_codes, solve

NAME = 'feedback'  # beside the SOLVERS, which see groups alone
BLOCK = 128  # columns, of a matrix whose rows have one scale
DAMPING = 0.01  # of the mean square of the inputs: makes the moments of few samples invertible


def estimate_feedback_memory(rows: int, columns: int) -> int:
    """Most bytes that a matrix takes: five copies of it and four of its moments, in float32."""
    return 5 * 4 * rows * columns + 4 * 4 * columns**2


def quantize_with_feedback(
    weight: Tensor,
    rule: Rule,
    moments: Tensor,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[dict[str, Tensor], float]:
    """As `quantize_matrix`; moments (K, K): mean of x x^T over inputs x of the layer."""
    scheme, levels = rule.scheme, rule.scheme.levels
    wanted = weight.detach().to(device, torch.float32)
    padded = F.pad(wanted, (0, 0, 0, rule.pad(len(wanted)) - len(wanted)))
    codes, scale, shift = _solve(padded, scheme, moments.to(device), dtype)
    group = scheme.group_size(weight.shape[1])
    dense = scale.to(torch.float32).unsqueeze(-1) * codes.unflatten(1, (-1, group))
    dense = (dense - shift.to(torch.float32).unsqueeze(-1)).flatten(1)[: len(wanted)]
    error = (dense - wanted).norm() / wanted.norm().clamp(min=1e-30)
    if levels == 256:
        return {'._data': (codes - levels // 2).to(torch.int8), '._scale': scale}, float(error)
    rows = codes.to(torch.uint8).view(-1, group)
    rows = F.pad(rows, (0, 0, 0, -len(rows) % count_digits(levels)))
    stored = {'._data._data': pack(rows.view(count_digits(levels), -1, group), levels)}
    stored['._scale'] = scale.view(-1, 1)
    if scheme.shifted:
        stored['._shift'] = shift.view(-1, 1)
    return stored, float(error)


def _solve(
    weight: Tensor, scheme: QuantScheme, moments: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (N, K) as floats, scale and shift (N, K / g) of a matrix (N, K).

    Inside a block, each column corrects the next ones; a product corrects all that follow the
    block. This is the arithmetic of correcting the whole matrix after each column.
    """
    upper = inverse_factor(moments)
    rest, codes = weight.clone(), torch.empty_like(weight)
    columns, group = weight.shape[1], scheme.group_size(weight.shape[1])
    scales, shifts = [], []
    for start, stop in _split_columns(columns, group):
        if start % group == 0:
            own = slice(start, start + group)
            # an error in column c costs its square / U[c, c]^2 once later columns have answered
            solved = solve(rest[:, own], scheme, 'mse', upper.diagonal()[own] ** -2, dtype)
            scales.append(solved.scale)
            shifts.append(solved.shift)
            scale, shift = solved.scale.to(torch.float32), solved.shift.to(torch.float32)
        block, errors = rest[:, start:stop], torch.empty_like(rest[:, start:stop])
        for c in range(stop - start):
            column, at = block[:, c : c + 1], start + c
            codes[:, at : at + 1] = nearest_codes(column, scale, shift, scheme)
            error = (column - (scale * codes[:, at : at + 1] - shift)) / upper[at, at]
            errors[:, c : c + 1] = error
            block[:, c + 1 :] -= error * upper[at, at + 1 : stop]
        rest[:, stop:] -= errors @ upper[start:stop, stop:]
    return codes, torch.cat(scales, 1), torch.cat(shifts, 1)


def _split_columns(columns: int, group: int) -> Iterator[tuple[int, int]]:
    """Yield blocks of columns: a group each, or BLOCK columns of a group that is a whole row."""
    size = min(group, BLOCK)
    for start in range(0, columns, size):
        yield start, min(start + size, columns)


def inverse_factor(moments: Tensor) -> Tensor:
    """Return the upper triangular U (K, K) float32 with U^T U the inverse of the damped moments.

    In float32, of which a GPU has plenty; where that is too little, damping grows tenfold.
    """
    damping = DAMPING
    while True:
        damped = damp(moments, damping)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            inverse = torch.cholesky_inverse(lower)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not int(failed):
                return upper
        damping *= 10


def damp(moments: Tensor, damping: float = DAMPING) -> Tensor:
    """Add a share of the mean square to the diagonal of moments (K, K), float32."""
    wide = moments.to(torch.float32).clone()
    wide.diagonal().add_(damping * wide.diagonal().mean().clamp(min=1e-30))
    return wide
