"""Embeddings over a packed or a mapped table, which may be on another device than the ids."""

from __future__ import annotations

from torch import Tensor, nn

from ..kernels.packed_ops import packed_embedding, packed_embedding_plain
from .packed_weight import PackedWeight
from .scheme import Rule


class QuantEmbedding(nn.Module):
    """nn.Embedding over a packed weight, which may be on another device than the ids."""

    def __init__(self, like: nn.Embedding, rule: Rule) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = like.num_embeddings, like.embedding_dim
        rows = rule.pad(like.num_embeddings)
        self.weight = PackedWeight(rows, like.embedding_dim, rule.scheme, like.weight.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (...) to (..., embedding_dim) on the device of the ids."""
        stored = self.weight.stored
        near = ids.to(stored.data.device)
        if stored.data.is_cuda:
            rows = packed_embedding(near, *stored, self.embedding_dim)
        else:  # dispatching the op would take longer than reading a token
            rows = packed_embedding_plain(near, stored, self.embedding_dim)
        return rows.to(ids.device)


class HostEmbedding(nn.Embedding):
    """nn.Embedding whose table is on another device than the ids: mapped from its file."""

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (...) to (..., embedding_dim) on the device of the ids."""
        return super().forward(ids.to(self.weight.device)).to(ids.device)
