"""Embeddings on the device of tokens that were read before, where the table stays on the host.

A reasoning says few words of a large vocabulary again and again. Without their rows on the device,
each of its tokens waits for the host. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...model.transfers import to_device

KNOWN_TOKENS = 1024  # 8 MB of a release; all texts of its drives have fewer


class KnownRows:
    """Rows of an embedding, at fixed addresses.

    embed: the embedding, on the host. count: of rows; when no more fit, all are forgotten.
    """

    def __init__(
        self, embed: Any, device: torch.device, dtype: torch.dtype, count: int = KNOWN_TOKENS
    ) -> None:
        self._embed = embed
        self._rows = torch.zeros(count, embed.embedding_dim, dtype=dtype, device=device)
        places = torch.zeros(embed.num_embeddings, dtype=torch.int16, device=device)
        self._places = places  # of tokens; those that are not known have any
        self._known: set[int] = set()

    def read(self, tokens: Tensor) -> Tensor:
        """Rows (..., width) of tokens (...) on the device; any for tokens that are not known."""
        return self._rows[self._places[tokens].to(torch.int64)]

    def learn(self, tokens: Sequence[int]) -> bool:
        """Copy the rows of tokens that are not known; whether there was one."""
        missing = [token for token in dict.fromkeys(tokens) if token not in self._known]
        if not missing:
            return False
        if len(self._known) + len(missing) > len(self._rows):
            self.forget()
            missing = list(dict.fromkeys(tokens))
        start = len(self._known)
        ids = torch.tensor(missing)
        places = torch.arange(start, start + len(missing), dtype=torch.int16)
        device = self._rows.device
        self._rows[start : start + len(missing)].copy_(to_device(self._embed(ids), device))
        self._places[to_device(ids, device)] = to_device(places, device)
        self._known.update(missing)
        return True

    def forget(self) -> None:
        """Know no token."""
        self._known.clear()
