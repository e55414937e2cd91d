"""Counts what the attention kernel takes on a GPU, for the tests that compile it."""

from __future__ import annotations

from typing import NamedTuple

import triton

from alpamayo_ros.kernels.attention.split_kernels import split_kernel
from alpamayo_ros.kernels.attention.tile import AttentionTile, choose_tile
from alpamayo_ros.kernels.compiled import KernelCounts, compile_kernel
from alpamayo_ros.kernels.gpu import Gpu


class AttentionCounts(NamedTuple):
    """The tile that a GPU takes for attention, and what its kernel takes.

    million_instructions: of all warps of the whole kernel, rounds of its loop counted.
    """

    tile: AttentionTile
    kernel: KernelCounts
    million_instructions: float


def count_attention(
    rows: int,
    kv_heads: int,
    keys: int,
    has_mask: bool,
    gpu: Gpu,
    dim: int = 128,
    kv_bits: int = 16,
) -> AttentionCounts:
    """Compile attention in bfloat16 as `attention.attend_split` launches it.

    rows: query rows of a kv head. Without a mask, the number of visible keys is on the device.
    """
    tile = choose_tile(rows, kv_heads, keys, gpu)
    strides = [f'{x}_{kind}' for x in 'kv' for kind in ('batch', 'head', 'key')]
    strides += ['q_batch', 'q_head', 'q_token', 'mask_batch', 'mask_row']
    types = dict.fromkeys(['q_ptr', 'k_ptr', 'v_ptr', 'out_ptr'], '*bf16') | {'scale': 'fp32'}
    types |= dict.fromkeys(['partial_ptr', 'peak_ptr', 'total_ptr'], '*fp32')
    types |= {'mask_ptr': '*u8', 'count_ptr': '*i64'}
    absent = ['count_ptr' if has_mask else 'mask_ptr']
    if kv_bits == 8:
        types |= {'k_ptr': '*i8', 'v_ptr': '*i8', 'k_scale_ptr': '*bf16', 'v_scale_ptr': '*bf16'}
    else:
        absent += ['k_scale_ptr', 'v_scale_ptr']
    absent += ['partial_ptr', 'peak_ptr', 'total_ptr'] if tile.splits == 1 else []
    constants = dict.fromkeys(absent) | {
        'EXACT': False,
        'MAY_END_INSIDE': not has_mask,
        'SPLITS': tile.splits,
        'ROWS': tile.rows,
        'KEYS': tile.keys,
        'DIM': dim,
    }
    counts = compile_kernel(split_kernel, types, constants, gpu, tile.warps, tuple(strides))
    rounds = keys // tile.splits // tile.keys
    each = counts.instructions + counts.loop_instructions * (rounds - 1)
    warps = tile.warps * triton.cdiv(rows, tile.rows) * kv_heads * tile.splits
    return AttentionCounts(tile, counts, round(each * warps / 1e6, 3))
