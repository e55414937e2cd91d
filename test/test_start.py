"""Starting an engine: what it expects of a checkpoint, and one line for what it cannot use."""

import json
import shutil

from golden_scene import MODEL
import pytest
import small_bag
import torch

from alpamayo_ros.cli.quantize import main as quantize
from alpamayo_ros.cli.replay import main as replay
from alpamayo_ros.data_types import SamplingOptions
from alpamayo_ros.errors import BadInput
from alpamayo_ros.quantization.linear import QuantLinear
from alpamayo_ros.quantization.scheme import SCHEMES, choose_recipe
from alpamayo_ros.rig import load_rig
from alpamayo_ros.runtime import memory
from alpamayo_ros.runtime.start import EngineChoice, start_engine

OPTIONS = SamplingOptions(greedy=True, max_tokens=8)


@pytest.fixture(scope='module')
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp('mixed') / 'checkpoint'
    arguments = ['--bits', '2', '--recipe', 'mixed', '--solver', 'minmax']
    assert quantize([str(MODEL), str(folder), *arguments]) == 0
    return folder


@pytest.fixture
def copy(mixed, tmp_path):
    return shutil.copytree(mixed, tmp_path / 'copy')


def start(checkpoint, bits, recipe=''):
    choice = EngineChoice('alpamayo', str(checkpoint), 'cpu', float(bits), recipe, OPTIONS)
    return start_engine(choice, load_rig('synthetic'))


@pytest.mark.parametrize('bits', SCHEMES)
def test_plain_checkpoint_is_brought_to_the_width_that_the_node_asks_for(bits):
    engine = start(MODEL, bits)
    layer = engine.model.vlm.model.language_model.layers[0].mlp.down_proj
    assert isinstance(layer, QuantLinear) == (bits < 16)
    if bits < 16:
        assert layer.weight.levels == SCHEMES[bits].levels
    assert (engine.provenance()['bits'], engine.provenance()['recipe']) == (
        bits,
        choose_recipe(bits) if bits < 16 else '',
    )


def test_quantized_checkpoint_serves_any_recipe_or_the_one_that_is_named(mixed):
    for recipe in ('', 'mixed'):
        assert start(mixed, 2, recipe).plan.recipe == 'mixed'
    with pytest.raises(BadInput, match='quantized to 2 bits, bits=16 was asked for'):
        start(mixed, 16)
    with pytest.raises(BadInput, match="its recipe is 'mixed', 'uniform' was asked for"):
        start(mixed, 2, 'uniform')


def test_quantization_that_nobody_here_wrote_is_refused(copy):
    config = json.loads((copy / 'config.json').read_text())
    config['quantization_config'] = {'quant_method': 'quanto', 'weights': 'int2'}
    (copy / 'config.json').write_text(json.dumps(config))
    with pytest.raises(BadInput, match='packed by optimum-quanto, expected a release'):
        start(copy, 2)


@pytest.fixture(scope='module')
def drive(tmp_path_factory):
    folder = tmp_path_factory.mktemp('drive')
    return small_bag.write(folder / 'bag', small_bag.drive(3)), small_bag.write_rig(folder)


def refused(drive, out, checkpoint, *more):
    """Run a replay that must fail; nothing is written."""
    arguments = [drive[0], '--rig', drive[1], '--out', out, '--checkpoint', checkpoint, *more]
    assert replay([str(argument) for argument in arguments]) == 2
    assert list(out.rglob('*')) == []


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (('--bits', '3'), 'bits=3 is not one of: 16, 8, 4, 2, 1.58'),
        (('--bits', '4'), 'quantized to 2 bits, bits=4 was asked for'),
        (('--recipe', 'best'), "recipe 'best' is not one of: uniform, mixed, mixed_expert4, "),
        (('--recipe', 'uniform'), "its recipe is 'mixed', 'uniform' was asked for"),
        (('--device', 'tpu'), "device 'tpu' is not one of: cpu, cuda, cuda:N"),
        pytest.param(
            ('--device', 'cuda'),
            'sees no CUDA device',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='has a CUDA device'),
        ),
        (('--device', 'cuda:99'), "device 'cuda:99'"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(drive, mixed, tmp_path, capsys, more, message):
    refused(drive, tmp_path / 'out', mixed, *more)
    last = capsys.readouterr().err.splitlines()
    assert len(last) == 1 and last[0].startswith('alpamayo_replay: error: ')
    assert message in last[0]


def test_recipe_alone_does_not_say_how_to_quantize(drive, tmp_path, capsys):
    refused(drive, tmp_path / 'out', MODEL, '--recipe', 'mixed')
    assert "not quantized; recipe='mixed' needs bits as well" in capsys.readouterr().err


def test_truncated_shard_is_one_line(drive, copy, tmp_path, capsys):
    file = copy / 'model-00001-of-00001.safetensors'
    file.write_bytes(file.read_bytes()[:-1000])
    refused(drive, tmp_path / 'out', copy)
    (line,) = capsys.readouterr().err.splitlines()
    assert f'{file}: 755,168 of 756,168 bytes: the download or copy was cut short' in line


def test_wrong_hash_is_one_line(drive, copy, tmp_path, capsys):
    file = copy / 'model-00001-of-00001.safetensors'
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    refused(drive, tmp_path / 'out', copy)
    (line,) = capsys.readouterr().err.splitlines()
    assert f'{file}: its sha256 is' in line


def test_too_little_memory_is_one_line(drive, mixed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, 'read_available_bytes', lambda device: 10_000_000)
    refused(drive, tmp_path / 'out', mixed)
    (line,) = capsys.readouterr().err.splitlines()
    assert f'{mixed}: needs 0.4' in line and '0.01 GB are available on cpu' in line


def test_replay_brings_a_plain_checkpoint_to_a_width(drive, tmp_path):
    arguments = [*drive[:1], '--rig', drive[1], '--out', tmp_path / 'out', '--checkpoint', MODEL]
    arguments += ['--bits', '2', '--host-embedding', '--max-tokens', '4', '--greedy']
    assert replay([str(argument) for argument in arguments]) in (0, 1)
    run = json.loads((tmp_path / 'out/run.json').read_text())
    assert (run['engine']['bits'], run['engine']['recipe']) == (2, 'mixed')
