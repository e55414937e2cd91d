"""Error feedback (GPTQ, Frantar et al. 2023): later columns make up for errors of earlier ones.

Columns are rounded one by one, in the order of the matrix. The error that counts is that of the
layer's output, so the second moments of its input are needed. The scale and the shift of a group
are fitted when its first column comes. Works on a whole matrix; knows no file and no module.
"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F

from ..kernels.packing import count_digits, pack
from .scheme import QuantScheme, Rule
from .solver import nearest_codes, solve

NAME = 'feedback'  # beside the SOLVERS, which see groups alone
DAMPING = 0.01  # of the mean square of the inputs: makes the moments of few samples invertible


def estimate_feedback_memory(rows: int, columns: int) -> int:
    """Most bytes that a matrix takes: five copies in float32, four of the moments in float64."""
    return 5 * 4 * rows * columns + 4 * 8 * columns**2


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
    """Codes (N, K) as floats, scale and shift (N, K / g) of a matrix (N, K)."""
    upper = _inverse_factor(moments)
    rest, codes = weight.clone(), torch.empty_like(weight)
    group = scheme.group_size(weight.shape[1])
    scales, shifts = [], []
    for start in range(0, weight.shape[1], group):
        own = slice(start, start + group)
        # an error in column c costs its square / U[c, c]^2 once the later columns have answered
        solved = solve(rest[:, own], scheme, 'mse', upper.diagonal()[own] ** -2, dtype)
        scales.append(solved.scale)
        shifts.append(solved.shift)
        scale, shift = solved.scale.to(torch.float32), solved.shift.to(torch.float32)
        for c in range(start, start + group):
            column = rest[:, c : c + 1]
            codes[:, c : c + 1] = nearest_codes(column, scale, shift, scheme)
            error = column - (scale * codes[:, c : c + 1] - shift)
            rest[:, c + 1 :] -= error / upper[c, c] * upper[c, c + 1 :]
    return codes, torch.cat(scales, 1), torch.cat(shifts, 1)


def _inverse_factor(moments: Tensor) -> Tensor:
    """Upper triangular U (K, K) float32 with U^T U the inverse of the damped moments."""
    wide = moments.to(torch.float64)
    mean = wide.diagonal().mean().clamp(min=1e-30)
    wide = wide + DAMPING * mean * torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(wide))
    return torch.linalg.cholesky(inverse, upper=True).to(torch.float32)
