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

from .codes import data_name, store_codes
from .scheme import QuantScheme, Rule
from .solver import nearest_codes, solve

BLOCK = 128  # columns, of a matrix whose rows have one scale
DAMPING = 0.01  # of the mean square of the inputs: makes the moments of few samples invertible
PIECE = 1 << 26  # weights that are solved at a time; rows do not depend on each other


def quantize_with_feedback(
    weight: Tensor,
    rule: Rule,
    moments: Tensor,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[dict[str, Tensor], float]:
    """As `quantize_matrix`; moments (K, K): mean of x x^T over inputs x of the layer."""
    scheme, columns = rule.scheme, weight.shape[1]
    upper = inverse_factor(moments.to(device))
    padded = F.pad(weight.detach(), (0, 0, 0, rule.pad(len(weight)) - len(weight)))
    codes, scales, shifts = [], [], []
    rest = whole = 0.0
    for rows in padded.split(max(PIECE // columns, 1)):
        wanted = rows.to(device, torch.float32)
        code, scale, shift = _solve(wanted, scheme, upper, dtype)
        grouped = code.unflatten(1, (scale.shape[1], -1))
        dense = scale.to(torch.float32).unsqueeze(-1) * grouped
        dense = (dense - shift.to(torch.float32).unsqueeze(-1)).flatten(1)
        rest += float((dense - wanted).square().sum())
        whole += float(wanted.square().sum())
        codes.append(grouped.to(torch.uint8))
        scales.append(scale)
        shifts.append(shift)
    stored = {data_name(scheme): store_codes(torch.cat(codes), scheme)}
    stored['._scale'] = torch.cat(scales).view(-1, 1)
    if scheme.shifted:
        stored['._shift'] = torch.cat(shifts).view(-1, 1)
    return stored, (rest / max(whole, 1e-30)) ** 0.5


def _solve(
    weight: Tensor, scheme: QuantScheme, upper: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (N, K) as floats, scale and shift (N, K / g) of a matrix (N, K).

    Inside a block, each column corrects the next ones; a product corrects all that follow the
    block. This is the arithmetic of correcting the whole matrix after each column. upper: see
    `inverse_factor`.
    """
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


def inverse_factor(moments: Tensor, damping: float = DAMPING) -> Tensor:
    """Return the upper triangular U (K, K) float32 with U^T U the inverse of the damped moments.

    In float32, of which a GPU has plenty; where that is too little, damping grows tenfold.
    """
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
