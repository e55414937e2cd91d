"""Product of int8 rows with int8 weights in Triton: exact int32 sums, scales where they end.

The library's int8 product takes an old path on Hopper and knows no scales. Knows no packing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
import triton
import triton.language as tl

from ..gpu import Gpu, query_gpu
from ..hopper import is_hopper, library_options, wait_for_previous_kernel
from .in_registers import apply_gelu

GROUP = 8  # rows of tiles that are computed side by side: their operands stay in the cache


class Int8Tile(NamedTuple):
    """Rows, outputs and columns of a block, its warps and pipeline stages."""

    rows: int
    outputs: int
    columns: int
    warps: int
    stages: int


def choose_int8_tile(gpu: Gpu) -> Int8Tile:
    """The fastest of a sweep on an H200; before Hopper, operands lie in registers as well."""
    return Int8Tile(128, 128, 128, 4 if is_hopper(gpu) else 8, 3)


def multiply_int8(
    values: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    out: Tensor,
    bias: Tensor | None = None,
    curve: str = '',
    tile: Int8Tile | None = None,
) -> None:
    """Write the product of values (M, K) int8 with the transpose of weight (N, K) int8 to out.

    K is a multiple of the tile's columns. scale (M) and weight_scale (N): float32. out (M, N) may
    be columns of a wider matrix. Where weight_scale is (2, N / 2), weight holds N / 2 rows of a
    gate, then those of what it gates: out (M, N / 2) is silu(gate) * up, both rounded to its dtype
    first. curve: 'tanh' or 'erf' for a GELU of what is not gated, rounded first. tile: for tests
    and sweeps.
    """
    rows, columns = values.shape
    is_gated, outputs = weight_scale.dim() == 2, weight_scale.shape[-1]
    tile = tile or choose_int8_tile(query_gpu(values.device))
    across = triton.cdiv(outputs, tile.outputs // 2 if is_gated else tile.outputs)
    grid = (triton.cdiv(rows, tile.rows) * across,)
    int8_product_kernel[grid](
        values,
        scale,
        weight,
        weight_scale,
        bias,
        out,
        rows,
        outputs,
        columns,
        out.stride(0),
        weight_scale.stride(0),
        GATED=is_gated,
        CURVE=curve,
        EXACT=out.dtype == torch.float32,
        ROWS=tile.rows,
        OUTPUTS=tile.outputs,
        COLUMNS=tile.columns,
        STAGES=tile.stages,
        GROUP=GROUP,
        num_warps=tile.warps,
        **library_options(values.device),
    )


@triton.jit
def int8_product_kernel(
    x_ptr,
    scale_ptr,
    weight_ptr,
    weight_scale_ptr,
    bias_ptr,
    out_ptr,
    rows,
    outputs,
    columns,
    out_row,
    up_scale,
    GATED: tl.constexpr,
    CURVE: tl.constexpr,
    EXACT: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    GROUP: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One block of outputs; where GATED, half of its columns are gates, half what these gate."""
    width: tl.constexpr = OUTPUTS // 2 if GATED else OUTPUTS
    across = tl.cdiv(outputs, width)
    program = tl.program_id(0)
    first = program // (GROUP * across) * GROUP
    height = tl.minimum(tl.cdiv(rows, ROWS) - first, GROUP)
    within = program % (GROUP * across)
    row = (first + within % height) * ROWS + tl.arange(0, ROWS)
    output = within // height * width + tl.arange(0, width)
    k = tl.arange(0, COLUMNS)
    # rows that do not exist are read as the first ones, and not written
    own = output % outputs
    weight_row = own
    if GATED:
        place = tl.arange(0, OUTPUTS)
        weight_row = (
            within // height * width + place % width
        ) % outputs + place // width * outputs
    x_ptr += (row % rows)[:, None].to(tl.int64) * columns + k[None, :]
    weight_ptr += weight_row[None, :].to(tl.int64) * columns + k[:, None]
    total = tl.zeros((ROWS, OUTPUTS), tl.int32)
    wait_for_previous_kernel(OVERLAP)
    for _ in tl.range(0, columns, COLUMNS, num_stages=STAGES):
        total = tl.dot(tl.load(x_ptr), tl.load(weight_ptr), total, out_dtype=tl.int32)
        x_ptr += COLUMNS
        weight_ptr += COLUMNS
    dtype = out_ptr.dtype.element_ty
    scale = tl.load(scale_ptr + row % rows)[:, None]
    if GATED:
        gates, others = tl.reshape(total, (ROWS, 2, width)).trans(0, 2, 1).split()
        gate = gates.to(tl.float32) * scale * tl.load(weight_scale_ptr + own)[None, :]
        gate = gate.to(dtype).to(tl.float32)
        up = others.to(tl.float32) * scale * tl.load(weight_scale_ptr + up_scale + own)[None, :]
        below = 1 + tl.exp(-gate)
        silu = (gate * tl.rsqrt(below * below)).to(dtype)  # fewer instructions than a division
        result = silu.to(tl.float32) * up.to(dtype).to(tl.float32)
    else:
        result = total.to(tl.float32) * scale * tl.load(weight_scale_ptr + own)[None, :]
        if bias_ptr is not None:
            result += tl.load(bias_ptr + own)[None, :].to(tl.float32)
        if CURVE != '':
            result = apply_gelu(result.to(dtype).to(tl.float32), CURVE, EXACT)
    at = row[:, None].to(tl.int64) * out_row + output[None, :]
    tl.store(out_ptr + at, result.to(dtype), (row < rows)[:, None] & (output < outputs)[None, :])
