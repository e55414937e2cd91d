"""Unpacks a quantized model into plain layers, which run anywhere and can be trained.

Knows no solver and no data.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from alpamayo_ros.kernels.packing import count_digits, pack, unpack_codes, unpack_rows
from alpamayo_ros.quantization.embedding import QuantEmbedding
from alpamayo_ros.quantization.linear import QuantLinear
from alpamayo_ros.quantization.packed_weight import PackedWeight


def packed_layers(model: nn.Module) -> Iterator[tuple[str, QuantLinear | QuantEmbedding]]:
    """Every packed layer of a model with its name."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantLinear | QuantEmbedding):
            yield name, module


def unpack(model: nn.Module) -> dict[str, PackedWeight]:
    """Put plain layers of equal numbers in the place of packed ones; the packed weights by name.

    Padding rows are left out.
    """
    found = {}
    for name, packed in packed_layers(model):
        columns = packed.weight.columns
        with torch.device('meta'):
            if isinstance(packed, QuantLinear):
                rows, bias = packed.out_features, packed.bias
                plain: nn.Linear | nn.Embedding = nn.Linear(columns, rows, bias is not None)
                plain.bias = bias
            else:
                rows = packed.num_embeddings
                plain = nn.Embedding(rows, columns)
        plain.weight = nn.Parameter(dense(packed.weight, rows), requires_grad=False)
        path, _, leaf = name.rpartition('.')
        setattr(model.get_submodule(path), leaf, plain)
        found[name] = packed.weight
    return found


def dense(weight: PackedWeight, rows: int) -> Tensor:
    """The first rows (rows, columns) of the matrix, in the dtype of its scales."""
    index = torch.arange(rows, device=weight.device)
    return unpack_rows(weight.stored, weight.columns, index)


def codes_in(weight: PackedWeight) -> Tensor:
    """Codes (rows, columns) float32 of a packed weight: 0 to levels - 1, signed for 256."""
    data, scale, _, levels = weight.stored
    group = weight.rows * weight.columns // scale.numel()
    rows = torch.arange(scale.numel(), device=data.device)
    own = unpack_codes(data.reshape(-1, group), levels, rows)
    return own.to(torch.float32).view(weight.rows, weight.columns)


def packed_bytes(own: Tensor, like: PackedWeight) -> Tensor:
    """Bytes of codes (rows, columns), as `like` stores its own; the inverse of `codes_in`."""
    data, scale, _, levels = like.stored
    if levels == 256:
        return own.to(torch.int8)
    group = like.rows * like.columns // scale.numel()
    rows = own.to(torch.uint8).view(-1, group)
    rows = nn.functional.pad(rows, (0, 0, 0, -len(rows) % count_digits(levels)))
    return pack(rows.view(count_digits(levels), -1, group), levels)
