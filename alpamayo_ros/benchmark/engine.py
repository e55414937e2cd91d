"""Times and memory of a model, stage by stage, and of its linear layers alone.

The scene is that of the release: 16 JPEG frames of 1920x1080, which become images of 320x576,
and a prompt of 3,032 tokens; then 32 tokens and 10 flow steps. A profile has fewer of them. Knows
no command line.
"""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data_types import SamplingOptions
from ..errors import BadInput
from ..model.alpamayo import AlpamayoModel
from ..model.flow_matching import VelocityField, guide_field
from ..model.prefill import Prompt
from ..model.prompt.tokens import TokenIds
from ..model.reasoning import Reasoning, feed_marker, generate_reasoning
from ..model.text import apply_joint
from ..runtime.graphs import GraphRecorder, RecordedVision, StaticSteps
from ..runtime.memory import release_cached
from .full_size import FullSizeInputs, device_bytes
from .pictures import make_reader, read_patches

try:
    from triton.errors import TritonError
except ImportError:  # then nothing of it is compiled
    TritonError = RuntimeError

ROUTE_TOKENS = 12  # of a text such as 'Turn left in 30m' with its two marks
GUIDANCE_WEIGHT = 1.5
WARM_UP, RUNS = 3, 10
LONGEST_ERROR = 300  # characters

Figures = dict[str, Any]
Features = tuple[Tensor, list[Tensor]]


@torch.no_grad()  # not inference_mode, under which optimum-quanto's tensors cannot be used
def measure(
    model: AlpamayoModel,
    scene: FullSizeInputs,
    samples: int,
    graphs: bool,
    runs: int = RUNS,
    is_guided: bool = False,
) -> Figures:
    """Milliseconds per stage (median of runs), end to end, and GB of memory.

    graphs: the stages behind the images are recorded, as in the engine. is_guided: with and
    without a route text. images: the frames to patches on the device. end_to_end: patches to
    trajectory, which is vision, prefill, the scene's tokens (without reasoning one, the marker)
    and its flow steps; sum_of_stages: the same from the stages, as a check of both.
    frames_to_trajectory: images and end_to_end in one go. weights_gb: on the device, without a
    mapped embedding. largest_gb: the largest piece that the allocator took from a GPU. The last
    two and peak_gb are None on a CPU.
    """
    device = model.action_space.accel_mean.device
    release_cached()
    weights_gb = device_bytes(model, device) / 1e9
    _reset_peak(device)
    run = _Inference(model, scene, samples, graphs, is_guided)
    stages = {
        'images': run.images,
        'vision': run.vision,
        'prefill': run.prefill,
        'token': run.token,
        'flow_step': run.flow_step,
        'end_to_end': run.whole,
        'frames_to_trajectory': run.whole_from_frames,
    }
    times = {name: median_ms(stage, device, runs) for name, stage in stages.items()}
    steps = run.tokens_in_all * times['token'] + scene.flow_steps * times['flow_step']
    return {
        'samples': samples,
        'runs': runs,
        'frames': len(scene.frames),
        'tokens': scene.tokens,
        'flow_steps': scene.flow_steps,
        **times,
        'sum_of_stages': round(times['vision'] + times['prefill'] + steps, 3),
        'weights_gb': round(weights_gb, 3),
        **_gpu_memory(device),
    }


def time_one_image(model: AlpamayoModel, scene: FullSizeInputs, runs: int = RUNS) -> float:
    """Milliseconds that one thread needs for one frame."""
    device = model.action_space.accel_mean.device
    reader = make_reader(model.config, device)
    return median_ms(lambda: read_patches(reader, scene.frames[:1]), device, runs)


@torch.no_grad()
def linear_layers(model: AlpamayoModel, graphs: bool) -> Figures:
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
                apply_joint(hidden, attention.q_proj, attention.k_proj, attention.v_proj)
                attention.o_proj(heads)
                apply_joint(hidden, mlp.gate_proj, mlp.up_proj)
                out: Tensor = mlp.down_proj(inner)
            return out if rows > 1 else head(hidden)

        found[name] = median_ms(GraphRecorder().record(run) if graphs else run, device, 20)
    return found


