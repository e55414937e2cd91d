"""Decode step, flow step and vision as CUDA graphs: recorded once, replayed per token and image.

Launching some 1,500 kernels per token from Python takes longer than running them. The recorded
steps are the model's own methods with offsets on the device, so one recording serves every
prompt. Knows no sampling and no files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar, cast

import torch
from torch import Tensor

from ..model.alpamayo import AlpamayoR1, Prompt, Reasoning
from ..model.flow_matching import VelocityField
from ..model.text import KVCache, Window

WARM_UP_RUNS = 2  # kernels are compiled and workspaces allocated before a recording
SIZES = 2  # sets of them recorded at a time: a rig has one

Grid = tuple[int, int]
Features = tuple[Tensor, list[Tensor]]
Result = TypeVar('Result')


class StaticSteps:
    """The two steps over a whole cache with offsets in tensors: what the graphs record.

    Runs on any device; tests compare it with the plain steps on a CPU.
    """

    def __init__(self, model: AlpamayoR1, cache: KVCache, samples: int) -> None:
        self.model, self.cache, self.samples = model, cache, samples
        device = cache.keys.device
        scenes = cache.keys.shape[1]
        rows, points = scenes * samples, model.waypoints
        width = model.config.text.hidden_size

        def whole(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        self.embedded = torch.zeros(scenes, samples, width, dtype=cache.keys.dtype, device=device)
        self.rope_delta, self.prompt, self.used = whole(scenes), whole(), whole()
        self.x = torch.zeros(rows, points, 2, device=device)
        self.t = torch.zeros(rows, 1, 1, device=device)
        self.positions = whole(3, scenes, samples * points)
        slots = whole(samples * points)
        # all visible: a row that sees nothing would be NaN in the warm-up of a recording
        self.mask = torch.ones(
            scenes, 1, samples * points, cache.capacity, dtype=torch.bool, device=device
        )
        self.window = Window(slots, cache.capacity, self.mask)
        self.run_decode: Callable[[], Tensor] = self._decode
        self.run_velocity: Callable[[], Tensor] = self._velocity

    def decode_step(self, prompt: Prompt, tokens: Tensor) -> Tensor:
        """As AlpamayoR1.decode_step; the result is overwritten by the next call."""
        self.embedded.copy_(self.model.vlm.model.language_model.embed_tokens(tokens))
        self.rope_delta.copy_(prompt.rope_delta)
        self.prompt.fill_(prompt.length)
        self.used.fill_(prompt.cache.length)
        logits = self.run_decode()
        prompt.cache.length += tokens.shape[1]
        return logits

    def velocity_field(self, prompt: Prompt, reasoning: Reasoning) -> VelocityField:
        """As AlpamayoR1.velocity_field; the result is overwritten by the next call."""
        window, positions = self.model.expert_inputs(prompt, reasoning, self.cache.capacity)
        self.window.slots.copy_(window.slots)
        self.mask.copy_(cast(Tensor, window.mask))  # the expert always has one
        self.positions.copy_(positions)

        def field(x: Tensor, t: Tensor) -> Tensor:
            self.x.copy_(x)
            self.t.copy_(t)
            return self.run_velocity()

        return field

    def _decode(self) -> Tensor:
        return self.model.decode(
            self.embedded,
            self.rope_delta,
            self.prompt,
            self.used,
            self.cache,
            self.cache.capacity,
        )

    def _velocity(self) -> Tensor:
        return self.model.velocity(self.x, self.t, self.cache, self.window, self.positions)


def record(steps: StaticSteps) -> StaticSteps:
    """Replace both steps by recorded CUDA graphs of themselves."""
    steps.run_decode = recorded(steps.run_decode)
    steps.run_velocity = recorded(steps.run_velocity)
    return steps


class RecordedVision:
    """AlpamayoR1.encode_images for a few images, recorded for every set of sizes that comes.

    The result is overwritten by the next call.
    """

    def __init__(self, encode: Callable[[Tensor, Sequence[Grid]], Features]) -> None:
        self._encode = encode
        self._recorded: dict[tuple[Grid, ...], tuple[Tensor, Callable[[], Features]]] = {}

    def __call__(self, patches: Tensor, grids: Sequence[Grid]) -> Features:
        """Embeddings and deepstack levels (tokens, H) of patches (sum of h * w, 1536)."""
        key = tuple(grids)
        if key not in self._recorded:
            if len(self._recorded) == SIZES:
                self.clear()
            own = patches.clone()
            self._recorded[key] = own, recorded(lambda: self._encode(own, key))
        own, replay = self._recorded[key]
        own.copy_(patches)
        return replay()

    def clear(self) -> None:
        """Forget the recordings and free their memory."""
        self._recorded.clear()


@cache
def _stream() -> torch.cuda.Stream:
    """One for all recordings: cuBLAS keeps a workspace of 32 MB for every stream."""
    return torch.cuda.Stream()


def recorded(run: Callable[[], Result]) -> Callable[[], Result]:
    """A function as a CUDA graph: what replays it, with the same result tensors every time."""
    stream = _stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_RUNS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        result = run()

    def replay() -> Result:
        graph.replay()
        return result

    return replay
