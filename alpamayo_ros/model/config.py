"""Facts of a checkpoint as dataclasses, read from config.json and the config of its VLM.

Knows nothing of weights or tokenizers. Extra keys are tolerated: releases differ in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..checked_json import (
    check_facts,
    read_integer,
    read_integers,
    read_number,
    read_size,
    read_table,
)
from ..errors import BadInput
from ..files import read_json
from .blocks import check_targets
from .prompt.vlm_folder import KNOWN_VLMS, find_vlm_folder, resolve_hub_vlm
from .versions import VERSIONS, ModelVersion

CARD = 'card.json'
REQUIRED_BLOCKS = (
    'action_space_cfg',
    'action_in_proj_cfg',
    'action_out_proj_cfg',
    'diffusion_cfg',
    'traj_tokenizer_cfg',
)
_DEEPSTACK = 'deepstack_visual_indexes'
# What the modules of this package do; a config may state nothing else.
_TEXT_FACTS = {'hidden_act': ('silu',), 'attention_bias': (False,)}
_VISION_FACTS = {'hidden_act': ('gelu_pytorch_tanh',), 'in_channels': (3,)}
_ROPE_TYPES = ('default', 'mrope')
_ROPE_FACTS = {'rope_type': _ROPE_TYPES, 'type': _ROPE_TYPES, 'mrope_interleaved': (True,)}


@dataclass(frozen=True)
class TextConfig:
    """Geometry of a Qwen3-style decoder; the expert is one too, without embeddings."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, ...]


_TEXT_SIZES = tuple(row.name for row in fields(TextConfig) if row.type == 'int')


@dataclass(frozen=True)
class VisionConfig:
    """Geometry of the Qwen3-VL vision tower."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    out_hidden_size: int
    num_position_embeddings: int
    deepstack_visual_indexes: tuple[int, ...]


@dataclass(frozen=True)
class AlpamayoConfig:
    """Facts of one checkpoint. version: its row of the version table. blocks: its `*_cfg` keys."""

    model_type: str
    version: ModelVersion
    vocab_size: int
    text: TextConfig
    vision: VisionConfig
    expert: TextConfig
    image_token_id: int
    traj_token_start_idx: int
    traj_vocab_size: int
    traj_token_ids: Mapping[str, int]
    tokens_per_history_traj: int
    tokens_per_future_traj: int
    add_special_tokens: bool
    include_camera_ids: bool
    include_frame_nums: bool
    min_pixels: int
    max_pixels: int
    dtype: str
    vlm_name_or_path: str
    untrained: bool
    blocks: Mapping[str, Mapping[str, Any]]


def load_config(folder: Path) -> AlpamayoConfig:
    """Config of a checkpoint folder; the VLM's geometry is that of vlm/ or its known name."""
    path = folder / 'config.json'
    return parse_config(read_json(path), folder, where=str(path))


def parse_config(
    raw: Mapping[str, Any], folder: Path | None = None, where: str = 'config.json'
) -> AlpamayoConfig:
    """Config from parsed JSON; `folder` is where vlm/ and a relative VLM path are looked for.

    Raises BadInput for a missing key, a value of another kind, another model type, or a `_target_`
    off the allow-list.
    """
    model_type = raw.get('model_type')
    version = VERSIONS.get(model_type) if isinstance(model_type, str) else None
    if not isinstance(model_type, str) or version is None:
        raise BadInput(f'{where}: model_type is {model_type!r}, expected one of {list(VERSIONS)}')
    check_targets(raw, where)
    vlm_name = str(raw.get('vlm_name_or_path') or '')
    vlm, vlm_where = _vlm_config(vlm_name, folder)
    text = _text_config(read_table(vlm, 'text_config', vlm_where), vlm_where)
    blocks = {k: raw[k] for k in raw if k.endswith('_cfg') and raw[k] is not None}
    for name in (*REQUIRED_BLOCKS, *blocks):
        read_table(raw, name, where)
    markers = read_table(raw, 'traj_token_ids', where)
    least = read_size({'min_pixels': 163840} | dict(raw), 'min_pixels', where)
    most = read_size({'max_pixels': 196608} | dict(raw), 'max_pixels', where)
    if least > most:
        raise BadInput(f'{where}: min_pixels is {least}, more than max_pixels, {most}')
    vocab_size, first = read_size(raw, 'vocab_size', where), 'traj_token_start_idx'
    start, count = read_integer(raw, first, where), read_integer(raw, 'traj_vocab_size', where)
    if start + count > vocab_size:
        raise BadInput(
            f'{where}: {first} and traj_vocab_size end at {start + count:,}, expected at most '
            f'vocab_size, {vocab_size:,}'
        )
    return AlpamayoConfig(
        model_type=model_type,
        version=version,
        vocab_size=vocab_size,
        text=text,
        vision=_vision_config(read_table(vlm, 'vision_config', vlm_where), vlm_where),
        expert=_expert_config(text, read_table(raw, 'expert_cfg', where), where),
        image_token_id=read_integer(vlm, 'image_token_id', vlm_where),
        traj_token_start_idx=start,
        traj_vocab_size=count,
        traj_token_ids={
            k: read_integer(markers, k, where) for k in {*markers, 'history', 'future_start'}
        },
        tokens_per_history_traj=read_integer(raw, 'tokens_per_history_traj', where),
        tokens_per_future_traj=read_integer(raw, 'tokens_per_future_traj', where),
        add_special_tokens=bool(raw.get('add_special_tokens', True)),
        include_camera_ids=bool(raw.get('include_camera_ids', version.has_labels)),
        include_frame_nums=bool(raw.get('include_frame_nums', version.has_labels)),
        min_pixels=least,
        max_pixels=most,
        dtype=_read_dtype(raw),
        vlm_name_or_path=vlm_name,
        untrained=bool(raw.get('untrained', False)),
        blocks=blocks,
    )