class _Inference:
    """The stages over one cache, each callable again and again."""

    def __init__(
        self,
        model: AlpamayoModel,
        scene: FullSizeInputs,
        samples: int,
        graphs: bool,
        is_guided: bool,
    ) -> None:
        self.model, self.scene, self.is_guided = model, scene, is_guided
        device, copies = model.action_space.accel_mean.device, 2 if is_guided else 1
        self.length = scene.input_ids.shape[1]
        self.tokens_in_all = max(scene.tokens, 1)  # a prompt without reasoning has its marker
        self.cache = model.allocate_cache(copies, self.length, samples, self.tokens_in_all)
        self.tokens = torch.full((copies, samples), 3, device=device)
        self.reader = make_reader(model.config, device)
        self.options = SamplingOptions(num_samples=samples, max_tokens=self.tokens_in_all)
        start = model.config.traj_token_start_idx
        # no marker and no eos among the ids: every run says all of its tokens
        marker = -1 if scene.tokens else 3
        stop = start + model.config.traj_vocab_size
        self.ids = TokenIds(0, 0, marker, -1, 0, start, stop, 0)
        self.noise = torch.randn(samples, model.waypoints, 2, device=device)
        self.generator = torch.Generator(device).manual_seed(2)
        recorder = GraphRecorder() if graphs else None
        self.encode = RecordedVision(model.encode_images, recorder) if recorder else None
        self.features: Features | None = None
        self.vision()
        self.steps: AlpamayoModel | StaticSteps = model
        if recorder:
            self.steps = StaticSteps(model, self.cache, samples, recorder.record, is_guided)
        self.prompt = self.prefill()
        self.velocity = self.field()

    def images(self) -> Tensor:
        """Patches of all frames, on the device; nothing is recorded."""
        return read_patches(self.reader, self.scene.frames)

    def vision(self) -> None:
        """All images; recorded ones one grid time after the other, as the engine encodes them."""
        scene, self.features = self.scene, None  # frees the memory of the last ones
        if self.encode is None:
            patches = scene.patches.to(self.noise.device)
            self.features = self.model.encode_images(patches, scene.grids)
            return
        slots = len(scene.grids) // scene.cameras
        joined: list[Tensor] = []
        for at, patches in enumerate(scene.patches.chunk(slots)):
            there = patches.to(self.noise.device, non_blocking=True)
            embeddings, levels = self.encode(there, scene.grids[: scene.cameras])
            found = [embeddings, *levels]
            joined = joined or [x.new_empty(slots, *x.shape) for x in found]
            for whole, part in zip(joined, found, strict=True):
                whole[at] = part
        self.features = joined[0].flatten(0, 1), [x.flatten(0, 1) for x in joined[1:]]

    def prefill(self) -> Prompt:
        """The prompt; with guidance again without the tokens of a route, on the same features."""
        self.cache.length = 0
        scene, features, lengths = self.scene, self.features, None
        assert features is not None
        ids = scene.input_ids.repeat(len(self.tokens), 1)
        if self.is_guided:
            lengths = torch.tensor([self.length, self.length - ROUTE_TOKENS])
        return self.model.prefill(
            ids, features, scene.grids, self.cache,
            steps=self.steps, lengths=lengths, is_guided=self.is_guided,
        )  # fmt: skip

    def token(self) -> Tensor:
        """One token behind the prompt and half of the reasoning."""
        samples = self.options.num_samples
        self.cache.length = self.length + samples * (self.tokens_in_all // 2)
        return self.steps.decode_step(self.prompt, self.tokens)

    def flow_step(self) -> Tensor:
        """One of them; what is the same for all is made before."""
        time = torch.zeros(len(self.noise), 1, 1, device=self.noise.device)
        return self.velocity(self.noise, time)

    def field(self) -> VelocityField:
        samples, tokens = self.options.num_samples, self.tokens_in_all
        self.cache.length = self.length + samples * tokens
        marker = torch.full((1, samples), tokens - 1, device=self.noise.device)
        words = torch.zeros(1, samples, tokens, device=self.noise.device)
        no = torch.zeros_like(marker, dtype=torch.bool)
        return self._make_field(Reasoning(words, marker, no, no, self.length + tokens))

    def whole_from_frames(self) -> Tensor:
        self.images()
        return self.whole()

    def whole(self) -> Tensor:
        self.vision()
        prompt = self.prompt = self.prefill()
        step, options = self.steps.decode_step, self.options
        if self.scene.tokens:
            reasoning = generate_reasoning(step, prompt, self.ids, options, self.generator)
        else:
            reasoning = feed_marker(step, prompt, self.ids, options.num_samples)
        field = self._make_field(reasoning)
        return self.model.flow.sample(self.noise, field, self.scene.flow_steps)

    def _make_field(self, reasoning: Reasoning) -> VelocityField:
        field = self.steps.make_velocity_field(self.prompt, reasoning)
        return guide_field(field, GUIDANCE_WEIGHT) if self.is_guided else field


def attempt(work: Callable[[], Any]) -> tuple[Any, str]:
    """What some work returns, and '' or its error in one line: of torch, quanto, Triton, ours."""
    try:
        return work(), ''
    except (BadInput, RuntimeError, TypeError, TritonError) as error:
        return None, ' '.join(f'{type(error).__name__}: {error}'.split())[:LONGEST_ERROR]


def median_ms(run: Callable[[], Any], device: torch.device, runs: int) -> float:
    """Median of so many runs, each waited for, after three more (fewer where runs are few)."""
    times = []
    warm_up = min(WARM_UP, runs // 2)
    for _ in range(warm_up + runs):
        _synchronize(device)
        start = time.perf_counter()
        run()
        _synchronize(device)
        times.append((time.perf_counter() - start) * 1e3)
    return round(float(np.median(times[warm_up:])), 3)


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)


def _gpu_memory(device: torch.device) -> dict[str, float | None]:
    if device.type != 'cuda':
        return {'peak_gb': None, 'largest_gb': None}
    own = (s for s in torch.cuda.memory_snapshot() if s['device'] == device.index)
    return {
        'peak_gb': round(torch.cuda.max_memory_allocated(device) / 1e9, 3),
        'largest_gb': round(max(segment['total_size'] for segment in own) / 1e9, 3),
    }
