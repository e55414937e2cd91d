"""Measures times and memory of a model, stage by stage, and of its linear layers alone.

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

from ..errors import BadInput
from ..model.alpamayo import AlpamayoModel
from ..model.text import apply_joint
from ..runtime.graphs.recorder import GraphRecorder
from ..runtime.memory import release_cached
from .full_size import FullSizeInputs, device_bytes
from .pictures import make_reader, read_patches
from .stages import InferenceStages

try:
    from triton.errors import TritonError
except ImportError:  # then nothing of it is compiled
    TritonError = RuntimeError

WARM_UP, RUNS = 3, 10
LONGEST_ERROR = 300  # characters

Figures = dict[str, Any]


@torch.no_grad()  # not inference_mode, under which optimum-quanto's tensors cannot be used
def measure(
    model: AlpamayoModel,
    scene: FullSizeInputs,
    samples: int,
    graphs: bool,
    runs: int = RUNS,
    is_guided: bool = False,
    kv_bits: int = 16,
    drafts: float = 0.0,
) -> Figures:
    """Milliseconds per stage (median of runs), end to end, and GB of memory.

    graphs: the stages behind the images are recorded, as in the engine. is_guided: with and
    without a route text. kv_bits: of the cache. drafts: tokens of the reasoning that a pass
    accepts on average, 0 for one at a time; draft_pass: one such pass. new_token: a token whose
    embedding is read from the host, where the table is there; others were read before. images: the
    frames to patches on the device. end_to_end: patches to trajectory, which is vision, prefill,
    the scene's tokens (without reasoning one, the marker) and its flow steps; sum_of_stages: the
    same from the stages, as a check of both. frames_to_trajectory: images and end_to_end at once.
    weights_gb: on the device, without a mapped embedding. largest_gb: the largest piece that the
    allocator took from a GPU. The last two and peak_gb are None on a CPU.
    """
    device = model.action_space.accel_mean.device
    release_cached()
    weights_gb = device_bytes(model, device) / 1e9
    _reset_peak(device)
    run = InferenceStages(model, scene, samples, graphs, is_guided, kv_bits, drafts)
    stages = {
        'images': run.images,
        'vision': run.vision,
        'prefill': run.prefill,
        'token': run.token,
        **({'new_token': run.new_token} if run.reads_host else {}),
        **({'draft_pass': run.draft_pass} if drafts else {}),
        'flow_step': run.flow_step,
        'end_to_end': run.whole,
        'frames_to_trajectory': run.whole_from_frames,
    }
    times = {name: median_ms(stage, device, runs) for name, stage in stages.items()}
    words = run.tokens_in_all * times['token']
    if drafts:
        words = run.tokens_in_all / drafts * times['draft_pass']
    steps = words + scene.flow_steps * times['flow_step']
    return {
        'samples': samples,
        'runs': runs,
        'frames': len(scene.frames),
        'tokens': scene.tokens,
        **({'tokens_per_pass': drafts} if drafts else {}),
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


def attempt(work: Callable[[], Any]) -> tuple[Any, str]:
    """Result of some work, and '' or its error in one line: of torch, quanto, Triton, ours."""
    try:
        return work(), ''
    except (BadInput, RuntimeError, TypeError, TritonError) as error:
        return None, ' '.join(f'{type(error).__name__}: {error}'.split())[:LONGEST_ERROR]


def median_ms(run: Callable[[], Any], device: torch.device, runs: int) -> float:
    """Median of so many runs, after three that do not count (fewer where runs are few)."""
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
    segments = (s for s in torch.cuda.memory_snapshot() if s['device'] == device.index)
    return {
        'peak_gb': round(torch.cuda.max_memory_allocated(device) / 1e9, 3),
        'largest_gb': round(max(segment['total_size'] for segment in segments) / 1e9, 3),
    }
