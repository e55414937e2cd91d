"""Vision, prefill, decode and flow step as CUDA graphs: recorded once, replayed ever after.

Launching some 1,500 kernels per token from Python takes longer than running them. The recorded
steps are the model's own methods. Those of token and flow have their offsets on the device, so
one recording serves every prompt; the prompt's chunks are recorded for every length that comes.
Knows no sampling and no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..model.alpamayo import PREFILL_CHUNK, AlpamayoR1, Prompt
from ..model.flow_matching import VelocityField
from ..model.reasoning import Reasoning
from ..model.text import KVCache, Turns, Window, prompt_window, rotary

WARM_UP_RUNS = 2  # kernels are compiled and workspaces allocated before a recording
SIZES = 2  # sets of image sizes recorded at a time: a rig has one
START_LAYERS = 4  # of a decode step: their graph runs while the larger one of the rest is launched
CHUNKS = 8  # places and lengths of prompt chunks recorded at a time: a rig has one

Grid = tuple[int, int]
Features = tuple[Tensor, list[Tensor]]
Result = TypeVar('Result')
Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


class StaticSteps:
    """The model's steps over one cache with inputs in fixed places: what the graphs record.

    record: makes a recording of a step. Without one they run as they are, on any device; tests
    compare that with the plain steps on a CPU.
    """

    def __init__(
        self,
        model: AlpamayoR1,
        cache: KVCache,
        samples: int,
        record: Record = lambda step: step,
    ) -> None:
        self.model, self.cache, self.samples = model, cache, samples
        device = cache.keys.device
        scenes = cache.keys.shape[1]
        rows, points = scenes * samples, model.waypoints
        width = model.config.text.hidden_size

        def whole(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        self.tokens = whole(scenes, samples)
        self._embed = model.vlm.model.language_model.embed_tokens
        self._embeds_inside = self._embed.weight.device == device  # else it is on the host
        pinned = device.type == 'cuda'  # on the host, in pages that the device reaches by itself
        self._said = torch.zeros(scenes, samples, dtype=torch.int64, pin_memory=pinned)
        self.embedded = torch.zeros(
            scenes, samples, width, dtype=cache.keys.dtype, pin_memory=pinned
        )
        self.rope_delta, self.prompt, self.used = whole(scenes), whole(), whole()
        self.marker, self.length = whole(scenes, samples), whole()  # of the reasoning
        self.x = torch.zeros(rows, points, 2, device=device)
        self.t = torch.zeros(rows, 1, 1, device=device)
        self.positions = whole(3, scenes, samples * points)
        slots = whole(samples * points)
        # all visible: a row that sees nothing would be NaN in the warm-up of a recording
        self.mask = torch.ones(
            scenes, 1, samples * points, cache.capacity, dtype=torch.bool, device=device
        )
        self.window = Window(slots, cache.capacity, self.mask)
        length = min(PREFILL_CHUNK, cache.capacity)
        # hidden states of one
        self.chunk = torch.zeros(scenes, length, width, dtype=cache.keys.dtype, device=device)
        self.chunk_positions = whole(3, scenes, length)
        self._record = record
        self._run_chunk: dict[tuple[int, int], list[Callable[[], Tensor]]] = {}
        self._layers = model.config.text.num_hidden_layers
        self._start = min(START_LAYERS, self._layers - 1)
        self._hidden: Tensor
        self._decode_places: tuple[Turns, Window]
        self._run_start = record(self._decode_start)
        self._run_start()  # what the rest reads is to be something: it is warmed up with it
        self._run_rest = record(self._decode_rest)
        self._run_places = record(self._places)
        self._run_velocity = record(self._velocity)

    def room(self, cache: KVCache, length: int) -> Tensor:
        """As AlpamayoR1.room: a part of the place that the recordings read."""
        x, positions = self.chunk[:, :length], self.chunk_positions[:, :, :length]
        key = cache.length, length
        if key not in self._run_chunk:
            if len(self._run_chunk) == CHUNKS:
                self._run_chunk.clear()
            self._run_chunk[key] = self._record_parts(x, positions)  # which overwrites x
        return x

    def read(
        self, x: Tensor, positions: Tensor, deepstack: Iterable[Tensor], cache: KVCache
    ) -> Tensor:
        """As AlpamayoR1.read over the own cache; the result is overwritten by the next call."""
        self.chunk_positions[:, :, : x.shape[1]] = positions
        *early, rest = self._run_chunk[cache.length, x.shape[1]]
        for run, added in zip(early, deepstack, strict=True):
            run()
            x += added  # in between, so that no graph has to keep room for it
        return rest()

    def decode_step(self, prompt: Prompt, tokens: Tensor) -> Tensor:
        """As AlpamayoR1.decode_step; the result is overwritten by the next call."""
        self.rope_delta.copy_(prompt.rope_delta)
        self.prompt.fill_(prompt.length)
        self.used.fill_(prompt.cache.length)
        if self._embeds_inside:
            self.tokens.copy_(tokens)
        else:  # last, as the host waits for the tokens
            self._said.copy_(tokens, non_blocking=True)
            if tokens.is_cuda:
                torch.cuda.current_stream().synchronize()
            self.embedded.copy_(self._embed(self._said))
        self._run_start()
        logits = self._run_rest()
        prompt.cache.length += tokens.shape[1]
        return logits

    def velocity_field(self, prompt: Prompt, reasoning: Reasoning) -> VelocityField:
        """As AlpamayoR1.velocity_field; the result is overwritten by the next call."""
        self.rope_delta.copy_(prompt.rope_delta)
        self.prompt.fill_(prompt.length)
        self.used.fill_(prompt.cache.length)
        self.marker.copy_(reasoning.marker)
        self.length.fill_(reasoning.length)
        self._run_places()

        def field(x: Tensor, t: Tensor) -> Tensor:
            self.x.copy_(x)
            self.t.copy_(t)
            return self._run_velocity()

        return field

    def _record_parts(self, x: Tensor, positions: Tensor) -> list[Callable[[], Tensor]]:
        """A chunk of the prompt: each layer before deepstack features are added, then the rest."""
        language = self.model.vlm.model.language_model
        early = len(self.model.config.vision.deepstack_visual_indexes)

        def part(start: int, stop: int, last_only: bool = False) -> Tensor:
            # made in here: a graph does not keep what was there before
            window = prompt_window(x.shape[1], self.cache.length, x.device)
            turns = rotary(positions, language.config, x.dtype)
            return language.part(x, turns, self.cache, window, start, stop, last_only)

        def rest() -> Tensor:
            return part(early, len(language.layers), last_only=True)[:, -1]

        return [*(self._record(partial(part, i, i + 1)) for i in range(early)), self._record(rest)]

    def _decode_start(self) -> Tensor:
        """The first layers of a decode step; what the others read stays where it is."""
        if self._embeds_inside:
            x = self._embed(self.tokens)
        else:
            x = self.embedded.to(self.tokens.device, non_blocking=True, copy=True)
        self._decode_places = self.model.decode_places(
            self.rope_delta, self.prompt, self.used, self.samples, self.cache.capacity
        )
        parts = x, self._decode_places, self.cache
        self._hidden = self.model.decode_part(*parts, 0, self._start)
        return self._hidden

    def _decode_rest(self) -> Tensor:
        parts = self._hidden, self._decode_places, self.cache
        return self.model.decode_part(*parts, self._start, self._layers)

    def _places(self) -> Tensor:
        """Put where the waypoints go, and what they see, where all flow steps read it."""
        window, positions = self.model.expert_places(
            self.rope_delta, self.marker, self.prompt, self.used, self.length, self.cache.capacity
        )
        self.window.slots.copy_(window.slots)
        self.mask.copy_(cast(Tensor, window.mask))  # the expert always has one
        return self.positions.copy_(positions)

    def _velocity(self) -> Tensor:
        return self.model.velocity(self.x, self.t, self.cache, self.window, self.positions)


class RecordedVision:
    """AlpamayoR1.encode_images for a few images, recorded for every set of sizes that comes.

    The result is overwritten by the next call.
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
            if len(self._recorded) == SIZES:
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
    """Makes CUDA graphs that share one pool of memory, since they never run at the same time.

    A replay may overwrite the results of all others: they are to be used or copied at once.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        # keeps the pool when all other recordings are gone: one without any cannot be used again
        self._keeper = self._capture(lambda: torch.zeros(1, device='cuda'))[0]
        self._pool = self._keeper.pool()

    def record(self, run: Callable[[], Result]) -> Callable[[], Result]:
        """A function as a CUDA graph: what replays it, with the same result tensors every time."""
        stream = _stream()
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
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=_stream()):
            result = run()
        return graph, result


@cache
def _stream() -> torch.cuda.Stream:
    """One for all recordings: cuBLAS keeps a workspace of 32 MB for every stream."""
    return torch.cuda.Stream()
