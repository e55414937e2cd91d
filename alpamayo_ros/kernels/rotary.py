"""Rotation of the query and key heads of the vision tower: one op, plain or in Triton.

torch takes ten kernels a layer over float32 copies, which last as long as the tower's products.
The op has a gradient, because training runs the same tower. Knows no model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl

    from .hopper import launch_options, wait_for_previous_kernel
except ImportError:  # CPU builds of torch come without Triton: the plain path serves
    triton = None


def rotate_heads_plain(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads x (images, patches, heads, d) turned by cos and sin (patches, d) float32.

    x may be part of a wider tensor, the result is contiguous. Computed in float32, rounded once.
    """
    wide, cos, sin = x.to(torch.float32), cos.unsqueeze(1), sin.unsqueeze(1)
    first, second = wide.chunk(2, -1)
    return (wide * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


rotate_heads = torch.library.custom_op('alpamayo_ros::rotate_heads', mutates_args=())(
    rotate_heads_plain
)


@rotate_heads.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save_angles(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _rotate_back(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    cos, sin = ctx.saved_tensors
    return rotate_heads(gradient, cos, -sin), None, None  # halves of a frequency turn alike


rotate_heads.register_autograd(_rotate_back, setup_context=_save_angles)


def rotate_heads_triton(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The op in Triton: one block takes all heads of a patch."""
    images, patches, heads, dim = x.shape
    if x.stride(3) != 1 or x.stride(0) != patches * x.stride(1):
        x = x.contiguous()
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _rotate_heads_kernel[(images * patches,)](
        x,
        cos,
        sin,
        out,
        patches,
        heads,
        x.stride(1),
        X_HEAD=x.stride(2),
        DIM=dim,
        HEADS=triton.next_power_of_2(heads),
        COLUMNS=triton.next_power_of_2(dim // 2),
        **launch_options(x.device),
    )
    return out


if triton is not None:

    @triton.jit
    def _rotate_heads_kernel(
        x_ptr,
        cos_ptr,
        sin_ptr,
        out_ptr,
        patches,
        heads,
        x_patch,
        X_HEAD: tl.constexpr,
        DIM: tl.constexpr,
        HEADS: tl.constexpr,
        COLUMNS: tl.constexpr,
        OVERLAP: tl.constexpr,
    ):
        wait_for_previous_kernel(OVERLAP)
        # sizes are constants, or several numbers could not be read at once
        patch = tl.program_id(0).to(tl.int64)
        head, at = tl.arange(0, HEADS)[:, None], tl.arange(0, COLUMNS)[None, :]
        half: tl.constexpr = DIM // 2
        within = at < half
        inside = (head < heads) & within
        x_ptr += patch * x_patch + head * X_HEAD + at
        first = tl.load(x_ptr, inside, other=0.0)
        second = tl.load(x_ptr + half, inside, other=0.0)
        cos_ptr += patch % patches * DIM + at
        sin_ptr += patch % patches * DIM + at
        a, b = first.to(tl.float32), second.to(tl.float32)
        left = a * tl.load(cos_ptr, within, other=0.0) - b * tl.load(sin_ptr, within, other=0.0)
        right = b * tl.load(cos_ptr + half, within, other=0.0)
        right += a * tl.load(sin_ptr + half, within, other=0.0)
        out_ptr += (patch * heads + head) * DIM + at
        tl.store(out_ptr, left.to(first.dtype), inside)
        tl.store(out_ptr + half, right.to(first.dtype), inside)

    rotate_heads.register_kernel('cuda')(rotate_heads_triton)
