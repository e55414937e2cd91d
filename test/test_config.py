"""config.json: the allow-list of classes, tolerated extras, the geometry of known VLMs."""

import copy
import json
from pathlib import Path

import pytest
import torch

from alpamayo_ros.errors import BadInput
from alpamayo_ros.model.action_expert import PerWaypointActionInProjV2
from alpamayo_ros.model.action_space import UnicycleAccelCurvatureActionSpace
from alpamayo_ros.model.alpamayo import AlpamayoModel
from alpamayo_ros.model.blocks import build_block
from alpamayo_ros.model.config import load_config, parse_config
from alpamayo_ros.model.flow_matching import FlowMatching
from alpamayo_ros.model.prompt.trajectory_tokenizer import (
    DeltaTrajectoryTokenizer,
    DiscreteTrajectoryTokenizer,
)

GOLDEN = Path(__file__).parent / 'golden'
ACTION_SPACE = {'accel_std': 0.5}


@pytest.fixture
def release() -> dict:
    return json.loads((GOLDEN / 'config_10b.json').read_text())


@pytest.mark.parametrize('prefix', ['alpamayo_r1', 'alpamayo1_5'])
@pytest.mark.parametrize(
    ('name', 'arguments', 'ours'),
    [
        ('action_space.UnicycleAccelCurvatureActionSpace', {}, UnicycleAccelCurvatureActionSpace),
        (
            'action_space.unicycle_accel_curvature.UnicycleAccelCurvatureActionSpace',
            {},
            UnicycleAccelCurvatureActionSpace,
        ),
        ('models.delta_tokenizer.DeltaTrajectoryTokenizer', {}, DeltaTrajectoryTokenizer),
        (
            'models.action_in_proj.PerWaypointActionInProjV2',
            {'out_dim': 8},
            PerWaypointActionInProjV2,
        ),
        ('diffusion.flow_matching.FlowMatching', {'x_dims': None}, FlowMatching),
    ],
)
def test_released_class_names_build_our_classes(prefix, name, arguments, ours):
    assert type(build_block({'_target_': f'{prefix}.{name}', **arguments})) is ours


def test_discrete_tokenizer_builds_its_action_space_from_the_nested_block():
    block = {
        '_target_': 'alpamayo_r1.action_space.discrete_action_space.DiscreteTrajectoryTokenizer',
        '_recursive_': False,
        'num_bins': 100,
        'action_space_cfg': {
            '_target_': 'alpamayo1_5.action_space.UnicycleAccelCurvatureActionSpace',
            **ACTION_SPACE,
        },
    }
    tokenizer = build_block(block)
    assert isinstance(tokenizer, DiscreteTrajectoryTokenizer)
    assert tokenizer.vocab_size == 100
    assert float(tokenizer.action_space.accel_std) == 0.5


def test_linear_takes_its_sizes_from_the_caller():
    linear = build_block({'_target_': 'torch.nn.Linear'}, in_features=6, out_features=2)
    assert isinstance(linear, torch.nn.Linear)
    assert linear.weight.shape == (2, 6)


def test_unknown_keys_of_a_block_are_tolerated():
    flow = build_block(
        {
            '_target_': 'alpamayo_r1.diffusion.flow_matching.FlowMatching',
            'num_inference_steps': 4,
            'x_dims': [64, 2],
            'some_new_key': 'x',
        }
    )
    assert flow.num_inference_steps == 4


@pytest.mark.parametrize(
    'target', ['os.system', 'alpamayo_r1.models.base.Evil', 'torch.nn.Conv2d', 'builtins.eval']
)
def test_other_class_is_refused_by_name_wherever_it_stands(release, target):
    release['extra_block'] = {'list': [{'_target_': target}]}
    with pytest.raises(BadInput, match=target.replace('.', r'\.')):
        parse_config(release)


def test_interpolation_is_refused(release):
    release['diffusion_cfg']['int_method'] = '${oc.env:HOME}'
    with pytest.raises(BadInput, match='interpolation'):
        parse_config(release)


