"""Quantize a matrix piece by piece, so that memory is bounded. Knows no module and no file."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..kernels.packing import count_digits, pack
from .scheme import Rule
from .solver import solve

PIECE = 1 << 21  # weights that are solved at a time: 8 MB in float32, and solvers hold several


def estimate_memory() -> int:
    """Bytes that a piece takes at most: solvers hold some nine float32 values of each weight."""
    return 10 * 4 * PIECE


def quantize_matrix(
    weight: Tensor,
    rule: Rule,
    solver: str = 'mse',
    device: str | torch.device = 'cpu',
    dtype: torch.dtype = torch.bfloat16,
    importance: Tensor | None = None,
) -> tuple[dict[str, Tensor], float]:
    """Stored tensors of a weight (N, K), by the endings that follow its name, and its error.

    weight: on any device, also mapped from a file; only pieces of it are copied. device: where the
    solver works and the result is. dtype: of scales and shifts. importance (K): how much an error
    of each input's weights counts. Error: Frobenius norm of the difference over the weight's.
    """
    scheme, columns = rule.scheme, weight.shape[1]
    group, each = scheme.group_size(columns), count_digits(scheme.levels)
    stored = {}
    for name, shape in scheme.list_shapes(rule.pad(weight.shape[0]), columns).items():
        kind = dtype
        if name.endswith('_data'):
            kind = torch.int8 if scheme.levels == 256 else torch.uint8
            data_name = name
        stored[name] = torch.empty(shape, dtype=kind, device=device)
    data = stored[data_name]
    groups = weight.detach().reshape(-1, group)
    difference = total = 0.0
    step = max(1, PIECE // (group * each))
    for start in range(0, len(data), step):
        count = min(step, len(data) - start)
        starts = range(start, len(data) * each, len(data))  # the group rows of each digit
        x = torch.cat([_rows(groups, at, count).to(device, torch.float32) for at in starts])
        counts = None
        if importance is not None:
            index = torch.cat([torch.arange(at, at + count) for at in starts])
            counts = importance.reshape(-1, group)[index % (columns // group)].to(device)
        solved = solve(x, scheme, solver, counts, dtype)
        data[start : start + count] = pack(solved.codes.view(each, count, group), scheme.levels)
        for name, values in (('._scale', solved.scale), ('._shift', solved.shift)):
            for at, own in zip(starts, values.split(count), strict=True):
                if name in stored:
                    place = stored[name][at : at + count]
                    place.copy_(own[: len(place)])
        piece = solved.error.tolist()
        difference, total = difference + piece[0], total + piece[1]
    return stored, math.sqrt(difference / max(total, 1e-300))


def _rows(groups: Tensor, start: int, count: int) -> Tensor:
    """Rows (count, g) of groups; zeros behind the end, where padding is."""
    found = groups[start : start + count]
    if len(found) == count:
        return found
    return torch.cat([found, found.new_zeros(count - len(found), groups.shape[1])])
