"""Codes of a whole matrix as numbers, and back to the bytes that store them. Knows no solver."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
import torch.nn.functional as F

from ..kernels.packing import count_digits, pack, unpack_codes
from .scheme import QuantScheme, Rule


def data_name(scheme: QuantScheme) -> str:
    """Ending of the tensor that holds the codes, behind `module.weight`."""
    return '._data' if scheme.levels == 256 else '._data._data'


def read_codes(
    data: Tensor, scheme: QuantScheme, rows: int, columns: int, part: slice = slice(None)
) -> Tensor:
    """Return codes (N, G, g) float32, from 0 to levels - 1, of some rows of stored bytes."""
    group = scheme.group_size(columns)
    if scheme.levels == 256:
        return data[part].to(torch.float32).unflatten(1, (-1, group)) + scheme.levels // 2
    index = torch.arange(rows * columns // group, device=data.device).view(rows, -1)[part]
    codes = unpack_codes(data.view(-1, group), scheme.levels, index.flatten())
    return codes.view(*index.shape, group).to(torch.float32)


def store_codes(codes: Tensor, scheme: QuantScheme) -> Tensor:
    """Return the bytes that store codes (N, G, g); the inverse of `read_codes`."""
    levels, group = scheme.levels, codes.shape[-1]
    if levels == 256:
        return (codes.to(torch.int16) - levels // 2).to(torch.int8).flatten(1)
    rows, digits = codes.to(torch.uint8).reshape(-1, group), count_digits(levels)
    rows = F.pad(rows, (0, 0, 0, -len(rows) % digits))
    return pack(rows.view(digits, -1, group), levels)


def dequantize(stored: Mapping[str, Tensor], rule: Rule, rows: int, columns: int) -> Tensor:
    """Return the first rows (rows, columns) float32 of a stored matrix.

    stored: by the endings that follow the weight's name.
    """
    scheme, padded = rule.scheme, rule.pad(rows)
    scale = stored['._scale'].to(torch.float32).view(padded, -1, 1)
    shift = stored.get('._shift', scale * (scheme.levels // 2)).to(torch.float32)
    codes = read_codes(stored[data_name(scheme)], scheme, padded, columns)
    return (scale * codes - shift.view(scale.shape)).flatten(1)[:rows]


def measure_error(stored: Mapping[str, Tensor], rule: Rule, weight: Tensor) -> float:
    """Frobenius norm of the error of a stored matrix over that of the weight (N, K)."""
    wide = weight.detach().to(torch.float32)
    rest = dequantize(stored, rule, *weight.shape) - wide
    return float(rest.norm() / wide.norm().clamp(min=1e-30))
