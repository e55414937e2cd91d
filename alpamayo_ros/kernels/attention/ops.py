"""Grouped-query attention over a cache of keys and values, 16 or 8 bits each: ops, plain or fast.

Keys and values of int8 come with a scale for each token and head. Knows no model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
import torch.nn.functional as F

try:
    from .split import attend_split
except ImportError:  # CPU builds of torch come without Triton: the plain path serves
    attend_split = None  # type: ignore[assignment]

MAX_SPLIT_ROWS = 1024  # query rows of a kv head; with more, torch keeps the device busy


def attend_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    count: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> Tensor:
    """Attention of q (B, heads, L, d) to k and v (B, kv heads, S, d); same shape as q.

    Query heads h * group ... share kv head h. mask: bool (L, S) or (B, 1, L, S), True where
    visible, None for everything; each row must see something. count: int64 (), on the device, in
    place of a mask: every query sees the first `count` keys. The scale is 1 / sqrt(d). k_scale and
    v_scale (B, kv heads, S), in the dtype of q: factors of int8 k and v; None where these have the
    dtype of q.

    On a GPU the query heads of one kv head become extra query rows, so that torch's kernels
    repeat no keys. On a CPU masks would have to be repeated for that, and nothing would be gained.
    """
    k, v = apply_scale(k, k_scale), apply_scale(v, v_scale)
    if count is not None:
        mask = (torch.arange(k.shape[2], device=q.device) < count).expand(q.shape[2], -1)
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
def _(q: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def apply_scale(x: Tensor, scale: Tensor | None) -> Tensor:
    """Numbers x (..., d) of int8 x and its scale (...), in the dtype of scale; x without one."""
    return x if scale is None else x * scale.unsqueeze(-1)


def attend_causal(
    q: Tensor, k: Tensor, v: Tensor, k_scale: Tensor | None = None, v_scale: Tensor | None = None
) -> Tensor:
    """Attention of q (B, heads, L, d), the last L of S tokens: each sees those before and itself.

    k and v (B, kv heads, S, d) and their scales as in `attend_plain`. For prompts, where torch's
    causal kernels are the fast path.
    """
    k, v = apply_scale(k, k_scale), apply_scale(v, v_scale)
    length, keys = q.shape[2], k.shape[2]
    if length == keys:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    if q.is_cuda:
        from torch.nn.attention.bias import causal_lower_right  # loads the compiler: seconds

        bias = causal_lower_right(length, keys)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)
    token = torch.arange(keys, device=q.device)
    return attend_plain(q, k, v, token <= token[keys - length :].unsqueeze(-1))


def attend_cuda(q: Tensor, k: Tensor, v: Tensor, *others: Any) -> Tensor:
    """The faster of the two paths on a GPU."""
    rows = q.shape[1] // k.shape[1] * q.shape[2]
    path = attend_split if rows <= MAX_SPLIT_ROWS else attend_plain
    return path(q, k, v, *others)


if attend_split is not None:
    attend.register_kernel('cuda')(attend_cuda)
