"""Facts of a checkpoint as dataclasses, and the classes that a config.json may name.

Reads config.json and the VLM's config; knows nothing of weights or tokenizers. Extra keys are
tolerated (alpamayo-r1 and 1.5 differ in them); a class that is not on the allow-list is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..hub import resolve_vlm

MODEL_TYPES = ('alpamayo_r1', 'alpamayo1_5')

_UNICYCLE = 'action_space.UnicycleAccelCurvatureActionSpace'
# `_target_` of a release, less its package prefix -> our class.
_TARGETS = {
    'action_space.UnicycleAccelCurvatureActionSpace': _UNICYCLE,
    'action_space.unicycle_accel_curvature.UnicycleAccelCurvatureActionSpace': _UNICYCLE,
    'action_space.discrete_action_space.DiscreteTrajectoryTokenizer': (
        'prompt.trajectory_tokenizer.DiscreteTrajectoryTokenizer'
    ),
    'models.delta_tokenizer.DeltaTrajectoryTokenizer': (
        'prompt.trajectory_tokenizer.DeltaTrajectoryTokenizer'
    ),
    'models.action_in_proj.PerWaypointActionInProjV2': 'action_expert.PerWaypointActionInProjV2',
    'diffusion.flow_matching.FlowMatching': 'flow_matching.FlowMatching',
}
_OURS = __name__.rpartition('.')[0]
ALLOWED_TARGETS = {
    f'{prefix}.{name}': f'{_OURS}.{ours}'
    for prefix in ('alpamayo_r1', 'alpamayo1_5')
    for name, ours in _TARGETS.items()
} | {'torch.nn.Linear': 'torch.nn.Linear'}


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
    mrope_section: tuple[int, int, int]


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
    """What the model needs to know of one checkpoint. `blocks` are the `*_cfg` of config.json."""

    model_type: str
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


QWEN3_VL_8B: dict[str, Any] = {
    'image_token_id': 151655,
    'text_config': {
        'hidden_size': 4096,
        'intermediate_size': 12288,
        'num_hidden_layers': 36,
        'num_attention_heads': 32,
        'num_key_value_heads': 8,
        'head_dim': 128,
        'rms_norm_eps': 1e-6,
        'rope_theta': 5e6,
        'rope_scaling': {'mrope_section': [24, 20, 20]},
    },
    'vision_config': {
        'depth': 27,
        'hidden_size': 1152,
        'intermediate_size': 4304,
        'num_heads': 16,
        'patch_size': 16,
        'temporal_patch_size': 2,
        'spatial_merge_size': 2,
        'out_hidden_size': 4096,
        'num_position_embeddings': 2304,
        'deepstack_visual_indexes': [8, 16, 24],
    },
}
# Both names have the same geometry, so a release without a vlm/ folder loads without a network.
KNOWN_VLMS = {
    'Qwen/Qwen3-VL-8B-Instruct': QWEN3_VL_8B,
    'nvidia/Cosmos-Reason2-8B': QWEN3_VL_8B,
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; BadInput names the file when it is absent or no JSON object."""
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise BadInput(f'{path}: no such file') from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f'{path}: not readable as JSON: {error}') from None
    if not isinstance(value, dict):
        raise BadInput(f'{path}: expected a JSON object, found {type(value).__name__}')
    return value


def load_config(folder: Path) -> AlpamayoConfig:
    """Config of a checkpoint folder; the VLM's geometry is that of vlm/ or its known name."""
    path = folder / 'config.json'
    return parse_config(read_json(path), folder, where=str(path))


def parse_config(
    raw: Mapping[str, Any], folder: Path | None = None, where: str = 'config.json'
) -> AlpamayoConfig:
    """Config from parsed JSON; `folder` is where vlm/ and a relative VLM path are looked for.

    Raises BadInput for a missing key, another model type, or a `_target_` off the allow-list.
    """
    model_type = raw.get('model_type')
    if model_type not in MODEL_TYPES:
        raise BadInput(f'{where}: model_type is {model_type!r}, expected one of {MODEL_TYPES}')
    check_targets(raw, where)
    vlm_name = str(raw.get('vlm_name_or_path') or '')
    vlm = _vlm_config(vlm_name, folder)
    try:
        text = _text_config(vlm['text_config'])
        vision = {k: vlm['vision_config'][k] for k in VisionConfig.__dataclass_fields__}
        vision['deepstack_visual_indexes'] = tuple(vision['deepstack_visual_indexes'])
        return AlpamayoConfig(
            model_type=model_type,
            vocab_size=int(raw['vocab_size']),
            text=text,
            vision=VisionConfig(**vision),
            expert=_expert_config(text, raw['expert_cfg']),
            image_token_id=int(vlm['image_token_id']),
            traj_token_start_idx=int(raw['traj_token_start_idx']),
            traj_vocab_size=int(raw['traj_vocab_size']),
            traj_token_ids={k: int(v) for k, v in raw['traj_token_ids'].items()},
            tokens_per_history_traj=int(raw['tokens_per_history_traj']),
            tokens_per_future_traj=int(raw['tokens_per_future_traj']),
            add_special_tokens=bool(raw.get('add_special_tokens', True)),
            include_camera_ids=bool(raw.get('include_camera_ids', False)),
            include_frame_nums=bool(raw.get('include_frame_nums', False)),
            min_pixels=int(raw.get('min_pixels', 163840)),
            max_pixels=int(raw.get('max_pixels', 196608)),
            dtype=str(raw.get('dtype') or raw.get('model_dtype') or 'bfloat16'),
            vlm_name_or_path=vlm_name,
            untrained=bool(raw.get('untrained', False)),
            blocks={k: raw[k] for k in raw if k.endswith('_cfg')},
        )
    except KeyError as error:
        raise BadInput(f'{where}: the key {error} is missing') from None
    except (TypeError, ValueError) as error:
        raise BadInput(f'{where}: {error}') from None


