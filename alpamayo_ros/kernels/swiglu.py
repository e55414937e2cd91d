"""SwiGLU between two products of a decoder layer: one op, plain or in Triton. Knows no model."""

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

SWIGLU_BLOCK = 1024


def swiglu_plain(gate: Tensor, up: Tensor) -> Tensor:
    """Product of silu(gate) and up, same shape."""
    return F.silu(gate) * up


swiglu = torch.library.custom_op('alpamayo_ros::swiglu', mutates_args=())(swiglu_plain)


@swiglu.register_fake
def _(gate: Tensor, up: Tensor) -> Tensor:
    return torch.empty_like(gate)


def swiglu_triton(gate: Tensor, up: Tensor, out: Tensor | None = None) -> Tensor:
    """The op in Triton; out: columns of a matrix (rows, N) to write to."""
    out, size = gate.new_empty(gate.shape) if out is None else out, gate.shape[-1]
    gate, up, flat = flatten_rows(gate), flatten_rows(up), out.view(-1, size)
    _swiglu_kernel[(len(gate), triton.cdiv(size, SWIGLU_BLOCK))](
        gate,
        up,
        flat,
        size,
        gate.stride(0),
        up.stride(0),
        flat.stride(0),
        BLOCK=SWIGLU_BLOCK,
        **launch_options(out.device, len(gate) == 1),
    )
    return out


def flatten_rows(x: Tensor) -> Tensor:
    """(..., N) as (rows, N); parts of joined products stay where they are, a stride apart."""
    x = x.reshape(-1, x.shape[-1])
    return x if x.stride(1) == 1 else x.contiguous()


if triton is not None:

    @triton.jit
    def _swiglu_kernel(
        gate_ptr,
        up_ptr,
        out_ptr,
        size,
        gate_row,
        up_row,
        out_row,
        BLOCK: tl.constexpr,
        OVERLAP: tl.constexpr,
    ):
        wait_for_previous_kernel(OVERLAP)
        row = tl.program_id(0).to(tl.int64)
        at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        gate = tl.load(gate_ptr + row * gate_row + at, inside, other=0.0)
        up = tl.load(up_ptr + row * up_row + at, inside, other=0.0)
        wide = gate.to(tl.float32)
        silu = (wide / (1 + tl.exp(-wide))).to(gate.dtype)
        tl.store(out_ptr + row * out_row + at, silu * up, inside)

    swiglu.register_kernel('cuda')(swiglu_triton)
