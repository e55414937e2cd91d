"""Linear layers and embedding over packed weights: op schemas, plain twins, the choice of path.

The weights stay as they are stored (see `packing`); no path makes a second copy of them. Knows no
module and no recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .fused import swiglu_plain
from .packing import SCRATCH_BYTES, dense_rows, digits, parts

try:
    from . import packed_matmul, unpack
    from .fused import swiglu_triton
    from .packed_tiles import sum_terms
except ImportError:  # no Triton, as in CPU builds of torch: the plain path serves
    packed_matmul = None  # type: ignore[assignment]

MAX_BLOCK_ROWS = 128  # with more rows, unpacking once for the library's product is faster

Dense = Callable[[Tensor, Tensor, Tensor | None, int, int, int, int], Tensor]


@torch.library.custom_op('alpamayo_ros::packed_linear', mutates_args=())
def packed_linear(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
    bias: Tensor | None = None,
) -> Tensor:
    """Product (..., sum of rows) of x (..., K) with the transposes of packed matrices, plus bias.

    rows: the heights N of the matrices; several may be joined in one tensor, one after another.
    data: bytes (P, g) or (sum of N / digits, K); scale and shift: one value a group row, N first.
    """
    return packed_linear_plain(x, data, scale, shift, levels, rows, bias)


@packed_linear.register_fake
def _(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
    bias: Tensor | None = None,
) -> Tensor:
    return x.new_empty(*x.shape[:-1], sum(rows))


def packed_linear_plain(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
    bias: Tensor | None = None,
) -> Tensor:
    """The op in torch."""
    return _unpacked_product(x, data, scale, shift, levels, rows, bias, _dense_plain)


def _even(count: int, limit: int) -> int:
    """Size of equal pieces of `count` rows, whole blocks of 128: odd ones are slow to multiply."""
    limit = max(limit // 128 * 128, min(limit, 128))
    size = -(-count // -(-count // limit))
    return min(limit, -(-size // 128) * 128)


def _dense_plain(
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    columns: int,
    start: int,
    stop: int,
) -> Tensor:
    rows = torch.arange(start, stop, device=data.device)
    return dense_rows(data, scale, shift, levels, columns, rows)


def _unpacked_product(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
    bias: Tensor | None,
    dense: Dense,
) -> Tensor:
    """Unpack as many rows as the scratch holds, multiply, and so on."""
    columns = x.shape[-1]
    flat = x.reshape(-1, columns)
    out = x.new_empty(len(flat), sum(rows))
    at, limit = 0, max(1, SCRATCH_BYTES // (columns * x.element_size()))
    stored = parts(data, scale, shift, levels, rows)
    for count, (own_data, own_scale, own_shift) in zip(rows, stored, strict=True):
        chunk = _even(count, limit)
        for start in range(0, count, chunk):
            stop = min(start + chunk, count)
            weight = dense(own_data, own_scale, own_shift, levels, columns, start, stop)
            weight, place = weight.to(x.dtype).t(), slice(at + start, at + stop)
            if bias is None:
                torch.mm(flat, weight, out=out[:, place])
            else:  # in the product's own kernel
                torch.addmm(bias[place], flat, weight, out=out[:, place])
        at += count
    return out.view(*x.shape[:-1], -1)


@torch.library.custom_op('alpamayo_ros::packed_terms', mutates_args=())
def packed_terms(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
) -> Tensor:
    """Terms (S, ..., sum of rows) that add up to `packed_linear` without a bias.

    Several, in float32, where the product is cut along K: whoever reads them adds them up.
    """
    return packed_terms_plain(x, data, scale, shift, levels, rows)


@packed_terms.register_fake
def _(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
) -> Tensor:
    count = torch.library.get_ctx().new_dynamic_size()
    return x.new_empty(count, *x.shape[:-1], sum(rows))


def packed_terms_plain(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
) -> Tensor:
    """The op in torch: one term."""
    return packed_linear_plain(x, data, scale, shift, levels, rows).unsqueeze(0)


@torch.library.custom_op('alpamayo_ros::packed_swiglu', mutates_args=())
def packed_swiglu(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
) -> Tensor:
    """silu(gate) * up, (..., N), of the two products that `packed_linear` gives of x.

    rows: the height N of gate and of up, which are joined in one tensor.
    """
    return packed_swiglu_plain(x, data, scale, shift, levels, rows)


@packed_swiglu.register_fake
def _(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
) -> Tensor:
    return x.new_empty(*x.shape[:-1], rows[0])


def packed_swiglu_plain(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
) -> Tensor:
    """The op in torch."""
    both = packed_linear_plain(x, data, scale, shift, levels, rows)
    return swiglu_plain(*both.split(list(rows), -1))


@torch.library.custom_op('alpamayo_ros::packed_embedding', mutates_args=())
def packed_embedding(
    ids: Tensor, data: Tensor, scale: Tensor, shift: Tensor | None, levels: int, columns: int
) -> Tensor:
    """Rows (..., columns) of a packed matrix at ids (...) int64."""
    return packed_embedding_plain(ids, data, scale, shift, levels, columns)


def packed_embedding_plain(
    ids: Tensor, data: Tensor, scale: Tensor, shift: Tensor | None, levels: int, columns: int
) -> Tensor:
    """The op in torch."""
    one = ids.numel() == 1 and not ids.is_cuda
    rows = dense_rows(data, scale, shift, levels, columns, int(ids) if one else ids.flatten())
    return rows.view(*ids.shape, columns)


@packed_embedding.register_fake
def _(
    ids: Tensor, data: Tensor, scale: Tensor, shift: Tensor | None, levels: int, columns: int
) -> Tensor:
    return scale.new_empty(*ids.shape, columns)


def packed_linear_cuda(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
    bias: Tensor | None = None,
) -> Tensor:
    """The fastest path for the number of rows of x."""
    if _is_unpacked(x, levels, rows):
        return _unpacked_product(x, data, scale, shift, levels, rows, bias, unpack.dense_triton)
    y = sum_terms(packed_terms_cuda(x, data, scale, shift, levels, rows), x.dtype)
    return y if bias is None else y.add_(bias)


def packed_terms_cuda(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
) -> Tensor:
    """The terms as the kernel leaves them."""
    if _is_unpacked(x, levels, rows):
        return packed_linear_cuda(x, data, scale, shift, levels, rows).unsqueeze(0)
    flat = x.reshape(-1, x.shape[-1])
    terms = packed_matmul.path(len(flat))(flat, data, scale, shift, levels, rows)
    return terms.view(-1, *x.shape[:-1], terms.shape[-1])


def _is_unpacked(x: Tensor, levels: int, rows: Sequence[int]) -> bool:
    """Whether the library multiplies: many rows of x, or what no kernel of ours takes."""
    whole = all(height % digits(levels) == 0 for height in rows)
    # float32 is there for comparisons: its tiles would not fit the shared memory
    many = x.numel() // x.shape[-1] > MAX_BLOCK_ROWS
    return many or not whole or x.dtype == torch.float32


def packed_swiglu_cuda(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    levels: int,
    rows: Sequence[int],
) -> Tensor:
    """The op without both products of many rows in memory at once: piece by piece."""
    if not _is_unpacked(x, levels, rows):
        both = packed_linear_cuda(x, data, scale, shift, levels, rows)
        return swiglu_triton(*both.split(list(rows), -1))
    flat = x.reshape(-1, x.shape[-1])
    height, columns = rows[0], x.shape[-1]
    out = x.new_empty(len(flat), height)
    stored = list(parts(data, scale, shift, levels, rows))
    chunk = _even(height, max(1, SCRATCH_BYTES // (2 * columns * x.element_size())))
    for start in range(0, height, chunk):
        size = min(chunk, height - start)
        weight = unpack.scratch(scale, 2 * size, columns)
        for half, (own_data, own_scale, own_shift) in zip(weight.split(size), stored, strict=True):
            unpack.fill(half, own_data, own_scale, own_shift, levels, start)
        gate, up = torch.mm(flat, weight.to(x.dtype).t()).split(size, -1)
        swiglu_triton(gate, up, out[:, start : start + size])
    return out.view(*x.shape[:-1], height)


def packed_embedding_cuda(
    ids: Tensor, data: Tensor, scale: Tensor, shift: Tensor | None, levels: int, columns: int
) -> Tensor:
    """The op as one kernel."""
    rows = unpack.rows_triton(data, scale, shift, levels, columns, ids.flatten())
    return rows.view(*ids.shape, columns)


if packed_matmul is not None:
    packed_linear.register_kernel('cuda')(packed_linear_cuda)
    packed_terms.register_kernel('cuda')(packed_terms_cuda)
    packed_swiglu.register_kernel('cuda')(packed_swiglu_cuda)
    packed_embedding.register_kernel('cuda')(packed_embedding_cuda)
