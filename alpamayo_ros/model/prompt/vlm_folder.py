"""Finds the VLM folder of a checkpoint: tokenizer, chat template and config of its VLM.

Holds the geometry of the two known VLMs. Knows no tokenizer and no model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import BadInput
from ...hub import resolve_vlm

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


def find_vlm_folder(vlm_name: str, folder: Path | None) -> Path | None:
    """Folder of tokenizer and VLM config: the checkpoint's vlm/ first, then the name as a path."""
    if folder is not None and (folder / 'vlm').is_dir():
        return folder / 'vlm'
    for base in (folder, Path()) if folder is not None else (Path(),):
        if vlm_name and (base / vlm_name).is_dir():
            return base / vlm_name
    return None


def resolve_hub_vlm(vlm_name: str, folder: Path | None) -> Path:
    """Folder of tokenizer and VLM config by hub id.

    A BadInput names the checkpoint, because its user never wrote `vlm_name`.
    """
    expected = 'expected a folder vlm/ beside it, or a folder or hub id as vlm_name_or_path'
    where = 'config.json' if folder is None else f'{folder}/config.json'
    if not vlm_name:
        raise BadInput(f'{where}: no tokenizer and config of a VLM: {expected}')
    try:
        return resolve_vlm(vlm_name)
    except BadInput as error:
        raise BadInput(f'{where}: {expected}: {error}') from None
