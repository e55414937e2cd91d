"""Times and memory of a model, stage by stage, and of its linear layers alone.

The scene is that of the release: 16 images of 320x576 and a prompt of 3,032 tokens; then 32
tokens and 10 flow steps. Knows no command line.
"""

from __future__ import annotations

from collections.abc import Callable
import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data_types import SamplingOptions
from ..model.alpamayo import AlpamayoR1, Prompt, Reasoning
from ..model.text import KVCache, products
from ..model.tokens import TokenIds
from ..runtime.graphs import RecordedVision, StaticSteps, record, recorded
from .full_size import PROMPT_TOKENS, Scene

REASONING_TOKENS = 32
FLOW_STEPS = 10
WARM_UP, RUNS = 2, 5

Figures = dict[str, Any]


@torch.no_grad()  # not inference_mode, under which optimum-quanto's tensors cannot be used
def measure(
    model: AlpamayoR1, scene: Scene, samples: int, graphs: bool, runs: int = RUNS
) -> Figures:
    """Milliseconds per stage (median after two warm-ups), end to end, and GB of memory.

    graphs: decode step, flow step and vision are recorded, as in the engine. end_to_end: vision,
    prefill, 32 tokens and 10 flow steps. weights_gb is what is allocated without cache and scene.
    """
    device = scene.input_ids.device
    cache = model.new_cache(1, PROMPT_TOKENS, samples, REASONING_TOKENS)
    weights_gb = allocated_gb(device) - _bytes(cache) / 1e9 - _bytes(scene) / 1e9
    _reset_peak(device)
    run = _Inference(model, scene, cache, samples, graphs)
    stages = {
        'vision': run.vision,
        'prefill': run.prefill,
        'token': run.token,
        'flow_step': run.flow_step,
        'end_to_end': run.whole,
    }
    times = {name: median_ms(stage, device, runs) for name, stage in stages.items()}
    peak = {'weights_gb': round(weights_gb, 3), 'peak_gb': _peak_gb(device)}
    return {'samples': samples, **times, **peak}


@torch.no_grad()
def linear_layers(model: AlpamayoR1, graphs: bool) -> Figures:
    """Milliseconds of all linear layers behind each other, without anything between them.

    token_linears: of the language model for one row, with the output head. flow_linears: of the
    expert for the rows of one flow step.
    """
    language: Any = model.vlm.model.language_model
    expert: Any = model.expert
    head = model.vlm.lm_head
    device = model.action_space.accel_mean.device
    dtype = next(x.dtype for x in model.vlm.model.visual.parameters())
    found = {}
    for name, layers, rows in (
        ('token_linears', language.layers, 1),
        ('flow_linears', expert.layers, model.waypoints),
    ):
        first = layers[0]
        widths = [
            layer.in_features
            for layer in (first.self_attn.q_proj, first.self_attn.o_proj, first.mlp.down_proj)
        ]
        inputs = [torch.randn(1, rows, n, device=device, dtype=dtype) for n in widths]

        def run(layers: Any = layers, inputs: list[Tensor] = inputs, rows: int = rows) -> Tensor:
            hidden, heads, inner = inputs
            for layer in layers:
                attention, mlp = layer.self_attn, layer.mlp
                products(hidden, attention.q_proj, attention.k_proj, attention.v_proj)
                attention.o_proj(heads)
                products(hidden, mlp.gate_proj, mlp.up_proj)
                out: Tensor = mlp.down_proj(inner)
            return out if rows > 1 else head(hidden)

        found[name] = median_ms(recorded(run) if graphs else run, device, 20)
    return found


class _Inference:
    """The stages over one cache, each callable again and again."""

    def __init__(
        self, model: AlpamayoR1, scene: Scene, cache: KVCache, samples: int, graphs: bool
    ) -> None:
        self.model, self.scene, self.cache = model, scene, cache
        device = scene.input_ids.device
        self.tokens = torch.full((1, samples), 3, device=device)
        self.options = SamplingOptions(num_samples=samples, max_tokens=REASONING_TOKENS)
        start = model.config.traj_token_start_idx
        # no marker and no eos among the ids: every run says all of its tokens
        self.ids = TokenIds(0, 0, -1, -1, 0, start, start + model.config.traj_vocab_size, 0)
        self.noise = torch.randn(samples, model.waypoints, 2, device=device)
        self.generator = torch.Generator(device).manual_seed(2)
        self.recorded_vision = RecordedVision(model.encode_images) if graphs else None
        self.features = self.vision()
        self.steps: AlpamayoR1 | StaticSteps = model
        self.prompt = self.prefill()
        if graphs:
            self.steps = record(StaticSteps(model, cache, samples))
            self.prompt = self.prefill()

    def vision(self) -> tuple[Tensor, list[Tensor]]:
        scene = self.scene
        if self.recorded_vision is None:
            return self.model.encode_images(scene.patches, scene.grids)
        images = scene.patches.chunk(len(scene.grids))
        found = [
            self.recorded_vision(image, [grid])
            for image, grid in zip(images, scene.grids, strict=True)
        ]
        levels = zip(*(levels for _, levels in found), strict=True)
        return torch.cat([x for x, _ in found]), [torch.cat(level) for level in levels]

    def prefill(self) -> Prompt:
        self.cache.length = 0
        scene = self.scene
        return self.model.prefill(scene.input_ids, self.features, scene.grids, self.cache)

    def token(self) -> Tensor:
        """One token behind the prompt and half of the reasoning."""
        samples = self.options.num_samples
        self.cache.length = PROMPT_TOKENS + samples * (REASONING_TOKENS // 2)
        return self.steps.decode_step(self.prompt, self.tokens)

    def flow_step(self) -> Tensor:
        field = self.field()
        return field(self.noise, torch.zeros(len(self.noise), 1, 1, device=self.noise.device))

    def field(self) -> Callable[[Tensor, Tensor], Tensor]:
        samples = self.options.num_samples
        self.cache.length = PROMPT_TOKENS + samples * REASONING_TOKENS
        marker = torch.full((1, samples), REASONING_TOKENS - 1, device=self.noise.device)
        tokens = torch.zeros(1, samples, REASONING_TOKENS, device=self.noise.device)
        length = PROMPT_TOKENS + REASONING_TOKENS
        reasoning = Reasoning(tokens, marker, [['marker'] * samples], length)
        return self.steps.velocity_field(self.prompt, reasoning)

    def whole(self) -> Tensor:
        self.features = self.vision()
        self.prompt = self.prefill()
        reasoning = self.model.reason(
            self.prompt, self.ids, self.options, self.generator, self.steps.decode_step
        )
        field = self.steps.velocity_field(self.prompt, reasoning)
        return self.model.act(self.noise, field, FLOW_STEPS)


def median_ms(run: Callable[[], Any], device: torch.device, runs: int) -> float:
    """Median of so many runs after two more, each waited for."""
    times = []
    for _ in range(WARM_UP + runs):
        _synchronize(device)
        start = time.perf_counter()
        run()
        _synchronize(device)
        times.append((time.perf_counter() - start) * 1e3)
    return round(float(np.median(times[WARM_UP:])), 3)


def allocated_gb(device: torch.device) -> float:
    """What torch has allocated on a GPU now."""
    return torch.cuda.memory_allocated(device) / 1e9 if device.type == 'cuda' else math.nan


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _bytes(holder: Any) -> int:
    return sum(t.nbytes for t in vars(holder).values() if isinstance(t, Tensor))


def _reset_peak(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)


def _peak_gb(device: torch.device) -> float:
    return (
        round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
        if device.type == 'cuda'
        else math.nan
    )
