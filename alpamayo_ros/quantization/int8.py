"""Int8 activations: which layers of a loaded model multiply int8 rows, and with which weights.

Packed layers keep their bytes and unpack them to int8 for every product of many rows. Fewer rows
are a token of each sample, whose products read weights more than they compute: they keep 16 bits.
Knows no model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels.int8.ops import int8_linear
from ..kernels.int8.rows import Int8Rows, make_int8_rows, quantize_rows_plain
from ..kernels.int8.weights import compute_weight_scales
from ..kernels.packing import unpack_rows
from .linear import QuantLinear

CURVES = {'none': 'erf', 'tanh': 'tanh'}  # torch's names of GELU -> those of `int8_linear`
PART = 1 << 24  # weights that are rotated at a time


class Int8Linear(nn.Module):
    """A linear layer whose weight is rotated int8 with one scale a row; its input becomes that."""

    data: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear | QuantLinear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        parts = [_quantize_weight(layer, part) for part in _split_rows(layer)]
        for name, tensors in zip(('data', 'scale'), zip(*parts, strict=True), strict=True):
            self.register_buffer(name, torch.cat(tensors))

    def takes_int8(self, rows: int) -> bool:
        """Whether so many rows of an input are multiplied as int8: any."""
        return rows > 0

    def forward(self, x: Tensor | Int8Rows) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return self._multiply(x, '')

    def multiply_gelu(self, x: Tensor | Int8Rows, approximate: str) -> Tensor:
        """GELU of the output, in the product's own kernel."""
        return self._multiply(x, CURVES[approximate])

    def _multiply(self, x: Tensor | Int8Rows, curve: str) -> Tensor:
        x = x if isinstance(x, Int8Rows) else make_int8_rows(x)
        y: Tensor = int8_linear(*x, self.data, self.scale, self.bias, curve)
        return y.view(*x.like.shape[:-1], -1)


def _split_rows(layer: nn.Linear | QuantLinear) -> tuple[Tensor, ...]:
    rows = torch.arange(layer.out_features, device=layer.weight.device)
    return rows.split(max(1, PART // layer.in_features))


def _quantize_weight(layer: nn.Linear | QuantLinear, rows: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(layer, QuantLinear):
        weight = unpack_rows(layer.weight.stored, layer.in_features, rows)
    else:
        weight = layer.weight[rows]
    return quantize_rows_plain(weight.detach())


def use_int8(module: nn.Module, keep_packed: bool) -> None:
    """Let the linear layers of a module multiply int8 rows. Call it after `join`.

    keep_packed: packed layers keep their bytes for products of few rows. All others are swapped
    for layers of int8 weights.
    """
    for name, child in list(module.named_modules()):
        if isinstance(child, QuantLinear) and keep_packed:
            for product in (child, child.joint):
                if product is not None:
                    parts = product.stored.split(product.rows)
                    scales = [compute_weight_scales(part, child.in_features) for part in parts]
                    product.row_scale = torch.cat(scales)
        elif isinstance(child, nn.Linear | QuantLinear):
            path, _, leaf = name.rpartition('.')
            setattr(module.get_submodule(path), leaf, Int8Linear(child))
