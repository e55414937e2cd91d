"""Compiles the packed kernels for a GPU, present or not, and counts what they use.

Each product has the tile that this GPU takes. Knows no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..kernels.compiled import ProductCounts, count_product
from ..kernels.gpu import Gpu
from ..kernels.packed_products import ProductSizes, product_sizes
from ..model.config import TextConfig, parse_config
from ..quantization.scheme import Rules, find_rule
from .full_size import RELEASE

LANGUAGE, EXPERT, HEAD = 'vlm.model.language_model.', 'expert.', 'vlm.lm_head'
SAMPLES = 6
WAYPOINTS = 64


def list_release_products(rules: Rules) -> Iterator[tuple[str, ProductSizes]]:
    """Title and sizes of every product of few rows: tokens of 1 and 6 samples, one flow step."""
    config = parse_config(RELEASE)
    for title, x_rows in (('token', 1), (f'token, K = {SAMPLES}', SAMPLES)):
        yield from _list_layer_products(title, x_rows, LANGUAGE, config.text, rules)
        rule = find_rule(HEAD, rules)
        columns, heights = config.text.hidden_size, (rule.pad(config.vocab_size),)
        group, levels = rule.scheme.group_size(columns), rule.scheme.levels
        yield f'{title}: head', product_sizes(x_rows, columns, group, levels, heights)
    yield from _list_layer_products('flow step', WAYPOINTS, EXPERT, config.expert, rules)


def _list_layer_products(
    title: str, x_rows: int, prefix: str, config: TextConfig, rules: Rules
) -> Iterator[tuple[str, ProductSizes]]:
    query = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    for name, module, columns, heights in (
        ('query, key, value', 'self_attn.q_proj', hidden, (query, keys, keys)),
        ('attention output', 'self_attn.o_proj', query, (hidden,)),
        ('gate, up', 'mlp.gate_proj', hidden, (inner, inner)),
        ('down', 'mlp.down_proj', inner, (hidden,)),
    ):
        scheme = find_rule(f'{prefix}layers.0.{module}', rules).scheme
        group = scheme.group_size(columns)
        sizes = product_sizes(x_rows, columns, group, scheme.levels, heights)
        yield f'{title}: {name}', sizes


def count_release(rules: Rules, gpu: Gpu) -> Iterator[tuple[str, ProductCounts]]:
    """Title and counts of every product of `list_release_products` on a GPU."""
    for title, sizes in list_release_products(rules):
        yield title, count_product(sizes, gpu)


def flatten(counts: ProductCounts) -> dict[str, Any]:
    """The counts as one JSON object."""
    return {
        'tile': list(counts.tile),
        **counts.kernel._asdict(),
        'instructions_per_weight': counts.instructions_per_weight,
        'loop_instructions_per_weight': counts.loop_instructions_per_weight,
    }
