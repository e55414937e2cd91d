"""Linear layers with packed weights, and the swap of plain layers for packed ones.

Their tensors have optimum-quanto's names and lie as in a quantized checkpoint: loading assigns
them, and nothing is repacked. Knows no solver, no recipe's name and no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.int8.ops import packed_int8
from ..kernels.int8.rows import Int8Rows, make_int8_rows
from ..kernels.packed_ops import (
    MAX_BLOCK_ROWS,
    packed_linear,
    packed_swiglu,
    packed_terms,
)
from ..kernels.packing import PackedMatrix
from .embedding import QuantEmbedding
from .packed_weight import PackedBytes, PackedWeight
from .scheme import Rule, Rules, find_rule

# Scalars that optimum-quanto stores beside every layer; quanto needs them for its activations.
UNUSED = ('.input_scale', '.output_scale')


class QuantLinear(nn.Module):
    """nn.Linear over a packed weight; rows beyond out_features are padding.

    joint: `join` sets it on the first of several layers that read the same input. It computes all
    of their outputs in one pass. row_scale (rows): `int8.use_int8` sets it; with it, many rows
    are multiplied as int8. Moving or casting the layer removes both.
    """

    joint: JointProduct | None = None
    row_scale: Tensor | None = None

    def __init__(self, like: nn.Linear, rule: Rule) -> None:
        super().__init__()
        self.in_features, self.out_features = like.in_features, like.out_features
        rows = rule.pad(like.out_features)
        self.weight = PackedWeight(rows, like.in_features, rule.scheme, like.weight.dtype)
        self.bias = like.bias

    @property
    def stored(self) -> PackedMatrix:
        """The weight as the ops of kernels/ take it."""
        return self.weight.stored

    @property
    def rows(self) -> list[int]:
        """Height of the weight, padding included, as the ops take it."""
        return [self.weight.rows]

    def takes_int8(self, rows: int) -> bool:
        """Whether so many rows of an input are multiplied as int8."""
        return _takes_int8(rows, self.row_scale)

    def forward(self, x: Tensor | Int8Rows) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        int8 = _take_int8(x, self.row_scale)
        separate = int8 is not None or self.weight.rows > self.out_features
        if int8 is not None:
            y = _multiply_int8(int8, self.stored, self.rows, self.row_scale)
        else:
            y = packed_linear(x, *self.stored, self.rows, None if separate else self.bias)
        y = y[..., : self.out_features]
        return y + self.bias if separate and self.bias is not None else y

    def terms(self, x: Tensor | Int8Rows) -> Tensor:
        """Terms (S, ..., out_features) that add up to the output."""
        if isinstance(x, Int8Rows):
            return self(x).unsqueeze(0)
        if self.bias is not None or self.takes_int8(x.numel() // x.shape[-1]):
            return self(x).unsqueeze(0)
        terms: Tensor = packed_terms(x, *self.stored, self.rows)
        return terms[..., : self.out_features]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantLinear:
        """Move or cast the layer: its new tensors are no longer those of the joint product."""
        self.joint = self.row_scale = None
        return super()._apply(fn, recurse)


class RowParts(nn.ModuleList):
    """A linear layer without bias, cut into layers of some rows each, so that no tensor is large.

    rows: of each part but the last. For 8 bits and more; with fewer bits, a byte holds digits of
    several rows.
    """

    def __init__(self, like: nn.Linear, count: int, rule: Rule) -> None:
        super().__init__()
        self.rows = -(-like.out_features // count)
        for start in range(0, like.out_features, self.rows):
            size = min(self.rows, like.out_features - start)
            with torch.device(like.weight.device):
                part = nn.Linear(like.in_features, size, bias=False)
                self.append(QuantLinear(part, rule) if rule.scheme.levels else part)

    @property
    def weight(self) -> Any:
        """Weight of the first part, from which callers read dtype and device."""
        return self[0].weight

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return torch.cat([part(x) for part in self], -1)


class JointProduct:
    """Several layers of one input as one product; their weights become views of one tensor.

    row_scale: as that of QuantLinear.
    """

    row_scale: Tensor | None = None

    def __init__(self, layers: Sequence[QuantLinear]) -> None:
        weights = [layer.weight for layer in layers]
        self.rows = [weight.rows for weight in weights]
        self.out_features = [layer.out_features for layer in layers]
        matrices = [weight.stored for weight in weights]
        data = torch.cat([matrix.data for matrix in matrices])
        scale = torch.cat([matrix.scale for matrix in matrices])
        shift = scale if weights[0].levels == 3 else None
        if weights[0].shifted:
            shift = torch.cat([weight._shift for weight in weights])  # type: ignore[misc]
        self.stored = PackedMatrix(data, scale, shift, weights[0].levels)
        byte = row = 0
        for weight, matrix in zip(weights, matrices, strict=True):
            bytes_end, rows_end = byte + len(matrix.data), row + len(matrix.scale)
            holder = weight._data if isinstance(weight._data, PackedBytes) else weight
            holder._data = data[byte:bytes_end]
            weight._scale = scale[row:rows_end]
            if weight.shifted:
                weight._shift = shift[row:rows_end]  # type: ignore[index]
            byte, row = bytes_end, rows_end

    def __call__(self, x: Tensor | Int8Rows) -> list[Tensor]:
        """Outputs (..., out_features) of each layer for x (..., in_features)."""
        if (int8 := _take_int8(x, self.row_scale)) is not None:
            joined = _multiply_int8(int8, self.stored, self.rows, self.row_scale)
        else:
            joined = packed_linear(x, *self.stored, self.rows)
        outputs = joined.split(self.rows, -1)
        return [y[..., :size] for y, size in zip(outputs, self.out_features, strict=True)]

    def swiglu(self, x: Tensor | Int8Rows) -> Tensor:
        """silu(gate) * up, (..., out_features), where the two layers are these."""
        if (int8 := _take_int8(x, self.row_scale)) is not None:
            y = _multiply_int8(int8, self.stored, self.rows, self.row_scale, gated=True)
        else:
            y = packed_swiglu(x, *self.stored, self.rows)
        return y[..., : self.out_features[0]]


def _takes_int8(rows: int, row_scale: Tensor | None) -> bool:
    """Whether so many rows are multiplied as int8: so many that weights are unpacked for them."""
    return row_scale is not None and rows > MAX_BLOCK_ROWS


def _take_int8(x: Tensor | Int8Rows, row_scale: Tensor | None) -> Int8Rows | None:
    """Input as int8 rows, where a product with it is one of int8."""
    if isinstance(x, Int8Rows):
        return x
    is_int8 = _takes_int8(x.numel() // x.shape[-1], row_scale)
    return make_int8_rows(x) if is_int8 else None


def _multiply_int8(
    x: Int8Rows,
    matrix: PackedMatrix,
    rows: list[int],
    row_scale: Tensor | None,
    gated: bool = False,
) -> Tensor:
    """Product of x (..., K) with packed matrices: see `packed_int8`."""
    assert row_scale is not None
    y: Tensor = packed_int8(x.values, x.scale, *matrix, rows, row_scale, gated)
    return y.view(*x.like.shape[:-1], -1)


def join(layers: Sequence[nn.Module]) -> bool:
    """Let up to three layers that read the same input run as one product; False if they cannot.

    The first layer gets `joint`, and the weights of all become views of one tensor. Call it after
    loading.
    """
    quantized = [layer for layer in layers if isinstance(layer, QuantLinear)]
    first = quantized[0].weight if quantized else None
    if first is None or len(quantized) != len(layers) or len(layers) > 3:
        return False
    if any(layer.bias is not None or not layer.weight.can_join(first) for layer in quantized):
        return False
    quantized[0].joint = JointProduct(quantized)
    return True


def replace_linears(module: nn.Module, rules: Rules) -> list[str]:
    """Swap linear layers and embeddings for packed ones where a rule says so; return their names.

    For a module on the meta device, before its weights are loaded.
    """
    swapped = []
    for name, child in list(module.named_modules()):
        rule = find_rule(name, rules)
        if not rule.scheme.levels or not isinstance(child, nn.Linear | nn.Embedding):
            continue
        path, _, leaf = name.rpartition('.')
        kind = QuantLinear if isinstance(child, nn.Linear) else QuantEmbedding
        with torch.device(child.weight.device):
            setattr(module.get_submodule(path), leaf, kind(child, rule))  # type: ignore[arg-type]
        swapped.append(name)
    return swapped
