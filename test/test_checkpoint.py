"""Loading weights: strict names and shapes, 1.5 without buffers, files not to be trusted."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
import torch

from alpamayo_ros.errors import BadInput
from alpamayo_ros.model.checkpoint import hash_checkpoint, list_shard_files
from alpamayo_ros.runtime.load import load_model

MODEL = Path(__file__).parent / 'golden/model'
BUFFERS = [
    'action_in_proj.sinus.0.freqs',
    'action_in_proj.sinus.1.freqs',
    'action_in_proj.timestep_fourier_encoder.freqs',
    'action_space.accel_mean',
    'action_space.accel_std',
    'action_space.curvature_mean',
    'action_space.curvature_std',
]


def change(folder, edit):
    """Replace the file by an edited one; models that map the old one keep it."""
    tensors = load_file(folder / 'model.safetensors')
    edit(tensors)
    save_file(tensors, folder / 'changed')
    (folder / 'changed').replace(folder / 'model.safetensors')


def shard(folder, names):
    """Split the file in two, with an index of the given file names."""
    tensors = load_file(folder / 'model.safetensors')
    keys = sorted(tensors)
    mapping = {}
    for i, name in enumerate(names):
        part = {k: tensors[k] for k in keys[i :: len(names)]}
        if '/' not in name:
            save_file(part, folder / name)
        mapping |= dict.fromkeys(part, name)
    (folder / 'model.safetensors').unlink()
    index = folder / 'model.safetensors.index.json'
    index.write_text(json.dumps({'metadata': {}, 'weight_map': mapping}))


def test_every_tensor_of_the_file_is_in_the_model(checkpoint_copy):
    state = load_model(checkpoint_copy).state_dict()
    for name, want in load_file(checkpoint_copy / 'model.safetensors').items():
        assert torch.equal(state[name], want), name


def test_shards_load_like_one_file(checkpoint_copy):
    whole = load_model(checkpoint_copy).state_dict()
    shard(
        checkpoint_copy, ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    )
    parts = load_model(checkpoint_copy).state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_version_1_5_leaves_buffers_out_and_they_come_from_the_config(checkpoint_copy):
    whole = load_model(checkpoint_copy)

    def drop(tensors):
        for name in BUFFERS:
            del tensors[name]

    change(checkpoint_copy, drop)
    rebuilt = load_model(checkpoint_copy)
    for name in BUFFERS:
        assert torch.allclose(rebuilt.state_dict()[name], whole.state_dict()[name], rtol=1e-6)


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (lambda t: t.pop('expert.norm.weight'), r'1 missing \(expert\.norm\.weight\)'),
        (lambda t: t.update(extra=torch.zeros(1)), r'1 unexpected \(extra\)'),
        (
            lambda t: t.update({'expert.norm.weight': torch.zeros(7)}),
            r'expert\.norm\.weight is \[7\], expected \[48\]',
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(checkpoint_copy, edit, message):
    change(checkpoint_copy, edit)
    with pytest.raises(BadInput, match=message):
        load_model(checkpoint_copy)


def test_truncated_file_is_named(checkpoint_copy):
    path = checkpoint_copy / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BadInput, match='model.safetensors'):
        load_model(checkpoint_copy)


@pytest.mark.parametrize('name', ['../outside.safetensors', '/etc/passwd', 'weights.bin'])
def test_index_cannot_name_a_file_outside_the_folder(checkpoint_copy, name):
    shard(checkpoint_copy, ['model-1.safetensors', '../x.safetensors'])
    index = checkpoint_copy / 'model.safetensors.index.json'
    index.write_text(json.dumps({'weight_map': {'a': name}}))
    with pytest.raises(BadInput, match='is not a safetensors file of this folder'):
        list_shard_files(checkpoint_copy)


def test_missing_shard_is_named(checkpoint_copy):
    shard(checkpoint_copy, ['model-1.safetensors', 'model-2.safetensors'])
    (checkpoint_copy / 'model-2.safetensors').unlink()
    with pytest.raises(BadInput, match=r'model-2\.safetensors: no such file'):
        load_model(checkpoint_copy)


def test_tensor_in_two_shards_is_refused(checkpoint_copy):
    shard(checkpoint_copy, ['model-1.safetensors', 'model-2.safetensors'])
    save_file(
        load_file(checkpoint_copy / 'model-1.safetensors'), checkpoint_copy / 'model-2.safetensors'
    )
    with pytest.raises(BadInput, match=r'also in model-1\.safetensors'):
        load_model(checkpoint_copy)


def test_pickled_weights_are_not_opened(checkpoint_copy):
    (checkpoint_copy / 'model.safetensors').unlink()
    torch.save({}, checkpoint_copy / 'pytorch_model.bin')
    with pytest.raises(BadInput, match=r'model\.safetensors: no such file'):
        load_model(checkpoint_copy)


def test_absent_folder_and_device_are_named(tmp_path):
    with pytest.raises(BadInput, match='nowhere'):
        load_model(tmp_path / 'nowhere')
    with pytest.raises(BadInput, match='tpu'):
        load_model(MODEL, 'tpu')


def test_hash_changes_with_a_single_weight(checkpoint_copy):
    before = hash_checkpoint(checkpoint_copy)

    def nudge(tensors):
        tensors['expert.norm.weight'][0] += 1e-3

    change(checkpoint_copy, nudge)
    assert hash_checkpoint(checkpoint_copy) != before


NORM = 'vlm.model.language_model.layers.0.input_layernorm.weight'
DOWN = 'expert.layers.0.mlp.down_proj.weight'


@pytest.mark.parametrize(
    ('name', 'put', 'message'),
    [
        (DOWN, lambda x: x[0, :3].fill_(torch.nan), '3 of {n} values are NaN or infinite'),
        (DOWN, lambda x: x[1, 2:3].fill_(-torch.inf), '1 of {n} values are NaN or infinite'),
        (NORM, lambda x: x.zero_(), '{n} of {n} values are zero'),
        ('action_space.accel_std', lambda x: x.zero_(), '1 of 1 values are zero or negative'),
        ('action_space.curvature_std', lambda x: x.neg_(), '1 of 1 values are zero or negative'),
    ],
)
def test_values_that_no_weight_has_are_named(checkpoint_copy, name, put, message):
    count = load_file(checkpoint_copy / 'model.safetensors')[name].numel()
    change(checkpoint_copy, lambda tensors: put(tensors[name]))
    with pytest.raises(BadInput) as refusal:
        load_model(checkpoint_copy)
    start = f'{checkpoint_copy}/model.safetensors: {name}: '
    assert str(refusal.value).startswith(start + message.format(n=f'{count:,}'))
    with pytest.raises(BadInput, match='values are'):
        load_model(checkpoint_copy, bits=8)


def test_values_above_the_dtype_of_the_config_are_named(checkpoint_copy):
    change(checkpoint_copy, lambda tensors: tensors[DOWN][0, :2].fill_(70_000))
    load_model(checkpoint_copy)
    path = checkpoint_copy / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'dtype': 'float16'}))
    with pytest.raises(BadInput, match=f'{DOWN}: 2 of .* are above 65504, the largest of'):
        load_model(checkpoint_copy)


def test_zeros_that_a_weight_may_have_are_loaded(checkpoint_copy):
    change(checkpoint_copy, lambda tensors: (tensors[DOWN].zero_(), tensors[NORM][1:].zero_()))
    state = load_model(checkpoint_copy).state_dict()
    assert not state[DOWN].any() and state[NORM].any()
