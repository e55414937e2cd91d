"""Norms, and the residual sums before them: one kernel each, with plain twins.

torch takes up to six kernels for a sum and a norm, each over the whole tensor. Knows no model.
"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl

    from .hopper import launch_options, wait_for_previous_kernel
except ImportError:  # CPU builds of torch come without Triton: the plain path serves
    triton = None


def rms_norm_plain(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm of the last dimension of x (..., n), times weight (n).

    Statistics in float32, cast back to the dtype of x, then the product.
    """
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


rms_norm = torch.library.custom_op('alpamayo_ros::rms_norm', mutates_args=())(rms_norm_plain)


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x)


def add_rms_norm_plain(x: Tensor, terms: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Add terms (S, ..., n) to x (..., n) in place and return the `rms_norm` of the sum.

    Several terms are added up in float32, rounded to the dtype of x, and then added to x.
    """
    add_terms(x, terms)
    return rms_norm_plain(x, weight, eps)


add_rms_norm = torch.library.custom_op('alpamayo_ros::add_rms_norm', mutates_args=('x',))(
    add_rms_norm_plain
)


@add_rms_norm.register_fake
def _(x: Tensor, terms: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape)


def add_terms(x: Tensor, terms: Tensor) -> Tensor:
    """Add terms to x in place, as `add_rms_norm` does."""
    return x.add_(terms[0] if len(terms) == 1 else terms.sum(0).to(x.dtype))


def add_layer_norm_plain(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Sum of x and y (..., n) in their dtype, and its layer norm with weight and bias (n).

    Statistics in float32. The op has no gradient.
    """
    x = x + y
    return x, F.layer_norm(x, weight.shape, weight, bias, eps)


add_layer_norm = torch.library.custom_op('alpamayo_ros::add_layer_norm', mutates_args=())(
    add_layer_norm_plain
)


@add_layer_norm.register_fake
def _(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def rms_norm_triton(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The op in Triton: one block a row."""
    return _launch_rms_norm(x.contiguous(), None, weight, eps)


def add_rms_norm_triton(x: Tensor, terms: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The op in Triton: one block a row."""
    return _launch_rms_norm(x, terms.contiguous(), weight, eps)


def _launch_rms_norm(x: Tensor, terms: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Add terms to x, if there are any, and return the norm of x."""
    size = x.shape[-1]
    rows, out = x.view(-1, size), x.new_empty(x.shape)  # a view, as the sum goes where x is
    block = triton.next_power_of_2(size)
    _rms_norm_kernel[(len(rows),)](
        rows,
        terms,
        weight,
        out,
        size,
        rows.stride(0),
        x.numel(),
        eps,
        SPLITS=0 if terms is None else len(terms),
        BLOCK=block,
        num_warps=8 if block >= 2048 else 4,
        **launch_options(x.device, len(rows) == 1),
    )
    return out


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
        **launch_options(x.device),
    )
    return total, out


if triton is not None:

    @triton.jit
    def _rms_norm_kernel(
        x_ptr,
        terms_ptr,
        weight_ptr,
        out_ptr,
        size,
        x_row,
        count,
        eps,
        SPLITS: tl.constexpr,
        BLOCK: tl.constexpr,
        OVERLAP: tl.constexpr,
    ):
        wait_for_previous_kernel(OVERLAP)
        row = tl.program_id(0).to(tl.int64)
        at = tl.arange(0, BLOCK)
        inside = at < size
        x = tl.load(x_ptr + row * x_row + at, inside, other=0.0)
        if SPLITS > 0:
            terms_ptr += row * size + at
            summed = tl.load(terms_ptr, inside, other=0.0)
            for split in tl.static_range(1, SPLITS):
                summed += tl.load(terms_ptr + split * count, inside, other=0.0)
            x += summed.to(x.dtype)
            tl.store(x_ptr + row * x_row + at, x, inside)
        wide = x.to(tl.float32)
        wide = wide * tl.rsqrt(tl.sum(wide * wide, 0) / size + eps)
        weight = tl.load(weight_ptr + at, inside, other=0.0)
        tl.store(out_ptr + row * size + at, wide.to(x.dtype) * weight, inside)

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
        wait_for_previous_kernel(OVERLAP)
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

    rms_norm.register_kernel('cuda')(rms_norm_triton)
    add_rms_norm.register_kernel('cuda')(add_rms_norm_triton)
    add_layer_norm.register_kernel('cuda')(add_layer_norm_triton)
