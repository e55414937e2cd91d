"""Linear layers, SwiGLU and embedding over packed weights: ops with plain twins and fast paths.

The weights stay as they are stored (see `packing`); no path makes a second copy of them. An op on
a CPU is its plain twin. Ops take the fields of a PackedMatrix one by one, the functions behind
them take the matrix. Knows no module and no recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .packing import SCRATCH_BYTES, PackedMatrix, even_chunk, take_fields, unpack_rows
from .swiglu import swiglu_plain

try:
    from . import unpack
    from .packed_products import multiply, sum_terms
    from .swiglu import swiglu_triton
except ImportError:  # no Triton, as in CPU builds of torch: the plain path serves
    unpack = None  # type: ignore[assignment]

MAX_BLOCK_ROWS = 128  # with more rows, unpacking once for the library's product is faster

_MATRIX = 'Tensor data, Tensor scale, Tensor? shift, SymInt levels'

UnpackRange = Callable[[PackedMatrix, int, int, int], Tensor]


def _define(name: str, schema: str, plain: Callable[..., Tensor]) -> Any:
    define = torch.library.custom_op(f'alpamayo_ros::{name}', mutates_args=(), schema=schema)
    return define(take_fields(plain))


def packed_linear_plain(
    x: Tensor, matrix: PackedMatrix, rows: Sequence[int], bias: Tensor | None = None
) -> Tensor:
    """Product (..., sum of rows) of x (..., K) with the transposes of packed matrices, plus bias.

    rows: the heights N of the matrices; several may be joined, see PackedMatrix.
    """
    return _multiply_unpacked(x, matrix, rows, bias, _unpack_range_plain)


packed_linear = _define(
    'packed_linear',
    f'(Tensor x, {_MATRIX}, SymInt[] rows, Tensor? bias=None) -> Tensor',
    packed_linear_plain,
)


@packed_linear.register_fake
@take_fields
def _(x, matrix, rows, bias=None):
    return x.new_empty(*x.shape[:-1], sum(rows))


def packed_terms_plain(x: Tensor, matrix: PackedMatrix, rows: Sequence[int]) -> Tensor:
    """Terms (S, ..., sum of rows) that add up to `packed_linear` without a bias.

    On a GPU there are several, in float32, where the product is cut along K: whoever reads them
    adds them up. Here there is one.
    """
    return packed_linear_plain(x, matrix, rows).unsqueeze(0)


packed_terms = _define(
    'packed_terms', f'(Tensor x, {_MATRIX}, SymInt[] rows) -> Tensor', packed_terms_plain
)


@packed_terms.register_fake
@take_fields
def _(x, matrix, rows):
    count = torch.library.get_ctx().new_dynamic_size()
    return x.new_empty(count, *x.shape[:-1], sum(rows))


def packed_swiglu_plain(x: Tensor, matrix: PackedMatrix, rows: Sequence[int]) -> Tensor:
    """silu(gate) * up, (..., N), of the two products that `packed_linear` gives of x.

    rows: the height N of gate and of up, which are joined in one tensor.
    """
    both = packed_linear_plain(x, matrix, rows)
    return swiglu_plain(*both.split(list(rows), -1))


packed_swiglu = _define(
    'packed_swiglu', f'(Tensor x, {_MATRIX}, SymInt[] rows) -> Tensor', packed_swiglu_plain
)


@packed_swiglu.register_fake
@take_fields
def _(x, matrix, rows):
    return x.new_empty(*x.shape[:-1], rows[0])


def packed_embedding_plain(ids: Tensor, matrix: PackedMatrix, columns: int) -> Tensor:
    """Rows (..., columns) of a packed matrix at ids (...) int64."""
    one = ids.numel() == 1 and not ids.is_cuda
    rows = unpack_rows(matrix, columns, int(ids) if one else ids.flatten())
    return rows.view(*ids.shape, columns)


packed_embedding = _define(
    'packed_embedding',
    f'(Tensor ids, {_MATRIX}, SymInt columns) -> Tensor',
    packed_embedding_plain,
)


@packed_embedding.register_fake
@take_fields
def _(ids, matrix, columns):
    return matrix.scale.new_empty(*ids.shape, columns)


def packed_linear_cuda(
    x: Tensor, matrix: PackedMatrix, rows: Sequence[int], bias: Tensor | None = None
) -> Tensor:
    """The op by the path that is fastest for the number of rows of x."""
    if _needs_unpacking(x, matrix, rows):
        return _multiply_unpacked(x, matrix, rows, bias, unpack.unpack_range_triton)
    y = sum_terms(packed_terms_cuda(x, matrix, rows), x.dtype)
    return y if bias is None else y.add_(bias)


def packed_terms_cuda(x: Tensor, matrix: PackedMatrix, rows: Sequence[int]) -> Tensor:
    """The terms as the kernel leaves them."""
    if _needs_unpacking(x, matrix, rows):
        return packed_linear_cuda(x, matrix, rows).unsqueeze(0)
    terms = multiply(x.reshape(-1, x.shape[-1]), matrix, rows)
    return terms.view(-1, *x.shape[:-1], terms.shape[-1])


def packed_swiglu_cuda(x: Tensor, matrix: PackedMatrix, rows: Sequence[int]) -> Tensor:
    """The op piece by piece, without both products of many rows in memory at once."""
    if not _needs_unpacking(x, matrix, rows):
        both = packed_linear_cuda(x, matrix, rows)
        return swiglu_triton(*both.split(list(rows), -1))
    flat = x.reshape(-1, x.shape[-1])
    height, columns = rows[0], x.shape[-1]
    out = x.new_empty(len(flat), height)
    gate_and_up = list(matrix.split(rows))
    chunk = even_chunk(height, max(1, SCRATCH_BYTES // (2 * columns * x.element_size())))
    for start in range(0, height, chunk):
        size = min(chunk, height - start)
        weight = unpack.get_scratch(matrix.scale, 2 * size, columns)
        for half, part in zip(weight.split(size), gate_and_up, strict=True):
            unpack.unpack_into(half, part, start)
        gate, up = torch.mm(flat, weight.to(x.dtype).t()).split(size, -1)
        swiglu_triton(gate, up, out[:, start : start + size])
    return out.view(*x.shape[:-1], height)


def packed_embedding_cuda(ids: Tensor, matrix: PackedMatrix, columns: int) -> Tensor:
    """The op as one kernel."""
    rows = unpack.unpack_rows_triton(matrix, columns, ids.flatten())
    return rows.view(*ids.shape, columns)


def _needs_unpacking(x: Tensor, matrix: PackedMatrix, rows: Sequence[int]) -> bool:
    """Whether the library multiplies: many rows of x, or what no kernel here takes."""
    has_whole_bytes = all(height % matrix.digits == 0 for height in rows)
    # float32 is there for comparisons: its tiles would not fit the shared memory
    is_large = x.numel() // x.shape[-1] > MAX_BLOCK_ROWS
    return is_large or not has_whole_bytes or x.dtype == torch.float32


def _multiply_unpacked(
    x: Tensor,
    matrix: PackedMatrix,
    rows: Sequence[int],
    bias: Tensor | None,
    unpack_range: UnpackRange,
) -> Tensor:
    """Unpack as many rows as the scratch holds, multiply, and so on."""
    columns = x.shape[-1]
    flat = x.reshape(-1, columns)
    out = x.new_empty(len(flat), sum(rows))
    at, limit = 0, max(1, SCRATCH_BYTES // (columns * x.element_size()))
    for count, part in zip(rows, matrix.split(rows), strict=True):
        chunk = even_chunk(count, limit)
        for start in range(0, count, chunk):
            stop = min(start + chunk, count)
            weight = unpack_range(part, columns, start, stop).to(x.dtype).t()
            place = slice(at + start, at + stop)
            if bias is None:
                torch.mm(flat, weight, out=out[:, place])
            else:  # in the product's own kernel
                torch.addmm(bias[place], flat, weight, out=out[:, place])
        at += count
    return out.view(*x.shape[:-1], -1)


def _unpack_range_plain(matrix: PackedMatrix, columns: int, start: int, stop: int) -> Tensor:
    return unpack_rows(matrix, columns, torch.arange(start, stop, device=matrix.data.device))


if unpack is not None:
    packed_linear.register_kernel('cuda')(take_fields(packed_linear_cuda))
    packed_terms.register_kernel('cuda')(take_fields(packed_terms_cuda))
    packed_swiglu.register_kernel('cuda')(take_fields(packed_swiglu_cuda))
    packed_embedding.register_kernel('cuda')(take_fields(packed_embedding_cuda))
