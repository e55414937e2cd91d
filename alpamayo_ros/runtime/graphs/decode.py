"""A decode step of one or several tokens with inputs at fixed addresses, as two CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...model.alpamayo import AlpamayoModel
from ...model.kv_cache import KVCache, Window
from ...model.text import RotaryTables
from ...model.transfers import read_later
from .known_rows import KnownRows

# A decode step is two graphs: that of the first layers runs while the other one is launched.
START_LAYERS = 4

Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


class DecodeOffsets(NamedTuple):
    """Where the next tokens go, on the device: see AlpamayoModel.prepare_decode."""

    rope_delta: Tensor
    prompt: Tensor
    used: Tensor
    lengths: Tensor | None


class StaticDecode:
    """A decode step of `count` tokens of each of K samples over one cache.

    It reads the offsets when it runs. record: turns a step into a recording. known: rows of an
    embedding that is on the host.
    """

    def __init__(
        self,
        model: AlpamayoModel,
        cache: KVCache,
        samples: int,
        offsets: DecodeOffsets,
        count: int,
        record: Record,
        known: KnownRows | None = None,
    ) -> None:
        self._model, self._cache, self._samples = model, cache, samples
        self._offsets, self._count = offsets, count
        self._known = known
        shape = cache.keys.shape[1], count * samples
        self._tokens = torch.zeros(shape, dtype=torch.int64, device=cache.keys.device)
        self._layers = model.config.text.num_hidden_layers
        self._start = min(START_LAYERS, self._layers - 1)
        self._hidden: Tensor
        self._places: tuple[RotaryTables, Window]
        self._run_start = record(self._decode_start)
        self._run_start()  # the warm-up of the remaining layers reads its result
        self._run_rest = record(self._decode_rest)

    def run(self, tokens: Tensor) -> Tensor:
        """Logits (S, count * K, vocab) behind tokens (S, L * K), L at most `count`, step by step.

        What stands behind tokens of fewer steps means nothing.
        """
        self._tokens[:, : tokens.shape[1]].copy_(tokens)
        if self._known is None:
            self._run_start()
            return self._run_rest()
        read = read_later(tokens)
        self._run_start()  # meanwhile the host looks whether their rows were there
        if self._known.learn(read().flatten().tolist()):
            self._run_start()
        return self._run_rest()

    def _decode_start(self) -> Tensor:
        """Run the first layers of a decode step; the others read its result at a fixed address."""
        embed = (
            self._known.read if self._known else self._model.vlm.model.language_model.embed_tokens
        )
        x = embed(self._tokens)
        rope_delta, prompt, used, lengths = self._offsets
        sizes = self._samples, self._cache.capacity
        self._places = self._model.prepare_decode(
            rope_delta, prompt, used, *sizes, lengths, self._count
        )
        self._hidden = self._model.decode_layers(x, self._places, self._cache, 0, self._start)
        return self._hidden

    def _decode_rest(self) -> Tensor:
        parts = self._hidden, self._places, self._cache
        return self._model.decode_layers(*parts, self._start, self._layers)
