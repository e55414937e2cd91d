"""The model's steps over one cache with inputs at fixed addresses, as CUDA graphs need them.

The recorded steps are the model's own methods. Decode and flow steps read their offsets from the
device, so one recording serves every prompt. Prompt chunks are recorded once for each length.
Knows no sampling and no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import torch
from torch import Tensor

from ...model.action_expert import place_waypoints
from ...model.alpamayo import PREFILL_CHUNK, AlpamayoModel
from ...model.flow_matching import VelocityField
from ...model.kv_cache import KVCache, Window, build_prompt_window
from ...model.prefill import Prompt
from ...model.reasoning.generation import Reasoning
from ...model.text import compute_rotary
from .decode import DecodeOffsets, Record, StaticDecode
from .known_rows import KnownRows

MAX_CHUNKS = 8  # prompt chunks (offset and length) whose recordings are kept: a rig has one


class StaticSteps:
    """The model's steps over one cache, with inputs at fixed addresses, as CUDA graphs need them.

    record: turns a step into a recording. By default the steps run unrecorded on any device;
    tests compare them with the plain steps on a CPU. is_guided: see Prompt. The prompts of several
    scenes may differ in length. draft_tokens: the longest draft of `verify_step`, 0 for none.
    known: rows of an embedding on the host, made where it is on another device than the cache.
    """

    def __init__(
        self,
        model: AlpamayoModel,
        cache: KVCache,
        samples: int,
        record: Record = lambda step: step,
        is_guided: bool = False,
        draft_tokens: int = 0,
        known: KnownRows | None = None,
    ) -> None:
        self.model, self.cache, self.samples = model, cache, samples
        device = cache.keys.device
        scenes = cache.keys.shape[1]
        self.is_guided = is_guided
        rows, points = scenes * samples, model.waypoints
        width = model.config.text.hidden_size

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        self.rope_delta, self.prompt, self.used = zeros(scenes), zeros(), zeros()
        # of the prompts; a single one needs none
        self.lengths = zeros(scenes) if scenes > 1 else None
        # of the reasoning, which both halves of guided prompts share
        self.marker, self.length = zeros(scenes // (2 if is_guided else 1), samples), zeros()
        self.x = torch.zeros(rows, points, 2, device=device)
        self.t = torch.zeros(rows, 1, 1, device=device)
        self.positions = zeros(3, scenes, samples * points)
        slots = zeros(samples * points)
        # all visible: a row that sees nothing would become NaN in the warm-up of a recording
        if rows == 1:
            self.visible = torch.full((), cache.capacity, device=device)
            self.window = Window(slots, cache.capacity, count=self.visible)
        else:
            self.visible = torch.ones(
                scenes, 1, samples * points, cache.capacity, dtype=torch.bool, device=device
            )
            self.window = Window(slots, cache.capacity, self.visible)
        length = min(PREFILL_CHUNK, cache.capacity)
        # embeddings of one prompt chunk: scenes lie behind each other, whatever their length
        self.chunk = torch.zeros(scenes * length, width, dtype=cache.dtype, device=device)
        self.chunk_positions = zeros(3, scenes, length)
        self._record = record
        self._run_chunk: dict[tuple[int, int], list[Callable[[], Tensor]]] = {}
        offsets = DecodeOffsets(self.rope_delta, self.prompt, self.used, self.lengths)
        embed = model.vlm.model.language_model.embed_tokens
        if known is None and embed.weight.device != device:
            known = KnownRows(embed, device, cache.dtype)
        self.known = known
        parts = model, cache, samples, offsets
        self._decode = StaticDecode(*parts, 1, record, known)
        self._verify = None
        if draft_tokens:
            self._verify = StaticDecode(*parts, 1 + draft_tokens, record, known)
        self._run_places = record(self._write_places)
        self._run_velocity = record(self._compute_velocity)

    def allocate_chunk(self, cache: KVCache, length: int) -> Tensor:
        """As AlpamayoModel.allocate_chunk: a part of the place that the recordings read."""
        scenes = cache.keys.shape[1]
        x = self.chunk[: scenes * length].view(scenes, length, -1)
        positions = self.chunk_positions[:, :, :length]
        key = cache.length, length
        if key not in self._run_chunk:
            if len(self._run_chunk) == MAX_CHUNKS:
                self._run_chunk.clear()
            self._run_chunk[key] = self._record_parts(x, positions)  # overwrites x
        return x

    def run_chunk(
        self, x: Tensor, positions: Tensor, deepstack: Iterable[Tensor], cache: KVCache
    ) -> Tensor:
        """As AlpamayoModel.run_chunk over this cache; the next call overwrites the result."""
        self.chunk_positions[:, :, : x.shape[1]] = positions
        *early, rest = self._run_chunk[cache.length, x.shape[1]]
        for run, added in zip(early, deepstack, strict=True):
            run()
            x += added  # in between, so that no graph has to keep room for it
        return rest()

    def decode_step(self, prompt: Prompt, tokens: Tensor) -> Tensor:
        """As AlpamayoModel.decode_step; the next call overwrites the result."""
        self._place_prompt(prompt)
        logits = self._decode.run(tokens)
        prompt.cache.length += tokens.shape[1]
        return logits

    def verify_step(self, prompt: Prompt, tokens: Tensor) -> Tensor:
        """As AlpamayoModel.verify_step; the next call overwrites the result."""
        assert self._verify is not None, 'made for no drafts'
        self._place_prompt(prompt)
        samples, count = tokens.shape[1:]
        logits = self._verify.run(tokens.transpose(1, 2).flatten(1))
        prompt.cache.length += samples * count
        return logits.unflatten(1, (-1, samples)).transpose(1, 2)[:, :, :count]

    def make_velocity_field(self, prompt: Prompt, reasoning: Reasoning) -> VelocityField:
        """As AlpamayoModel.make_velocity_field; the next call overwrites the result."""
        self._place_prompt(prompt)
        self.marker.copy_(reasoning.marker)
        self.length.fill_(reasoning.length)
        self._run_places()

        def field(x: Tensor, t: Tensor) -> Tensor:
            self.x.copy_(x)
            self.t.copy_(t)
            return self._run_velocity()

        return field

    def _place_prompt(self, prompt: Prompt) -> None:
        self.rope_delta.copy_(prompt.rope_delta)
        self.prompt.fill_(prompt.length)
        self.used.fill_(prompt.cache.length)
        if self.lengths is not None and prompt.lengths is None:
            self.lengths.fill_(prompt.length)
        elif self.lengths is not None and prompt.lengths is not None:
            self.lengths.copy_(prompt.lengths)

    def _record_parts(self, x: Tensor, positions: Tensor) -> list[Callable[[], Tensor]]:
        """Record a prompt chunk: each layer that deepstack features follow, then the others."""
        language = self.model.vlm.model.language_model
        early = len(self.model.config.vision.deepstack_visual_indexes)

        def part(start: int, stop: int, last_only: bool = False) -> Tensor:
            # created inside the recording: a graph does not keep tensors from before it
            window = build_prompt_window(x.shape[1], self.cache.length, x.device)
            turns = compute_rotary(positions, language.config, x.dtype)
            return language.run_layers(x, turns, self.cache, window, start, stop, last_only)

        def rest() -> Tensor:
            return part(early, len(language.layers), last_only=True)[:, -1]

        return [*(self._record(partial(part, i, i + 1)) for i in range(early)), self._record(rest)]

    def _write_places(self) -> Tensor:
        """Write the waypoints' slots, mask and positions to where all flow steps read them."""
        window, positions = place_waypoints(
            self.model.waypoints,
            self.rope_delta,
            self.marker,
            self.prompt,
            self.used,
            self.length,
            self.cache.capacity,
            self.lengths,
        )
        self.window.slots.copy_(window.slots)
        # the expert has a mask, or a number of visible slots in its place
        visible = window.count if window.mask is None else window.mask
        self.visible.copy_(cast(Tensor, visible))
        return self.positions.copy_(positions)

    def _compute_velocity(self) -> Tensor:
        return self.model.predict_velocity(self.x, self.t, self.cache, self.window, self.positions)
