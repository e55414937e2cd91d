"""Grouped-query attention of few queries over a long cache: one op, plain or in Triton.

A decode step has 4 query rows per kv head and some 3,000 keys, a flow step of six samples 768
rows. torch walks the masked keys of a head in a few blocks and leaves most of a GPU idle. The
kernel here splits the keys among blocks; a second kernel merges their partial softmaxes. Knows no
model.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl

    from .hopper import launch_options, wait_for_previous_kernel
except ImportError:  # CPU builds of torch come without Triton: the plain path serves
    triton = None

MIN_KEYS_PER_SPLIT = 128
MAX_SPLIT_ROWS = 1024  # query rows of a kv head; with more, torch keeps the device busy
BLOCKS_WANTED = 256  # about two per multiprocessor of a large GPU


def attend_plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of q (B, heads, L, d) to k and v (B, kv heads, S, d); same shape as q.

    Query heads h * group ... share kv head h. mask: bool (L, S) or (B, 1, L, S), True where
    visible, None for everything; each row must see something. The scale is 1 / sqrt(d).

    On a GPU the query heads of one kv head become extra query rows, so that torch's kernels
    repeat no keys. On a CPU masks would have to be repeated for that, and nothing would be gained.
    """
    if not q.is_cuda:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return out.contiguous()
    batch, heads, length, dim = q.shape
    group = heads // k.shape[1]
    rows = q.reshape(batch, k.shape[1], group * length, dim)
    if mask is not None and group > 1:
        mask = mask.repeat((1,) * (mask.dim() - 2) + (group, 1))
    out = F.scaled_dot_product_attention(rows, k, v, attn_mask=mask)
    return out.reshape(batch, heads, length, dim).contiguous()


attend = torch.library.custom_op('alpamayo_ros::attend', mutates_args=())(attend_plain)


@attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def attend_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of q (B, heads, L, d), the last L of S tokens: each sees those before and itself.

    k and v (B, kv heads, S, d). For prompts, where torch's causal kernels are the fast path.
    """
    length, keys = q.shape[2], k.shape[2]
    if length == keys:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    if q.is_cuda:
        bias = causal_lower_right(length, keys)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)
    token = torch.arange(keys, device=q.device)
    return attend_plain(q, k, v, token <= token[keys - length :].unsqueeze(-1))


def attend_cuda(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The faster of the two on a GPU."""
    rows = q.shape[1] // k.shape[1] * q.shape[2]
    return (attend_split if rows <= MAX_SPLIT_ROWS else attend_plain)(q, k, v, mask)


