"""Create a checkpoint folder from the settings, and the untrained model for it.

The package's loader accepts the folder. Knows no data and no optimizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from alpamayo_ros.errors import BadInput
from alpamayo_ros.files import create_folder
from alpamayo_ros.model.alpamayo import AlpamayoModel
from alpamayo_ros.model.checkpoint import SINGLE
from alpamayo_ros.model.config import load_config
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.model.prompt.wording import (
    CAMERA_NAMES,
    INSTRUCTION,
    SYSTEM,
    TRAJECTORY_INSTRUCTION,
)
from alpamayo_ros.model.small.untrained import make_config_json
from alpamayo_ros.model.small.vlm_files import write_json, write_vlm
from alpamayo_ros.model.versions import VERSIONS
from alpamayo_ros.world.reasons import REASONS

from .routes import ROUTE_WORDS
from .settings import TrainingSettings

_KNOTS = 32  # random embeddings; those of the history levels are interpolated between them
_TOKEN_STD = 0.5
_GAINS = {  # layers that add to a residual stream start small
    'o_proj.weight': 0.3,
    'down_proj.weight': 0.3,
    'attn.proj.weight': 0.3,
    'mlp.linear_fc2.weight': 0.3,
    'lm_head.weight': 0.2,
    'action_out_proj.weight': 0.1,
    'pos_embed.weight': 0.2,
    'embed_tokens.weight': _TOKEN_STD,
}


def create_checkpoint_folder(run: Path, settings: TrainingSettings) -> Path:
    """Return the run's folder with config.json and vlm/, without weights; create it if absent."""
    folder = run / 'checkpoint'
    if not folder.is_dir():
        with create_folder(folder) as place:
            _write_files(place, settings)
    return folder


def _write_files(folder: Path, settings: TrainingSettings) -> None:
    folder.mkdir()
    wordings = '\n'.join(wording for reason in REASONS.values() for wording in reason.wordings)
    words = f'{wordings}\n{SYSTEM}\n{INSTRUCTION}\nsystem\nuser\nassistant'
    if VERSIONS[settings.model_type].has_routes:
        labels = '\n'.join(f'{name}: frame 0 frame' for name in CAMERA_NAMES)
        words += f'\n{TRAJECTORY_INSTRUCTION}\n{labels}\n{ROUTE_WORDS}'
    vocabulary = write_vlm(folder / 'vlm', words, _describe_vlm(settings))
    write_json(folder / 'config.json', _build_config(settings, vocabulary))


def _describe_vlm(settings: TrainingSettings) -> dict[str, Any]:
    text, vision = dict(settings.model['text']), settings.model['vision']
    section = text.pop('mrope_section')
    rope = {'mrope_interleaved': True, 'mrope_section': section, 'rope_type': 'default'}
    return {
        'text_config': text
        | {'hidden_act': 'silu', 'attention_bias': False, 'rms_norm_eps': 1e-6}
        | {'rope_theta': 5000000, 'rope_scaling': rope},
        'vision_config': {
            'model_type': 'qwen3_vl',
            'in_channels': 3,
            'patch_size': 16,
            'temporal_patch_size': 2,
            'spatial_merge_size': 2,
            'out_hidden_size': text['hidden_size'],
            'hidden_act': 'gelu_pytorch_tanh',
        }
        | dict(vision),
    }


def _build_config(settings: TrainingSettings, vocabulary: int) -> dict[str, Any]:
    model, image = settings.model, settings.image
    future, history = model['future_bins'], model['history_bins']
    raw = make_config_json(vocabulary, future + history)
    raw['model_type'] = settings.model_type
    raw['architectures'] = [VERSIONS[settings.model_type].architecture]
    raw['min_pixels'], raw['max_pixels'] = image['min_pixels'], image['max_pixels']
    raw['expert_cfg'] |= model['expert'] | {'head_dim': model['text']['head_dim']}
    raw['action_in_proj_cfg'] |= model['action_in_proj']
    raw['diffusion_cfg']['num_inference_steps'] = model['flow_steps']
    raw['action_space_cfg'] |= settings.actions
    raw['traj_tokenizer_cfg']['num_bins'] = future
    raw['hist_traj_tokenizer_cfg']['num_bins'] = history
    return raw


def make_model(folder: Path, seed: int) -> AlpamayoModel:
    """Return the model of a folder on the CPU; its random weights are a function of the seed.

    Buffers (statistics, frequencies) are rounded to bfloat16, as in the exported checkpoint.
    """
    config = load_config(folder)
    model = AlpamayoModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            _initialise(name, parameter, generator)
        _smooth_history(model, generator)
        for buffer in model.buffers():
            buffer.copy_(buffer.to(torch.bfloat16))
    return model


def load_weights(model: AlpamayoModel, folder: Path, checkpoint: Path) -> None:
    """Copy the weights of a checkpoint into the model of `folder`, which may know more tokens.

    Embeddings and output rows are matched by the written tokens; new tokens stay as they are.
    Raises BadInput for a checkpoint of another size.
    """
    own, other = (
        Processor(load_config(place), place).tokenizer.get_vocab()
        for place in (folder, checkpoint)
    )
    shared = sorted(own.keys() & other.keys())
    rows, sources = ([ids[token] for token in shared] for ids in (own, other))
    given = load_file(checkpoint / SINGLE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_table = name.endswith(('embed_tokens.weight', 'lm_head.weight'))
            found = given[name][sources] if is_table else given[name]
            target = parameter[rows] if is_table else parameter
            if found.shape != target.shape:
                raise BadInput(
                    f'{checkpoint}: {name} has the shape {tuple(found.shape)}, expected '
                    f'{tuple(target.shape)} as the settings say'
                )
            if is_table:
                parameter[rows] = found.to(parameter.dtype)
            else:
                parameter.copy_(found)


def _initialise(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    """Set norms to one, biases to zero, matrices to random numbers of std gain / sqrt(inputs)."""
    if parameter.dim() == 1:
        parameter.fill_(1.0 if name.endswith('weight') else 0.0)
        return
    is_table = 'embed_tokens' in name or 'pos_embed' in name
    inputs = 1 if is_table else parameter[0].numel()
    gain = next((g for end, g in _GAINS.items() if name.endswith(end)), 1.0)
    normal = torch.randn(parameter.shape, generator=generator)
    parameter.copy_(normal * gain / inputs**0.5)


def _smooth_history(model: AlpamayoModel, generator: torch.Generator) -> None:
    """Make neighbouring levels of the history start alike: each helps to train the others."""
    config = model.config
    table = model.vlm.model.language_model.embed_tokens.weight
    first = config.traj_token_start_idx + config.blocks['traj_tokenizer_cfg']['num_bins']
    levels = config.blocks['hist_traj_tokenizer_cfg']['num_bins']
    knots = torch.randn(1, table.shape[1], _KNOTS, generator=generator)
    smooth: Tensor = F.interpolate(knots, levels, mode='linear', align_corners=True)[0].T
    table[first : first + levels] = smooth * _TOKEN_STD
