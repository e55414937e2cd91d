"""Attention in Triton: the keys are split among blocks, then their partial softmaxes are merged.

A decode step has 4 query rows per kv head and some 3,000 keys, a flow step of six samples 768
rows. torch walks the masked keys of a head in a few blocks and leaves most of a GPU idle.
"""

from __future__ import annotations

import torch
from torch import Tensor
import triton

from ..gpu import gpu_of
from ..hopper import launch_options
from .split_kernels import merge_kernel, split_kernel
from .tile import AttentionTile, choose_tile


def attend_split(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    count: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    tile: AttentionTile | None = None,
) -> Tensor:
    """The op in Triton: keys split among blocks, then merged. tile: for tests and sweeps."""
    batch, heads, length, dim = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    rows = heads // kv_heads * length
    q = q if q.stride(3) == 1 else q.contiguous()
    tile = tile or choose_tile(rows, batch * kv_heads, keys, gpu_of(q.device))
    # token by token in memory, as the product behind it reads it
    out = torch.empty(batch, length, heads, dim, dtype=q.dtype, device=q.device)
    partial, peak, total = None, None, None
    if tile.splits > 1:
        shape = (batch * kv_heads, rows, tile.splits)
        partial = torch.empty(*shape, dim, dtype=torch.float32, device=q.device)
        peak = torch.empty(shape, dtype=torch.float32, device=q.device)
        total = torch.empty(shape, dtype=torch.float32, device=q.device)
    options = launch_options(q.device, batch * length == 1)
    split_kernel[(triton.cdiv(rows, tile.rows), batch * kv_heads, tile.splits)](
        q,
        k,
        v,
        None if mask is None else mask.view(torch.uint8),
        count,
        k_scale,
        v_scale,
        out,
        partial,
        peak,
        total,
        rows,
        length,
        keys,
        kv_heads,
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        *((0, 0) if k_scale is None else k_scale.stride()[:2]),
        mask.stride(0) if mask is not None and mask.dim() == 4 else 0,
        0 if mask is None else mask.stride(-2),
        dim**-0.5,
        EXACT=q.dtype == torch.float32,
        MAY_END_INSIDE=count is not None or keys % tile.keys != 0,
        SPLITS=tile.splits,
        ROWS=tile.rows,
        KEYS=tile.keys,
        DIM=dim,
        num_warps=tile.warps,
        **options,
    )
    if tile.splits > 1:
        merge_kernel[(batch * kv_heads * rows,)](
            partial,
            peak,
            total,
            out,
            length,
            heads,
            SPLITS=tile.splits,
            DIM=dim,
            num_warps=1,
            **options,
        )
    return out.transpose(1, 2)