def attend_split(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The op in Triton: keys split among blocks, then merged."""
    batch, heads, length, dim = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    rows = heads // kv_heads * length
    q = q if q.stride(3) == 1 else q.contiguous()
    block, step = (16, 64) if rows <= 16 else (64, 32)  # query rows and keys per inner step
    row_blocks = triton.cdiv(rows, block)
    wanted = triton.cdiv(BLOCKS_WANTED, batch * kv_heads * row_blocks)
    splits = min(wanted, triton.cdiv(keys, MIN_KEYS_PER_SPLIT))
    splits = triton.next_power_of_2(splits)
    shape = (batch * kv_heads, rows, splits)
    partial = torch.empty(*shape, dim, dtype=torch.float32, device=q.device)
    peak = torch.empty(shape, dtype=torch.float32, device=q.device)
    total = torch.empty(shape, dtype=torch.float32, device=q.device)
    visible = q if mask is None else mask.view(torch.uint8)  # a pointer that is not read
    stride_b = mask.stride(0) if mask is not None and mask.dim() == 4 else 0
    _split_kernel[(row_blocks, batch * kv_heads, splits)](
        q,
        k,
        v,
        visible,
        partial,
        peak,
        total,
        rows,
        length,
        keys,
        kv_heads,
        q.stride(0),
        q.stride(1),
        q.stride(2),
        k.stride(0),
        k.stride(1),
        k.stride(2),
        v.stride(0),
        v.stride(1),
        v.stride(2),
        stride_b,
        0 if mask is None else mask.stride(-2),
        dim**-0.5,
        HAS_MASK=mask is not None,
        EXACT=q.dtype == torch.float32,
        SPLITS=splits,
        ROWS=block,
        KEYS=step,
        DIM=dim,
        num_warps=4,
        **launch_options(q.device, batch * length == 1),
    )
    # token by token in memory, as the product behind it reads it
    out = torch.empty(batch, length, heads, dim, dtype=q.dtype, device=q.device)
    _merge_kernel[(batch * kv_heads * rows,)](
        partial,
        peak,
        total,
        out,
        length,
        heads,
        SPLITS=splits,
        DIM=dim,
        num_warps=1,
        **launch_options(q.device, batch * length == 1),
    )
    return out.transpose(1, 2)


if triton is not None:

    @triton.jit
    def _split_kernel(
        q_ptr,
        k_ptr,
        v_ptr,
        mask_ptr,
        partial_ptr,
        peak_ptr,
        total_ptr,
        rows,
        length,
        keys,
        kv_heads,
        q_batch,
        q_head,
        q_token,
        k_batch,
        k_head,
        k_key,
        v_batch,
        v_head,
        v_key,
        mask_batch,
        mask_row,
        scale,
        HAS_MASK: tl.constexpr,
        EXACT: tl.constexpr,
        SPLITS: tl.constexpr,
        ROWS: tl.constexpr,
        KEYS: tl.constexpr,
        DIM: tl.constexpr,
        OVERLAP: tl.constexpr,
    ):
        """Online softmax of ROWS queries of one kv head over one of SPLITS parts of the keys."""
        wait_for_previous_kernel(OVERLAP)
        head = tl.program_id(1)
        split = tl.program_id(2)
        batch = head // kv_heads
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        at = tl.arange(0, DIM)
        in_rows = row < rows
        first_head = head % kv_heads * (rows // length)  # of the query heads that share it
        place = (first_head + row // length) * q_head + row % length * q_token
        place += batch.to(tl.int64) * q_batch
        q = tl.load(q_ptr + place[:, None] + at[None, :], in_rows[:, None], other=0.0)
        k_ptr += batch.to(tl.int64) * k_batch + (head % kv_heads) * k_head
        v_ptr += batch.to(tl.int64) * v_batch + (head % kv_heads) * v_head
        mask_ptr += batch.to(tl.int64) * mask_batch
        part = tl.cdiv(tl.cdiv(keys, SPLITS), KEYS) * KEYS
        start = split * part
        end = tl.minimum(start + part, keys)
        peak = tl.full([ROWS], -1e30, tl.float32)  # finite: a part may see nothing
        total = tl.zeros([ROWS], tl.float32)
        result = tl.zeros([ROWS, DIM], tl.float32)
        for first in range(start, end, KEYS):
            key = first + tl.arange(0, KEYS)
            in_keys = key < end
            k = tl.load(k_ptr + key[:, None] * k_key + at[None, :], in_keys[:, None], other=0.0)
            if EXACT:
                score = tl.dot(q, tl.trans(k), input_precision='ieee') * scale
            else:
                score = tl.dot(q, tl.trans(k)) * scale
            seen = in_rows[:, None] & in_keys[None, :]
            if HAS_MASK:
                where = mask_ptr + (row % length)[:, None] * mask_row + key[None, :]
                seen = seen & (tl.load(where, seen, other=0) != 0)
            score = tl.where(seen, score, -1e30)
            higher = tl.maximum(peak, tl.max(score, 1))
            weight = tl.where(seen, tl.exp(score - higher[:, None]), 0.0)
            shrink = tl.exp(peak - higher)
            v = tl.load(v_ptr + key[:, None] * v_key + at[None, :], in_keys[:, None], other=0.0)
            if EXACT:
                added = tl.dot(weight, v, input_precision='ieee')
            else:
                added = tl.dot(weight.to(v.dtype), v)
            result = result * shrink[:, None] + added
            total = total * shrink + tl.sum(weight, 1)
            peak = higher
        slot = (head * rows + row) * SPLITS + split
        tl.store(partial_ptr + slot[:, None] * DIM + at[None, :], result, in_rows[:, None])
        tl.store(peak_ptr + slot, peak, in_rows)
        tl.store(total_ptr + slot, total, in_rows)

    @triton.jit
    def _merge_kernel(
        partial_ptr,
        peak_ptr,
        total_ptr,
        out_ptr,
        length,
        heads,
        SPLITS: tl.constexpr,
        DIM: tl.constexpr,
        OVERLAP: tl.constexpr,
    ):
        """One row: partial results weighted by their share of the softmax."""
        wait_for_previous_kernel(OVERLAP)
        row = tl.program_id(0)
        split = tl.arange(0, SPLITS)
        at = tl.arange(0, DIM)
        peak = tl.load(peak_ptr + row * SPLITS + split)
        share = tl.exp(peak - tl.max(peak, 0))
        total = tl.sum(share * tl.load(total_ptr + row * SPLITS + split), 0)
        where = partial_ptr + (row * SPLITS + split[:, None]) * DIM + at[None, :]
        result = tl.sum(tl.load(where) * share[:, None], 0) / total
        # rows are (scene, head, token), the result is (scene, token, head)
        head, token = row // length % heads, row % length
        place = (row // (length * heads) * length + token) * heads + head
        tl.store(out_ptr + place * DIM + at, result.to(out_ptr.dtype.element_ty))

    attend.register_kernel('cuda')(attend_cuda)
