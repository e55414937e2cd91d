"""Conversion of folders that optimum-quanto packed keeps their author's choices."""

import json
from pathlib import Path
import shutil

import pytest
from safetensors.torch import load_file, save_file
import torch

from alpamayo_ros.conversion.plan import plan_quantization
from alpamayo_ros.conversion.quantize import quantize_checkpoint
from alpamayo_ros.conversion.quanto_source import list_exceptions, read_widths
from alpamayo_ros.errors import BadInput
from alpamayo_ros.model.checkpoint import list_shard_files
from alpamayo_ros.quantization.record import parse_quantization
from alpamayo_ros.quantization.scheme import Rule, make_rules
from alpamayo_ros.runtime.load import load_model

MODEL = Path(__file__).parent / 'golden/model'
HEAD = 'vlm.lm_head'


def convert(source, target, bits, recipe='uniform'):
    job = plan_quantization(source, target, recipe, bits)
    return quantize_checkpoint(job, None, lambda what, size: None)


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
    """Return a function: bits to a folder as optimum-quanto leaves it, with a plain head."""
    home = tmp_path_factory.mktemp('packed')

    def make(bits):
        folder = home / f'quanto{bits}'
        if folder.is_dir():
            return folder
        convert(MODEL, home / f'ours{bits}', bits)
        shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns('*.npz', '*.safetensors'))
        tensors = {}
        for file in list_shard_files(home / f'ours{bits}'):
            tensors |= load_file(file)
        tensors = {name: t for name, t in tensors.items() if not name.startswith(HEAD)}
        tensors[f'{HEAD}.weight'] = load_file(MODEL / 'model.safetensors')[f'{HEAD}.weight']
        save_file(tensors, folder / 'model.safetensors')
        return folder

    return make


@pytest.mark.parametrize('bits', [8, 4, 2])
def test_layer_in_full_precision_stays_so(packed, tmp_path, bits):
    report = convert(packed(bits), tmp_path / 'out', bits)
    assert report['modules'] == {}  # nothing was quantized here
    head = load_model(tmp_path / 'out').vlm.lm_head.weight
    want = load_file(packed(bits) / 'model.safetensors')[f'{HEAD}.weight']
    assert torch.equal(head, want)
    config = json.loads((tmp_path / 'out/config.json').read_text())
    found = parse_quantization(config, 'config.json')
    assert found.bits == bits
    # at 4 bits the recipe leaves the head out by itself
    assert found.rules[: found.exceptions] == ((Rule(HEAD, 16),) if bits != 4 else ())


def test_layer_that_the_recipe_leaves_out_stays_packed(packed, tmp_path):
    """optimum-quanto packs action_out_proj where it can; `uniform` of 4 bits leaves it out."""
    source = tmp_path / 'source'
    shutil.copytree(packed(4), source)
    convert(MODEL, tmp_path / 'mixed', 2)
    tensors = load_file(source / 'model.safetensors')
    weight = tensors.pop('action_out_proj.weight')
    tensors['action_out_proj.weight._data._data'] = torch.full(
        (1, weight.shape[1]), 0x57, dtype=torch.uint8
    )
    for ending in ('_scale', '_shift'):
        tensors[f'action_out_proj.weight.{ending}'] = torch.full((2, 1), 0.1)
    save_file(tensors, source / 'model.safetensors')
    convert(source, tmp_path / 'out', 4)
    found = parse_quantization(json.loads((tmp_path / 'out/config.json').read_text()), 'here')
    assert found.rules[: found.exceptions] == (Rule('action_out_proj', 4),)
    load_model(tmp_path / 'out')


def test_entry_that_transformers_wrote_is_replaced(packed, tmp_path):
    source = tmp_path / 'source'
    shutil.copytree(packed(8), source)
    config = json.loads((source / 'config.json').read_text())
    config['quantization_config'] = {'quant_method': 'quanto', 'weights': 'int8'}
    (source / 'config.json').write_text(json.dumps(config))
    with pytest.raises(
        BadInput, match=r'packed by optimum-quanto.*alpamayo_quantize .*source OUT'
    ):
        load_model(source)
    convert(source, tmp_path / 'out', 8)
    load_model(tmp_path / 'out')


def test_packed_folder_given_directly_says_how_to_convert(packed):
    with pytest.raises(BadInput) as error:
        load_model(packed(8))
    assert str(error.value) == (
        f'{packed(8)}: packed by optimum-quanto, expected a release or a folder of '
        f'alpamayo_quantize: convert it first: alpamayo_quantize {packed(8)} OUT '
        '--recipe uniform --bits N'
    )


@pytest.mark.parametrize('method', ['gptq', 'awq', 'bitsandbytes', 'compressed-tensors'])
def test_other_tools_are_named(tmp_path, method):
    source = tmp_path / 'source'
    shutil.copytree(MODEL, source, ignore=shutil.ignore_patterns('*.npz'))
    config = json.loads((source / 'config.json').read_text())
    config['quantization_config'] = {'quant_method': method, 'bits': 4}
    (source / 'config.json').write_text(json.dumps(config))
    for use in (load_model, lambda folder: convert(folder, tmp_path / 'out', 8)):
        with pytest.raises(BadInput, match=f'quantized by {method}, expected a release'):
            use(source)


@pytest.mark.parametrize('bits', [4, 2])
def test_other_width_than_the_source_has_is_refused(packed, tmp_path, bits):
    with pytest.raises(BadInput, match=r'packed most layers at 8 bits.*--recipe uniform --bits 8'):
        convert(packed(8), tmp_path / 'out', bits)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('dtype', [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8])
def test_codes_of_eight_bits_that_are_no_int8_are_refused(dtype):
    tensors = {
        'a.weight._data': torch.zeros(4, 8).to(dtype),
        'a.weight._scale': torch.ones(4, 1),
    }
    with pytest.raises(BadInput, match=r'a\.weight\._data: codes .* expected torch\.int8'):
        read_widths(tensors, tensors.__getitem__)


@pytest.mark.parametrize(('groups', 'rows', 'bits'), [(64, 32, 4), (64, 16, 2), (7, 4, 4)])
def test_width_is_read_from_the_groups_of_a_byte(groups, rows, bits):
    tensors = {
        'a.weight._data._data': torch.zeros(rows, 32, dtype=torch.uint8),
        'a.weight._scale': torch.ones(groups, 1),
    }
    assert read_widths(tensors, tensors.__getitem__) == {'a': bits}


def test_tables_are_no_choice_of_the_author():
    """optimum-quanto packs linear layers only: an embedding follows the recipe."""
    table = 'vlm.model.language_model.embed_tokens'
    shapes = {f'{table}.weight': (8, 8), f'{HEAD}.weight': (8, 8)}
    widths = {'expert.layers.0.mlp.up_proj': 2.0}
    found = list_exceptions(shapes, widths, make_rules('mixed', 2), 'here')
    assert found == (Rule(HEAD, 16),)
    assert list_exceptions(shapes, {}, make_rules('mixed', 2), 'here') == ()
