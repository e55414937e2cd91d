"""Sum and layer norm of the vision tower: one op, plain or in Triton. Knows no model."""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl

    from . import overlap
    from .overlap import begin
except ImportError:  # CPU builds of torch come without it: the plain path serves
    triton = None


@torch.library.custom_op('alpamayo_ros::add_layer_norm', mutates_args=())
def add_layer_norm(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Sum of x and y (..., n) in their dtype, and its layer norm with weight and bias (n).

    Statistics in float32. It has no gradient.
    """
    return add_layer_norm_plain(x, y, weight, bias, eps)


@add_layer_norm.register_fake
def _(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def add_layer_norm_plain(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The op in torch."""
    x = x + y
    return x, F.layer_norm(x, weight.shape, weight, bias, eps)


def add_layer_norm_triton(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The op in Triton: one block a row."""
    x, y, size = x.contiguous(), y.contiguous(), x.shape[-1]
    total, out = torch.empty_like(x), torch.empty_like(x)
    _add_layer_norm_kernel[(x.numel() // size,)](
        x,
        y,
        weight,
        bias,
        total,
        out,
        size,
        eps,
        BLOCK=triton.next_power_of_2(size),
        num_warps=4,
        **overlap.options(x.device),
    )
    return total, out


if triton is not None:

    @triton.jit
    def _add_layer_norm_kernel(
        x_ptr,
        y_ptr,
        weight_ptr,
        bias_ptr,
        total_ptr,
        out_ptr,
        size,
        eps,
        BLOCK: tl.constexpr,
        OVERLAP: tl.constexpr,
    ):
        begin(OVERLAP)
        row = tl.program_id(0).to(tl.int64) * size
        at = tl.arange(0, BLOCK)
        inside = at < size
        x = tl.load(x_ptr + row + at, inside, other=0.0)
        x += tl.load(y_ptr + row + at, inside, other=0.0)
        tl.store(total_ptr + row + at, x, inside)
        wide = x.to(tl.float32)
        wide = tl.where(inside, wide - tl.sum(wide, 0) / size, 0.0)
        wide *= tl.rsqrt(tl.sum(wide * wide, 0) / size + eps)
        wide *= tl.load(weight_ptr + at, inside, other=0.0).to(tl.float32)
        wide += tl.load(bias_ptr + at, inside, other=0.0).to(tl.float32)
        tl.store(out_ptr + row + at, wide.to(x.dtype), inside)

    add_layer_norm.register_kernel('cuda')(add_layer_norm_triton)