CARD = 'card.json'


def read_card_limits(folder: Path) -> str:
    """What the card of a checkpoint says that it is not for; '' when it has none."""
    card = folder / CARD
    limits = read_json(card).get('limits') if card.is_file() else None
    return ' '.join(map(str, limits)) if isinstance(limits, list) else ''


def find_vlm_folder(vlm_name: str, folder: Path | None) -> Path | None:
    """Folder of tokenizer and VLM config: the checkpoint's vlm/ first, then the name as a path."""
    if folder is not None and (folder / 'vlm').is_dir():
        return folder / 'vlm'
    for base in (folder, Path()) if folder is not None else (Path(),):
        if vlm_name and (base / vlm_name).is_dir():
            return base / vlm_name
    return None


def resolve_hub_vlm(vlm_name: str, folder: Path | None) -> Path:
    """The same by hub id; a BadInput names the checkpoint, as its user never wrote `vlm_name`."""
    expected = 'expected a folder vlm/ beside it, or a folder or hub id as vlm_name_or_path'
    where = 'config.json' if folder is None else f'{folder}/config.json'
    if not vlm_name:
        raise BadInput(f'{where}: no tokenizer and config of a VLM: {expected}')
    try:
        return resolve_vlm(vlm_name)
    except BadInput as error:
        raise BadInput(f'{where}: {expected}: {error}') from None


def check_targets(block: Any, where: str) -> None:
    """Refuse every `_target_` off the allow-list, however deep, before anything is built."""
    if isinstance(block, Mapping):
        target = block.get('_target_')
        if target is not None and target not in ALLOWED_TARGETS:
            raise BadInput(
                f'{where}: unknown _target_ {target!r}; known: {sorted(ALLOWED_TARGETS)}'
            )
        for value in block.values():
            check_targets(value, where)
    elif isinstance(block, (list, tuple)):
        for value in block:
            check_targets(value, where)
    elif isinstance(block, str) and '${' in block:  # hydra would resolve it, also from the shell
        raise BadInput(f'{where}: interpolation {block!r} is not allowed')


def build_block(block: Mapping[str, Any], **given: Any) -> Any:
    """Instantiate a `_target_` block through hydra, as our class of that name.

    Keys that our class does not take are left out: releases carry extra ones. `given` are the
    arguments that the caller supplies; the block's own values win.
    """
    from hydra.utils import instantiate

    check_targets(block, 'config.json')
    target = block.get('_target_')
    if target is None:
        raise BadInput(f'config.json: a block without _target_: {dict(block)}')
    ours = ALLOWED_TARGETS[target]
    module, _, name = ours.rpartition('.')
    takes = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    arguments = given | {k: v for k, v in block.items() if k in takes and v is not None}
    return instantiate({'_target_': ours, '_recursive_': False, '_convert_': 'all'}, **arguments)


def _vlm_config(name: str, folder: Path | None) -> Mapping[str, Any]:
    vlm = find_vlm_folder(name, folder)
    if vlm is not None and (vlm / 'config.json').is_file():
        return read_json(vlm / 'config.json')
    if name in KNOWN_VLMS:
        return KNOWN_VLMS[name]
    return read_json(resolve_hub_vlm(name, folder) / 'config.json')


def _text_config(raw: Mapping[str, Any]) -> TextConfig:
    # transformers 4 says rope_scaling and rope_theta, transformers 5 rope_parameters
    rope = {**(raw.get('rope_scaling') or {}), **(raw.get('rope_parameters') or {})}
    sizes = [
        'hidden_size',
        'intermediate_size',
        'num_hidden_layers',
        'num_attention_heads',
        'num_key_value_heads',
        'head_dim',
    ]
    t, h, w = rope.get('mrope_section', (24, 20, 20))
    return TextConfig(
        **{k: int(raw[k]) for k in sizes},
        rms_norm_eps=float(raw.get('rms_norm_eps', 1e-6)),
        rope_theta=float(raw.get('rope_theta') or rope['rope_theta']),
        mrope_section=(t, h, w),
    )


def _expert_config(text: TextConfig, raw: Mapping[str, Any]) -> TextConfig:
    """The decoder's geometry with the expert's overrides; unknown keys (dtype) are left out."""
    fields = {k: getattr(text, k) for k in TextConfig.__dataclass_fields__}
    expert = TextConfig(**(fields | {k: v for k, v in raw.items() if k in fields}))
    shared = ('num_hidden_layers', 'num_key_value_heads', 'head_dim')  # it reads the VLM's cache
    for key in shared:
        if getattr(expert, key) != getattr(text, key):
            raise ValueError(
                f'expert_cfg.{key} is {getattr(expert, key)}, '
                f'but the cache of the VLM has {getattr(text, key)}'
            )
    return expert
