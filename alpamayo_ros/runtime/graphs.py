"""CUDA graphs of vision, prefill, decode step and flow step: recorded once, then replayed.

Python takes longer to launch the 1,500 kernels of a token than the GPU takes to run them. The
recorded steps are the model's own methods. Decode and flow steps read their offsets from the
device, so one recording serves every prompt. Prompt chunks are recorded once for each length.
This module knows no sampling and no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..model.action_expert import place_waypoints
from ..model.alpamayo import PREFILL_CHUNK, AlpamayoModel
from ..model.flow_matching import VelocityField
from ..model.prefill import Prompt
from ..model.reasoning import Reasoning
from ..model.text import KVCache, RotaryTables, Window, build_prompt_window, compute_rotary

WARM_UP_RUNS = 2  # before a recording: they compile kernels and allocate workspaces
MAX_SIZES = 2  # sets of image sizes whose recordings are kept: a rig has one
# A decode step is two graphs: that of the first layers runs while the other one is launched.
START_LAYERS = 4
MAX_CHUNKS = 8  # prompt chunks (offset and length) whose recordings are kept: a rig has one

Grid = tuple[int, int]
Features = tuple[Tensor, list[Tensor]]
Result = TypeVar('Result')
Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


class StaticSteps:
    """The model's steps over one cache, with inputs at fixed addresses, as CUDA graphs need them.

    record: turns a step into a recording. By default the steps run unrecorded on any device;
    tests compare them with the plain steps on a CPU. is_guided: see Prompt. The prompts of several
    scenes may differ in length.
    """

    def __init__(
        self,
        model: AlpamayoModel,
        cache: KVCache,
        samples: int,
        record: Record = lambda step: step,
        is_guided: bool = False,
    ) -> None:
        self.model, self.cache, self.samples = model, cache, samples
        device = cache.keys.device
        scenes = cache.keys.shape[1]
        self.is_guided = is_guided
        rows, points = scenes * samples, model.waypoints
        width = model.config.text.hidden_size

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        self.tokens = zeros(scenes, samples)
        self._embed = model.vlm.model.language_model.embed_tokens
        # an embedding on the host is read outside of the graph
        self._embeds_inside = self._embed.weight.device == device
        pinned = device.type == 'cuda'  # host pages that the device can copy from by itself
        self._host_tokens = torch.zeros(scenes, samples, dtype=torch.int64, pin_memory=pinned)
        self.embedded = torch.zeros(scenes, samples, width, dtype=cache.dtype, pin_memory=pinned)
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
        self._layers = model.config.text.num_hidden_layers
        self._start = min(START_LAYERS, self._layers - 1)
        self._hidden: Tensor
        self._decode_places: tuple[RotaryTables, Window]
        self._run_start = record(self._decode_start)
        self._run_start()  # the warm-up of the remaining layers reads its result
        self._run_rest = record(self._decode_rest)
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
        if self._embeds_inside:
            self.tokens.copy_(tokens)
        else:  # after the other copies, because the host waits for the tokens
            self._host_tokens.copy_(tokens, non_blocking=True)
            if tokens.is_cuda:
                torch.cuda.current_stream().synchronize()
            self.embedded.copy_(self._embed(self._host_tokens))
        self._run_start()
        logits = self._run_rest()
        prompt.cache.length += tokens.shape[1]
        return logits

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

    def _decode_start(self) -> Tensor:
        """Run the first layers of a decode step; the others read its result at a fixed address."""
        if self._embeds_inside:
            x = self._embed(self.tokens)
        else:
            x = self.embedded.to(self.tokens.device, non_blocking=True, copy=True)
        self._decode_places = self.model.prepare_decode(
            self.rope_delta,
            self.prompt,
            self.used,
            self.samples,
            self.cache.capacity,
            self.lengths,
        )
        parts = x, self._decode_places, self.cache
        self._hidden = self.model.decode_layers(*parts, 0, self._start)
        return self._hidden

    def _decode_rest(self) -> Tensor:
        parts = self._hidden, self._decode_places, self.cache
        return self.model.decode_layers(*parts, self._start, self._layers)

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


class RecordedVision:
    """AlpamayoR1.encode_images as CUDA graphs, one recording for each set of image sizes.

    The next call overwrites the result.
    """

    def __init__(
        self, encode: Callable[[Tensor, Sequence[Grid]], Features], recorder: GraphRecorder
    ) -> None:
        self._encode, self._record = encode, recorder.record
        self._recorded: dict[tuple[Grid, ...], tuple[Tensor, Callable[[], Features]]] = {}

    def __call__(self, patches: Tensor, grids: Sequence[Grid]) -> Features:
        """Embeddings and deepstack levels (tokens, H) of patches (sum of h * w, 1536)."""
        key = tuple(grids)
        if key not in self._recorded:
            if len(self._recorded) == MAX_SIZES:
                self.clear()
            own = patches.clone()
            self._recorded[key] = own, self._record(lambda: self._encode(own, key))
        own, replay = self._recorded[key]
        own.copy_(patches)
        return replay()

    def clear(self) -> None:
        """Forget the recordings and free their memory."""
        self._recorded.clear()


class GraphRecorder:
    """Records CUDA graphs that share one memory pool, since they never run at the same time.

    A replay may overwrite the results of every other graph: use or copy a result at once.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        # keeps the pool alive when all other recordings are gone: an empty pool cannot be reused
        self._keeper = self._capture(lambda: torch.zeros(1, device='cuda'))[0]
        self._pool = self._keeper.pool()

    def record(self, run: Callable[[], Result]) -> Callable[[], Result]:
        """Record a function; return its replay, which gives the same result tensors every time."""
        stream = _stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph, result = self._capture(run)

        def replay() -> Result:
            graph.replay()
            return result

        return replay

    def _capture(self, run: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
        graph, stream = torch.cuda.CUDAGraph(), _stream(torch.cuda.current_device())
        with torch.cuda.graph(graph, pool=self._pool, stream=stream):
            result = run()
        return graph, result


@cache
def _stream(device: int) -> torch.cuda.Stream:
    """One stream of a GPU for all recordings: cuBLAS keeps 32 MB of workspace for each stream."""
    return torch.cuda.Stream(device)
