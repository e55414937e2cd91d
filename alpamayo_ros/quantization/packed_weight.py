"""A packed matrix as a module: bytes, scales and shifts under optimum-quanto's names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels.packing import PackedMatrix, count_digits
from .scheme import QuantScheme


class PackedBytes(nn.Module):
    """A module in between, so that the buffer is called `_data._data` as in optimum-quanto."""

    _data: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer('_data', torch.empty(shape, dtype=torch.uint8))


class PackedWeight(nn.Module):
    """A packed matrix (rows, columns): bytes, scales and shifts as buffers."""

    _scale: Tensor

    def __init__(self, rows: int, columns: int, scheme: QuantScheme, dtype: torch.dtype) -> None:
        super().__init__()
        self.rows, self.columns, self.levels = rows, columns, scheme.levels
        self.shifted = scheme.shifted
        shapes = scheme.list_shapes(rows, columns)
        if '._data' in shapes:
            self.register_buffer('_data', torch.empty(shapes['._data'], dtype=torch.int8))
        else:
            self._data = PackedBytes(shapes['._data._data'])
        for name in ('_scale', '_shift'):
            if f'.{name}' in shapes:
                self.register_buffer(name, torch.empty(shapes[f'.{name}'], dtype=dtype))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the matrix once unpacked."""
        return self._scale.dtype

    @property
    def device(self) -> torch.device:
        """Device of the bytes."""
        return self._scale.device

    @property
    def stored(self) -> PackedMatrix:
        """The matrix as the ops of kernels/ take it."""
        data = self._data._data if isinstance(self._data, PackedBytes) else self._data
        # three symmetric levels are -scale, 0 and scale: the shift is the scale itself
        shift = self._shift if self.shifted else self._scale if self.levels == 3 else None
        return PackedMatrix(data, self._scale, shift, self.levels)  # type: ignore[arg-type]

    def can_join(self, other: PackedWeight) -> bool:
        """Whether both can lie in one tensor, one behind the other."""
        return (
            self.rows % count_digits(self.levels) == 0
            and self.stored.data.shape[1:] == other.stored.data.shape[1:]
            and (self.levels, self.columns, self.dtype, self.device)
            == (other.levels, other.columns, other.dtype, other.device)
        )
