"""Unpacks a quantized model into plain layers, which run anywhere and can be trained.

Knows no solver and no data.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from alpamayo_ros.kernels.packing import unpack_rows
from alpamayo_ros.quantization.embedding import QuantEmbedding
from alpamayo_ros.quantization.linear import QuantLinear
from alpamayo_ros.quantization.packed_weight import PackedWeight


def list_packed_layers(model: nn.Module) -> Iterator[tuple[str, QuantLinear | QuantEmbedding]]:
    """Yield every packed layer of a model with its name."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantLinear | QuantEmbedding):
            yield name, module


def unpack(model: nn.Module) -> dict[str, PackedWeight]:
    """Replace packed layers by plain ones of equal numbers; return the packed weights by name.

    The plain layers have no padding rows.
    """
    found = {}
    for name, packed in list_packed_layers(model):
        columns = packed.weight.columns
        with torch.device('meta'):
            if isinstance(packed, QuantLinear):
                rows, bias = packed.out_features, packed.bias
                plain: nn.Linear | nn.Embedding = nn.Linear(columns, rows, bias is not None)
                plain.bias = bias
            else:
                rows = packed.num_embeddings
                plain = nn.Embedding(rows, columns)
        plain.weight = nn.Parameter(unpack_matrix(packed.weight, rows), requires_grad=False)
        path, _, leaf = name.rpartition('.')
        setattr(model.get_submodule(path), leaf, plain)
        found[name] = packed.weight
    return found


def unpack_matrix(weight: PackedWeight, rows: int) -> Tensor:
    """Unpack the first rows (rows, columns) of a matrix, in the dtype of its scales."""
    index = torch.arange(rows, device=weight.device)
    return unpack_rows(weight.stored, weight.columns, index)