def _read_dtype(raw: Mapping[str, Any]) -> str:
    """Name of the weights' dtype, which writers also spell torch.bfloat16."""
    dtype = raw.get('dtype') or raw.get('model_dtype') or raw.get('torch_dtype') or 'bfloat16'
    return str(dtype).removeprefix('torch.')


def read_card_limits(folder: Path) -> str:
    """Uses that the card of a checkpoint excludes; '' when it has no card."""
    card = folder / CARD
    limits = read_json(card).get('limits') if card.is_file() else None
    return ' '.join(map(str, limits)) if isinstance(limits, list) else ''


def _vlm_config(name: str, folder: Path | None) -> tuple[Mapping[str, Any], str]:
    """Config of the VLM and where it stands."""
    vlm = find_vlm_folder(name, folder)
    if vlm is None or not (vlm / 'config.json').exists():
        if name in KNOWN_VLMS:
            return KNOWN_VLMS[name], name
        vlm = vlm or resolve_hub_vlm(name, folder)
    return read_json(vlm / 'config.json'), f'{vlm}/config.json'


def _text_config(raw: Mapping[str, Any], where: str) -> TextConfig:
    check_facts(raw, _TEXT_FACTS, where)
    rope = _read_rope(raw, where)
    heads, groups = (read_size(raw, f'num_{k}_heads', where) for k in ('attention', 'key_value'))
    if heads % groups:
        raise BadInput(
            f'{where}: num_attention_heads is {heads}, expected a multiple of '
            f'num_key_value_heads, {groups}'
        )
    sizes: dict[str, Any] = {name: read_size(raw, name, where) for name in _TEXT_SIZES}
    return TextConfig(
        **sizes,
        rms_norm_eps=read_number({'rms_norm_eps': 1e-6} | dict(raw), 'rms_norm_eps', where),
        rope_theta=read_number(rope, 'rope_theta', where),
        mrope_section=read_integers(rope, 'mrope_section', where, 3),
    )


def _read_rope(raw: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Rotary facts: transformers 4 has rope_scaling and rope_theta, 5 has rope_parameters."""
    tables = [read_table(raw, k, where) for k in ('rope_scaling', 'rope_parameters') if raw.get(k)]
    if raw.get('rope_theta'):
        tables.append({'rope_theta': raw['rope_theta']})
    rope: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            if rope.setdefault(key, value) != value:
                raise BadInput(f'{where}: {key} is stated as {rope[key]!r} and as {value!r}')
    check_facts(rope, _ROPE_FACTS, where)
    rope = {'mrope_section': (24, 20, 20)} | rope
    sections, half = (
        read_integers(rope, 'mrope_section', where, 3),
        read_size(raw, 'head_dim', where) // 2,
    )
    if sum(sections) != half:
        raise BadInput(
            f'{where}: mrope_section {list(sections)} is {sum(sections)} in all, expected half of '
            f'head_dim, {half}'
        )
    return rope


def _vision_config(raw: Mapping[str, Any], where: str) -> VisionConfig:
    check_facts(raw, _VISION_FACTS, where)
    sizes = [name for name in VisionConfig.__dataclass_fields__ if name != _DEEPSTACK]
    width, heads = (read_size(raw, key, where) for key in ('hidden_size', 'num_heads'))
    if width % heads:
        raise BadInput(
            f'{where}: hidden_size is {width}, expected a multiple of num_heads, {heads}'
        )
    return VisionConfig(
        **{name: read_size(raw, name, where) for name in sizes},
        deepstack_visual_indexes=read_integers(raw, _DEEPSTACK, where),
    )


def _expert_config(text: TextConfig, raw: Mapping[str, Any], where: str) -> TextConfig:
    """The decoder's geometry with the expert's overrides; unknown keys (dtype) are left out."""
    own: dict[str, Any] = {n: read_size(raw, n, where) for n in _TEXT_SIZES if n in raw}
    own |= {
        key: read_number(raw, key, where) for key in ('rms_norm_eps', 'rope_theta') if key in raw
    }
    if 'mrope_section' in raw:
        own['mrope_section'] = read_integers(raw, 'mrope_section', where, 3)
    expert = replace(text, **own)
    shared = ('num_hidden_layers', 'num_key_value_heads', 'head_dim')  # it reads the VLM's cache
    for key in shared:
        if getattr(expert, key) != getattr(text, key):
            raise BadInput(
                f'{where}: expert_cfg.{key} is {getattr(expert, key)}, '
                f'but the cache of the VLM has {getattr(text, key)}'
            )
    return expert
