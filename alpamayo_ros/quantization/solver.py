"""Solvers: the scale and the shift of every group of weights, which decide the error.

A solver takes groups (R, g) and returns a scale and a shift for each; codes follow by rounding.
Knows no file and no module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .scheme import QuantScheme

# Solver: groups (R, g) float32, scheme, importance of each weight or None -> scale, shift (R, 1).
Solver = Callable[[Tensor, QuantScheme, Tensor | None], tuple[Tensor, Tensor]]

CLIPS = (1.0, 0.85, 0.7, 0.55)  # of the range between minimum and maximum: where fits start
REFITS = 12  # from each
HQQ_NORM, HQQ_BETA, HQQ_KAPPA, HQQ_ROUNDS = 0.7, 10.0, 1.01, 20  # the values of its authors


@dataclass(frozen=True)
class Solved:
    """Codes (R, g) uint8 (int8 with 256 levels), scale and shift (R, 1) in the stored dtype.

    error: sum of squared differences and of squares, to be added up over pieces of a matrix.
    """

    codes: Tensor
    scale: Tensor
    shift: Tensor
    error: Tensor


def solve(
    groups: Tensor,
    scheme: QuantScheme,
    solver: str = 'mse',
    importance: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Solved:
    """Quantize groups (R, g). Codes are chosen for the scale and shift as they are stored.

    importance: weight of each squared error, broadcast against groups; for example the mean
    square of the input that a column multiplies.
    """
    x = groups.to(torch.float32)
    scale, shift = SOLVERS[solver](x, scheme, importance)
    scale, shift = scale.to(dtype), shift.to(dtype)
    if not scheme.shifted:
        shift = scale * _middle(scheme)
    codes = nearest_codes(x, scale.to(torch.float32), shift.to(torch.float32), scheme)
    rest = x - (scale.to(torch.float32) * codes - shift.to(torch.float32))
    error = torch.stack([rest.square().sum(), x.square().sum()])
    signed = scheme.levels == 256
    codes = (codes - _middle(scheme)).to(torch.int8) if signed else codes.to(torch.uint8)
    return Solved(codes, scale, shift, error)


def minmax(
    x: Tensor, scheme: QuantScheme, importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The whole range of a group, quanto's default."""
    return _span(x, scheme, 1.0)


def hqq(x: Tensor, scheme: QuantScheme, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Half-quadratic quantization (Badri and Shaji): range as minmax, shift for a sparse error.

    Minimises the sum of |error|^0.7 by alternating a shrinkage of the errors with the mean shift.
    """
    scale, shift = minmax(x, scheme)
    if not scheme.shifted:
        return scale, shift
    best, beta = shift, HQQ_BETA
    least = (x - _snap(x, scale, shift, scheme)).abs().mean()
    for _ in range(HQQ_ROUNDS):
        codes = nearest_codes(x, scale, shift, scheme)
        error = x - (scale * codes - shift)
        size = error.abs()
        kept = error.sign() * (size - size.clamp(min=1e-12).pow(HQQ_NORM - 1) / beta).clamp(min=0)
        shift = (scale * codes - (x - kept)).mean(-1, keepdim=True)
        mean = (x - _snap(x, scale, shift, scheme)).abs().mean()
        if mean >= least:
            break
        best, least, beta = shift, mean, beta * HQQ_KAPPA
    return scale, best


def mse(x: Tensor, scheme: QuantScheme, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Least squares: from several clipped ranges, codes and linear fits in turn; the best of all.

    Each turn lowers the squared error, to a minimum near its start: hence several. With 256 levels
    it finds no better range than the whole one (0.0087 on Gaussian rows), which is taken.
    """
    if scheme.levels == 256:
        return minmax(x, scheme)
    weight = torch.ones_like(x[:1]) if importance is None else importance.to(torch.float32)
    weight = weight.expand_as(x)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for clip in CLIPS:
        scale, shift = _span(x, scheme, clip)
        for _ in range(REFITS):
            scale, shift = _fit(x, nearest_codes(x, scale, shift, scheme), scheme, weight, scale)
        error = x - _snap(x, scale, shift, scheme)
        loss = torch.linalg.vecdot(error * weight, error).unsqueeze(-1)
        if best is None:
            best = scale, shift, loss
        else:
            pairs = zip((scale, shift, loss), best, strict=True)
            better = loss < best[2]
            best = tuple(torch.where(better, new, old) for new, old in pairs)  # type: ignore[assignment]
    assert best is not None
    return best[0], best[1]


SOLVERS: dict[str, Solver] = {'mse': mse, 'hqq': hqq, 'minmax': minmax}


def _middle(scheme: QuantScheme) -> int:
    """The code of zero where levels are symmetric: 1 of 3, 128 of 256."""
    return scheme.levels // 2


def _span(x: Tensor, scheme: QuantScheme, clip: float) -> tuple[Tensor, Tensor]:
    """Levels spread evenly over a clipped range."""
    if not scheme.shifted:
        top = scheme.levels - 1 - _middle(scheme)
        scale = _positive(x.abs().amax(-1, keepdim=True) * (clip / top))
        return scale, scale * _middle(scheme)
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    centre, half = (low + high) / 2, (high - low) * (clip / 2)
    return _positive(2 * half / (scheme.levels - 1)), half - centre


def _positive(scale: Tensor) -> Tensor:
    """Constant groups have no range; any scale serves them."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def nearest_codes(x: Tensor, scale: Tensor, shift: Tensor, scheme: QuantScheme) -> Tensor:
    """Nearest codes, as floats."""
    lowest = 1 if scheme.levels == 256 else 0  # -127 to 127
    return ((x + shift) * (1 / scale)).round_().clamp_(lowest, scheme.levels - 1)


def _snap(x: Tensor, scale: Tensor, shift: Tensor, scheme: QuantScheme) -> Tensor:
    return scale * nearest_codes(x, scale, shift, scheme) - shift


def _fit(
    x: Tensor, codes: Tensor, scheme: QuantScheme, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted least squares of x = scale * codes - shift for fixed codes.

    Groups whose codes are all equal keep their scale.
    """
    if not scheme.shifted:
        codes = codes - _middle(scheme)
    weighted = codes * weight
    power = torch.linalg.vecdot(weighted, codes).unsqueeze(-1)
    product = torch.linalg.vecdot(weighted, x).unsqueeze(-1)
    if not scheme.shifted:
        fitted = product / power
        fitted = torch.where(fitted > 0, fitted, scale)  # false for 0 / 0 as well
        return fitted, fitted * _middle(scheme)
    total = weight.sum(-1, keepdim=True)
    mean_code = weighted.sum(-1, keepdim=True) / total
    mean_x = torch.linalg.vecdot(weight, x).unsqueeze(-1) / total
    fitted = (product - total * mean_code * mean_x) / (power - total * mean_code.square())
    fitted = torch.where((fitted > 0) & fitted.isfinite(), fitted, scale)
    return fitted, fitted * mean_code - mean_x
