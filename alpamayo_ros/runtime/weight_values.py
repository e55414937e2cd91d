"""Finds values that no weight has: NaN, infinite ones, and zeros where zeros end everything.

Damage and a training that diverged are seen here, and not in what the model predicts. One pass
over a tensor takes a fraction of the time of its sha256. Knows no module.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import BadInput

_SCALE, _DEVIATION = '._scale', '_std'


def require_sound_values(file: Path, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Raise BadInput unless a floating tensor of a file can be a weight in `dtype`.

    Its values are finite, before and after the cast to `dtype`. A norm's weight and the scales of
    a packed matrix are not all zero, as the end of a file is whose download stopped. Standard
    deviations are above zero. Tensors of whole numbers are not looked at.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return
    low, high = tensor.aminmax()  # NaN where there is one
    if not (low.isfinite() and high.isfinite()):
        bad, wrong = ~tensor.isfinite(), 'NaN or infinite, expected finite numbers'
    elif not torch.stack([low, high]).to(dtype).isfinite().all():
        most = torch.finfo(dtype).max
        bad, wrong = tensor.abs() > most, f'above {most:.6g}, the largest of {dtype}'
    elif name.endswith(_DEVIATION) and low <= 0:
        bad, wrong = tensor <= 0, 'zero or negative, expected standard deviations'
    elif low == high == 0 and (name.endswith(_SCALE) or _is_norm(name)):
        bad, wrong = tensor == 0, 'zero, expected others: the file may be cut short and filled up'
    else:
        return
    count = f'{int(bad.sum()):,} of {tensor.numel():,} values are'
    raise BadInput(f'{file}: {name}: {count} {wrong}')


def _is_norm(name: str) -> bool:
    module, _, leaf = name.rpartition('.')
    return leaf == 'weight' and 'norm' in module.rpartition('.')[2]
