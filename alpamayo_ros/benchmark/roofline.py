"""Compares measured times with the limits that memory and arithmetic of a device set.

Bytes and operations are those of the model and the benchmark's scene; peaks are the makers'
figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..model.alpamayo import AlpamayoModel
from .full_size import GRID, IMAGES, PROMPT_TOKENS, module_bytes


@dataclass(frozen=True)
class Peak:
    """Bytes per second of memory, dense 16-bit operations per second of tensor cores."""

    bytes_per_s: float
    flops: float


PEAKS = {'NVIDIA H200': Peak(4.8e12, 989e12)}


def count_work(
    model: AlpamayoModel,
    images: int = IMAGES,
    prompt: int = PROMPT_TOKENS,
    kv_bits: int = 16,
) -> dict[str, dict[str, float]]:
    """Count the bytes and floating-point operations of each stage, one sample, from shapes.

    images and prompt: of the scene, the latter in tokens. kv_bits: of the cache.
    """
    text, vision, expert = model.config.text, model.config.vision, model.config.expert
    part = module_bytes(model)
    head_dim, kv_heads = text.head_dim, text.num_key_value_heads
    itemsize = 1 if kv_bits == 8 else model.action_space.accel_mean.element_size()
    cache = 2 * text.num_hidden_layers * kv_heads * head_dim * prompt * itemsize
    patches = images * GRID[0] * GRID[1]
    query = text.num_attention_heads * head_dim
    per_layer = text.hidden_size * (2 * query + 2 * kv_heads * head_dim)
    per_layer += 3 * text.hidden_size * text.intermediate_size
    prefill = 2 * prompt * text.num_hidden_layers * per_layer
    prefill += 2 * prompt**2 * query * text.num_hidden_layers  # causal: half of it
    width = vision.hidden_size
    per_block = width * (4 * width + 2 * vision.intermediate_size)
    seeing = 2 * patches * vision.depth * per_block
    seeing += 4 * patches * GRID[0] * GRID[1] * width * vision.depth
    expert_query = expert.num_attention_heads * head_dim
    per_expert = expert.hidden_size * (2 * expert_query + 2 * kv_heads * head_dim)
    per_expert += 3 * expert.hidden_size * expert.intermediate_size
    layers = text.num_hidden_layers
    return {
        'vision': {'bytes': part['vision'], 'flops': seeing},
        'prefill': {'bytes': part['language'], 'flops': prefill},
        'token': {
            'bytes': part['language'] + part['head'] + cache,
            'flops': 2 * layers * per_layer,
        },
        'flow_step': {
            'bytes': part['expert'] + cache,
            'flops': 2 * model.waypoints * layers * per_expert,
        },
    }


def measure_fractions(
    needed: Mapping[str, Mapping[str, float]], measured_ms: Mapping[str, Any], peak: Peak
) -> dict[str, float]:
    """Fraction of the peak that each stage reached: of memory for steps, else of arithmetic."""
    found = {}
    for stage, amount in needed.items():
        seconds = measured_ms[stage] / 1e3
        if stage in ('token', 'flow_step'):
            share = amount['bytes'] / peak.bytes_per_s / seconds
        else:
            share = amount['flops'] / peak.flops / seconds
        found[stage] = round(share, 3)
    return found
