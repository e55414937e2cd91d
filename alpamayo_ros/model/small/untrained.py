"""Writes a small untrained checkpoint: every part of Alpamayo-R1 at a thousandth of its size.

The weights are random, except for an output head that makes the model say SENTENCE. The velocity
field is close to zero, so the path is noise around constant speed. The checkpoint exercises the
pipeline; `untrained` in its config.json makes the report say that its paths mean nothing.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors.torch import save
import torch
from torch import Tensor

from ..alpamayo import AlpamayoModel
from ..checkpoint import SINGLE
from ..config import load_config
from ..processor import Processor
from ..prompt.tokens import IMAGE_PAD, SPECIAL_NAMES, format_special
from ..prompt.wording import INSTRUCTION, SYSTEM
from ..versions import VERSIONS
from .vlm_files import write_json, write_vlm

SENTENCE = 'Untrained demo weights: this path means nothing.'
_WORDS = f'{SENTENCE} {SYSTEM}\n{INSTRUCTION} system user assistant'
_DISCRETE_TOKENS = 4000
_HEAD_DIM, _KV_HEADS = 32, 2
_GEOMETRY: dict[str, Any] = {
    'text_config': {
        'hidden_size': 128,
        'intermediate_size': 256,
        'num_hidden_layers': 4,
        'num_attention_heads': 4,
        'num_key_value_heads': _KV_HEADS,
        'head_dim': _HEAD_DIM,
        'hidden_act': 'silu',
        'attention_bias': False,
        'rms_norm_eps': 1e-6,
        'rope_theta': 5000000,
        'rope_scaling': {
            'mrope_interleaved': True,
            'mrope_section': [8, 4, 4],
            'rope_type': 'default',
        },
    },
    'vision_config': {
        'model_type': 'qwen3_vl',
        'depth': 3,
        'hidden_size': 64,
        'intermediate_size': 128,
        'num_heads': 2,
        'in_channels': 3,
        'patch_size': 16,
        'temporal_patch_size': 2,
        'spatial_merge_size': 2,
        'out_hidden_size': 128,
        'num_position_embeddings': 144,
        'deepstack_visual_indexes': [0, 1],
        'hidden_act': 'gelu_pytorch_tanh',
    },
}
# Layers that add to the residual stream stay small beside a token's embedding; others have gain 1.
_GAINS = {
    'o_proj.weight': 0.1,
    'down_proj.weight': 0.1,
    'attn.proj.weight': 0.3,
    'linear_fc2.weight': 0.3,
    'action_out_proj.weight': 0.02,
}
_LOGIT = 22.0  # logit of the next word of the sentence; all others are near zero


def write_small_checkpoint(folder: Path, seed: int, model_type: str = 'alpamayo_r1') -> None:
    """Make `folder` with config.json, model.safetensors and vlm/. Equal seeds give equal files.

    model_type: one of versions.VERSIONS; the files differ in their config.json alone.
    """
    folder.mkdir()
    size = write_vlm(folder / 'vlm', _WORDS, _GEOMETRY)
    named = {'model_type': model_type, 'architectures': [VERSIONS[model_type].architecture]}
    write_json(folder / 'config.json', make_config_json(size) | named | {'untrained': True})
    config = load_config(folder)
    model = AlpamayoModel(config)
    _initialise(model, torch.Generator().manual_seed(seed))
    _teach(model, Processor(config, folder))
    # bfloat16 as the release; config.json asks for float32 at run time, which CPUs are faster in
    tensors = {name: t.to(torch.bfloat16) for name, t in model.state_dict().items()}
    (folder / SINGLE).write_bytes(save(tensors))


def make_config_json(vocabulary: int, discrete_tokens: int = _DISCRETE_TOKENS) -> dict[str, Any]:
    """config.json of R1 for a base vocabulary of that size, which the added tokens follow."""
    action_space = {
        '_target_': 'alpamayo_r1.action_space.UnicycleAccelCurvatureActionSpace',
        'accel_mean': 0.0,
        'accel_std': 0.06,
        'curvature_mean': 0.0,
        'curvature_std': 0.0015,
        'accel_bounds': [-9.8, 9.8],
        'curvature_bounds': [-0.33, 0.33],
        'dt': 0.1,
        'n_waypoints': 64,
    }
    first_special = vocabulary + discrete_tokens
    new = [name for name in SPECIAL_NAMES if format_special(name) != IMAGE_PAD]
    ids = {name: first_special + i for i, name in enumerate(new)}
    markers = ('history', 'future', 'history_start', 'future_start', 'history_end', 'future_end')
    return {
        'architectures': ['AlpamayoR1'],
        'model_type': 'alpamayo_r1',
        'dtype': 'float32',
        'attn_implementation': 'sdpa',
        'vlm_backend': 'qwenvl3',
        'vlm_name_or_path': 'vlm',
        'vocab_size': first_special + len(new),
        'traj_token_start_idx': vocabulary,
        'traj_vocab_size': discrete_tokens,
        'traj_token_ids': {name: ids[f'traj_{name}'] for name in markers},
        'tokens_per_history_traj': 48,
        'tokens_per_future_traj': 128,
        'add_special_tokens': True,
        'min_pixels': 16384,
        'max_pixels': 32768,  # 640x360 becomes 224x128: 28 tokens an image
        'expert_cfg': {
            'hidden_size': 128,
            'intermediate_size': 256,
            'num_attention_heads': 4,
            'head_dim': _HEAD_DIM,
        },
        'action_in_proj_cfg': {
            '_target_': 'alpamayo_r1.models.action_in_proj.PerWaypointActionInProjV2',
            'hidden_size': 64,
            'num_enc_layers': 2,
            'max_freq': 100.0,
            'num_fourier_feats': 20,
        },
        'action_out_proj_cfg': {'_target_': 'torch.nn.Linear'},
        'diffusion_cfg': {
            '_target_': 'alpamayo_r1.diffusion.flow_matching.FlowMatching',
            'int_method': 'euler',
            'num_inference_steps': 10,
            'x_dims': None,
        },
        'action_space_cfg': action_space,
        'traj_tokenizer_cfg': {
            '_target_': (
                'alpamayo_r1.action_space.discrete_action_space.DiscreteTrajectoryTokenizer'
            ),
            '_recursive_': False,
            'action_space_cfg': action_space,
            'dims_min': [-10, -10],
            'dims_max': [10, 10],
            'num_bins': 3000,
        },
        'hist_traj_tokenizer_cfg': {
            '_target_': 'alpamayo_r1.models.delta_tokenizer.DeltaTrajectoryTokenizer'
        },
        'expert_non_causal_attention': True,
        'keep_same_dtype': True,
    }


@torch.no_grad()
def _initialise(model: AlpamayoModel, generator: torch.Generator) -> None:
    """Norms one, biases zero, matrices normal with the deviation gain / sqrt(inputs)."""
    for name, parameter in sorted(model.named_parameters()):
        if parameter.dim() == 1:
            parameter.fill_(1.0 if name.endswith('weight') else 0.0)
        else:
            is_table = 'embed_tokens' in name or 'pos_embed' in name
            inputs = 1 if is_table else parameter[0].numel()
            gain = next((g for end, g in _GAINS.items() if name.endswith(end)), 1.0)
            parameter.copy_(_normal(parameter.shape, generator) * gain / inputs**0.5)


@torch.no_grad()
def _teach(model: AlpamayoModel, processor: Processor) -> None:
    """Make each token of the sentence follow the one before: a chain in the output head.

    The last hidden state is close to the direction of the newest token's embedding (see _GAINS),
    so a row of the head along the embedding of one token makes its own token follow that one.
    """
    text = (
        format_special('cot_start')
        + SENTENCE
        + format_special('cot_end')
        + format_special('traj_future_start')
    )
    chain = processor.tokenizer(text, add_special_tokens=False)['input_ids']
    embeddings, head = model.vlm.model.language_model.embed_tokens.weight, model.vlm.lm_head.weight
    head.zero_()
    for before, after in pairwise(chain):
        direction = embeddings[before] / embeddings[before].norm()
        head[after] = direction * _LOGIT / embeddings.shape[1] ** 0.5  # the norm ends with rms 1


def _normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)
