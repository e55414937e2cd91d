"""Times and memory of a model with random weights, stage by stage. Knows no command line.

The scene is that of the release: 16 images of 320x576 and a prompt of 3,032 tokens. Weights are
drawn tensor by tensor on the device, so a full-size model never exists on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data_types import SamplingOptions
from ..model.alpamayo import AlpamayoR1, Prompt, Reasoning
from ..model.checkpoint import set_tensor
from ..model.config import AlpamayoConfig
from ..model.text import KVCache
from ..model.tokens import TokenIds
from ..runtime.graphs import StaticSteps, record
from ..runtime.load import build_on_meta

# Sizes of the release; what is absent has the defaults of the classes (specification, section 1).
RELEASE: dict[str, Any] = {
    'model_type': 'alpamayo_r1',
    'vlm_name_or_path': 'Qwen/Qwen3-VL-8B-Instruct',
    'vocab_size': 155697,
    'traj_token_start_idx': 151669,
    'traj_vocab_size': 4000,
    'traj_token_ids': {'history': 155684, 'future_start': 155681},
    'tokens_per_history_traj': 48,
    'tokens_per_future_traj': 128,
    'expert_cfg': {'hidden_size': 2048, 'intermediate_size': 8256, 'num_attention_heads': 16},
    'action_in_proj_cfg': {
        '_target_': 'alpamayo_r1.models.action_in_proj.PerWaypointActionInProjV2'
    },
    'action_out_proj_cfg': {'_target_': 'torch.nn.Linear'},
    'diffusion_cfg': {'_target_': 'alpamayo_r1.diffusion.flow_matching.FlowMatching'},
    'action_space_cfg': {'_target_': 'alpamayo_r1.action_space.UnicycleAccelCurvatureActionSpace'},
}
IMAGES = 16
GRID = (20, 36)  # 320x576 in patches of 16
PROMPT_TOKENS = 3032
REASONING_TOKENS = 32
FLOW_STEPS = 10
WEIGHT_STD = 0.02
WARM_UP, RUNS = 2, 5


@dataclass(frozen=True)
class Scene:
    """Inputs of the size that the release sees, random inside."""

    input_ids: Tensor
    patches: Tensor
    grids: list[tuple[int, int]]


def module_bytes(model: AlpamayoR1) -> dict[str, int]:
    """Bytes of the weights by part."""
    parts = {
        'vision': 'vlm.model.visual.',
        'language': 'vlm.model.language_model.layers.',
        'embedding': 'vlm.model.language_model.embed_tokens.',
        'head': 'vlm.lm_head.',
        'expert': 'expert.',
    }
    found = dict.fromkeys([*parts, 'other'], 0)
    for name, tensor in model.state_dict().items():
        part = next((p for p, prefix in parts.items() if name.startswith(prefix)), 'other')
        found[part] += tensor.nbytes
    return found


def random_model(config: AlpamayoConfig, device: str, dtype: torch.dtype) -> AlpamayoR1:
    """The model with normal weights of 0.02, norms of one and the config's buffers."""
    model = build_on_meta(config)
    generator = torch.Generator(device).manual_seed(0)
    for name, tensor in model.state_dict().items():
        owner: Any = model.get_submodule(name.rpartition('.')[0])
        leaf = name.rpartition('.')[2]
        if leaf in owner._buffers:
            value = owner.initial_buffers()[leaf].to(device, dtype)
        elif tensor.dim() == 1 and leaf == 'weight':
            value = torch.ones(tensor.shape, device=device, dtype=dtype)
        else:
            value = torch.empty(tensor.shape, device=device, dtype=dtype)
            value.normal_(std=WEIGHT_STD, generator=generator)
        set_tensor(model, name, value)
    return model.eval()


def make_scene(config: AlpamayoConfig, device: str, dtype: torch.dtype) -> Scene:
    """Images behind each other, then text up to the length of a real prompt."""
    tokens = GRID[0] * GRID[1] // config.vision.spatial_merge_size**2
    ids: list[int] = []
    for _ in range(IMAGES):
        ids += [1, *[config.image_token_id] * tokens, 2]
    ids += [3] * (PROMPT_TOKENS - len(ids))
    generator = torch.Generator(device).manual_seed(1)
    shape = (IMAGES * GRID[0] * GRID[1], 3 * 2 * 16 * 16)
    patches = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    return Scene(torch.tensor([ids], device=device), patches, [GRID] * IMAGES)


@torch.inference_mode()
def measure(model: AlpamayoR1, scene: Scene, samples: int, recorded: bool) -> dict[str, Any]:
    """Milliseconds per stage (median of 5 after 2 warm-ups), end to end, and GB of memory.

    end_to_end: vision, prefill, 32 tokens and 10 flow steps.
    """
    device = scene.input_ids.device
    cache = model.new_cache(1, PROMPT_TOKENS, samples, REASONING_TOKENS)
    weights_gb = _allocated_gb(device) - _bytes(cache) / 1e9 - _bytes(scene) / 1e9
    steps = record(StaticSteps(model, cache, samples)) if recorded else model
    run = _Inference(model, scene, steps, cache, samples)
    _reset_peak(device)
    result: dict[str, Any] = {
        'samples': samples,
        'vision': _median_ms(run.vision, device),
        'prefill': _median_ms(run.prefill, device),
        'token': _median_ms(run.token, device),
        'flow_step': _median_ms(run.flow_step, device),
        'end_to_end': _median_ms(run.whole, device),
        'weights_gb': round(weights_gb, 3),
    }
    result['peak_gb'] = _peak_gb(device)
    return result


class _Inference:
    """The stages over one cache, each callable again and again."""

    def __init__(
        self,
        model: AlpamayoR1,
        scene: Scene,
        steps: AlpamayoR1 | StaticSteps,
        cache: KVCache,
        samples: int,
    ) -> None:
        self.model, self.scene, self.steps, self.cache = model, scene, steps, cache
        device = scene.input_ids.device
        self.tokens = torch.full((1, samples), 3, device=device)
        self.options = SamplingOptions(num_samples=samples, max_tokens=REASONING_TOKENS)
        start = model.config.traj_token_start_idx
        # no marker and no eos among the ids: every run says all of its tokens
        self.ids = TokenIds(0, 0, -1, -1, 0, start, start + model.config.traj_vocab_size, 0)
        self.noise = torch.randn(samples, model.waypoints, 2, device=device)
        self.generator = torch.Generator(device).manual_seed(2)
        self.features = self.vision()
        self.prompt = self.prefill()

    def vision(self) -> tuple[Tensor, list[Tensor]]:
        return self.model.encode_images(self.scene.patches, self.scene.grids)

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


def _median_ms(run: Callable[[], Any], device: torch.device) -> float:
    times = []
    for _ in range(WARM_UP + RUNS):
        _synchronize(device)
        start = time.perf_counter()
        run()
        _synchronize(device)
        times.append((time.perf_counter() - start) * 1e3)
    return round(float(np.median(times[WARM_UP:])), 3)


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _bytes(holder: Any) -> int:
    return sum(t.nbytes for t in vars(holder).values() if isinstance(t, Tensor))


def _allocated_gb(device: torch.device) -> float:
    return torch.cuda.memory_allocated(device) / 1e9 if device.type == 'cuda' else math.nan


def _reset_peak(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)


def _peak_gb(device: torch.device) -> float:
    return (
        round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
        if device.type == 'cuda'
        else math.nan
    )
