"""Linear layers and SwiGLU of int8 activations and weights: ops with plain twins and fast paths.

x is quantized by `rows.quantize_rows`. Packed weights are unpacked to int8 piece by piece, as the
scratch holds them; weights that are int8 already are taken as they are. Knows no module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
import torch.nn.functional as F

from ..packing import SCRATCH_BYTES, PackedMatrix, even_chunk, take_fields
from ..swiglu import swiglu_plain
from .weights import unpack_int8_plain

try:
    from ..unpack import get_scratch
    from .product import multiply_int8
    from .weights import unpack_int8_into
except ImportError:  # no Triton, as in CPU builds of torch: the plain path serves
    multiply_int8 = None  # type: ignore[assignment]

CURVES = ('', 'tanh', 'erf')  # GELU of a product: none, its approximation by tanh, exact


def int8_linear_plain(
    values: Tensor,
    value_scale: Tensor,
    like: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    curve: str = '',
) -> Tensor:
    """Product (M, N) of rows (M, K) int8 with the transpose of weight (N, K) int8, plus bias.

    Scales: (M) and (N) float32. The result has the dtype of `like`. curve: GELU of it, see CURVES.
    Sums of products are exact on a GPU, and of float32 here.
    """
    total = values.to(torch.float32) @ weight.to(torch.float32).T
    total *= value_scale.unsqueeze(-1) * weight_scale
    y = (total if bias is None else total + bias).to(like.dtype)
    return F.gelu(y, approximate='tanh' if curve == 'tanh' else 'none') if curve else y


int8_linear = torch.library.custom_op('alpamayo_ros::int8_linear', mutates_args=())(
    int8_linear_plain
)


@int8_linear.register_fake
def _(values, value_scale, like, weight, weight_scale, bias=None, curve=''):
    return like.new_empty(len(values), len(weight))


def packed_int8_plain(
    values: Tensor,
    value_scale: Tensor,
    matrix: PackedMatrix,
    rows: Sequence[int],
    row_scale: Tensor,
    gated: bool = False,
) -> Tensor:
    """Product (M, sum of rows) of rows (M, K) int8 with packed matrices, unpacked to int8.

    Matrices and `rows` as in `packed_linear`; row_scale (sum of rows): see
    `weights.compute_weight_scales`. gated: silu(first product) * second product, (M, rows[0]).
    """
    columns = matrix.scale.numel() // sum(rows) * matrix.group
    weight = torch.cat(
        [
            unpack_int8_plain(part, own, columns, 0, len(own))
            for part, own in zip(matrix.split(rows), row_scale.split(list(rows)), strict=True)
        ]
    )
    y = int8_linear_plain(values, value_scale, matrix.scale, weight, row_scale)
    return swiglu_plain(*y.split(list(rows), -1)) if gated else y


packed_int8 = torch.library.custom_op(
    'alpamayo_ros::packed_int8',
    mutates_args=(),
    schema='(Tensor values, Tensor value_scale, Tensor data, Tensor scale, Tensor? shift, '
    'SymInt levels, SymInt[] rows, Tensor row_scale, bool gated=False) -> Tensor',
)(take_fields(packed_int8_plain, before=2))


@packed_int8.register_fake
@partial(take_fields, before=2)
def _(values, value_scale, matrix, rows, row_scale, gated=False):
    return matrix.scale.new_empty(len(values), rows[0] if gated else sum(rows))


def int8_linear_cuda(
    values: Tensor,
    value_scale: Tensor,
    like: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    curve: str = '',
) -> Tensor:
    """The op in Triton."""
    out = like.new_empty(len(values), len(weight))
    multiply_int8(values, value_scale, weight, weight_scale, out, bias, curve)
    return out


def packed_int8_cuda(
    values: Tensor,
    value_scale: Tensor,
    matrix: PackedMatrix,
    rows: Sequence[int],
    row_scale: Tensor,
    gated: bool = False,
) -> Tensor:
    """The op in Triton: as many rows as the scratch holds, and so on."""
    columns = matrix.scale.numel() // sum(rows) * matrix.group
    matrices = list(matrix.split(rows))
    scales = row_scale.split(list(rows))
    out = matrix.scale.new_empty(len(values), rows[0] if gated else sum(rows))
    at = 0
    for piece in _plan_pieces(rows, values.shape[1], gated):
        weight = get_scratch(
            values, sum(stop - start for _, start, stop in piece), values.shape[1]
        )
        places = weight.split([stop - start for _, start, stop in piece])
        for place, (i, start, _) in zip(places, piece, strict=True):
            unpack_int8_into(place, matrices[i], scales[i], columns, start)
        if gated:
            _, start, stop = piece[0]
            own = row_scale.view(2, -1)[:, start:stop]
        else:
            own = row_scale[at : at + len(weight)]
        width = own.shape[-1]
        multiply_int8(values, value_scale, weight, own, out[:, at : at + width])
        at += width
    return out


def _plan_pieces(
    rows: Sequence[int], columns: int, gated: bool
) -> Iterator[list[tuple[int, int, int]]]:
    """Yield which rows to unpack together: matrix, first row and the one behind the last."""
    limit = max(1, SCRATCH_BYTES // columns)
    if sum(rows) <= limit:
        yield [(i, 0, count) for i, count in enumerate(rows)]
        return
    together = range(2) if gated else range(1)
    for first in range(0, len(rows), len(together)):
        count = rows[first]
        chunk = even_chunk(count, limit // len(together))
        for start in range(0, count, chunk):
            yield [(first + i, start, min(start + chunk, count)) for i in together]


if multiply_int8 is not None:
    int8_linear.register_kernel('cuda')(int8_linear_cuda)
    packed_int8.register_kernel('cuda')(take_fields(packed_int8_cuda, before=2))