def test_extra_keys_of_config_and_expert_are_tolerated(release):
    release['expert_cfg']['dtype'] = 'bfloat16'
    release['something_new'] = {'a': 1}
    assert parse_config(release).expert.hidden_size == 2048


@pytest.mark.parametrize('key', ['vocab_size', 'expert_cfg', 'traj_token_start_idx'])
def test_missing_key_is_named(release, key):
    del release[key]
    with pytest.raises(BadInput, match=key):
        parse_config(release)


def test_other_model_type_is_refused(release):
    release['model_type'] = 'llama'
    with pytest.raises(BadInput, match='llama'):
        parse_config(release)


def test_expert_that_cannot_read_the_cache_is_refused(release):
    release['expert_cfg']['head_dim'] = 64
    with pytest.raises(BadInput, match='head_dim'):
        parse_config(release)


def test_known_vlm_name_needs_no_files(release):
    text = parse_config(release).text
    assert (text.num_hidden_layers, text.hidden_size, text.mrope_section) == (
        36,
        4096,
        (24, 20, 20),
    )


def test_unknown_vlm_name_says_where_was_looked(release, tmp_path):
    release['vlm_name_or_path'] = 'somebody/other-vlm'
    with pytest.raises(BadInput, match='somebody/other-vlm'):
        parse_config(release, tmp_path)


@pytest.mark.parametrize('name', ['vlm', '', None])
def test_checkpoint_without_its_vlm_is_named(release, tmp_path, name):
    release['vlm_name_or_path'] = name
    (tmp_path / 'config.json').write_text(json.dumps(release))
    with pytest.raises(BadInput) as error:
        load_config(tmp_path)
    message = str(error.value)
    assert message.startswith(f'{tmp_path}/config.json: ') and '\n' not in message
    assert 'expected a folder vlm/ beside it, or' in message and 'vlm_name_or_path' in message


def test_own_vlm_folder_comes_before_the_name(release, tmp_path):
    vlm = json.loads((GOLDEN / 'model/vlm/config.json').read_text())
    (tmp_path / 'vlm').mkdir()
    (tmp_path / 'vlm/config.json').write_text(json.dumps(vlm))
    release['expert_cfg'] = {'hidden_size': 48, 'intermediate_size': 72, 'num_attention_heads': 2}
    (tmp_path / 'config.json').write_text(json.dumps(release))
    assert load_config(tmp_path).text.hidden_size == vlm['text_config']['hidden_size']


def test_rope_parameters_of_transformers_5_are_read(release, tmp_path):
    vlm = json.loads((GOLDEN / 'model/vlm/config.json').read_text())
    text = vlm['text_config']
    text['rope_parameters'] = {
        'rope_theta': text.pop('rope_theta'),
        **text.pop('rope_scaling'),
    }
    (tmp_path / 'vlm').mkdir()
    (tmp_path / 'vlm/config.json').write_text(json.dumps(vlm))
    config = copy.deepcopy(release)
    config['expert_cfg'] = {'hidden_size': 48, 'intermediate_size': 72, 'num_attention_heads': 2}
    parsed = parse_config(config, tmp_path)
    assert parsed.text.rope_theta == 5e6
    assert parsed.text.mrope_section == (4, 2, 2)


def test_broken_json_names_the_file(tmp_path):
    (tmp_path / 'config.json').write_text('{')
    with pytest.raises(BadInput, match='config.json'):
        load_config(tmp_path)


def test_full_size_model_has_the_names_and_shapes_of_the_release(release):
    want = json.loads((GOLDEN / 'state_dict_10b.json').read_text())
    with torch.device('meta'):
        model = AlpamayoModel(parse_config(release))
    have = {name: list(t.shape) for name, t in model.state_dict().items()}
    assert have == {name: entry['shape'] for name, entry in want['tensors'].items()}
    assert len(have) == 1166
    assert sum(p.numel() for p in model.parameters()) == 11_078_526_194
