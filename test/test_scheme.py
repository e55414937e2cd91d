"""The table of widths and the recipes: group rule, padding, exact bytes of the release."""

import json
from pathlib import Path

import pytest
import torch

from alpamayo_ros.errors import BadInput
from alpamayo_ros.kernels.packing import (
    PackedMatrix,
    count_digits,
    pack,
    unpack_codes,
    unpack_rows,
)
from alpamayo_ros.quantization.record import KEY, parse_quantization
from alpamayo_ros.quantization.scheme import (
    RECIPES,
    SCHEMES,
    Rule,
    choose_recipe,
    count_bytes,
    find_rule,
    make_rules,
    parse_rules,
)
from alpamayo_ros.ros.parameters import BITS

GOLDEN = Path(__file__).parent / 'golden'
PACKED = [scheme for scheme in SCHEMES.values() if 0 < scheme.levels < 256]
LAYER = 'vlm.model.language_model.layers.0.'


@pytest.fixture(scope='module')
def release():
    """Return names and shapes of the release's tensors."""
    tensors = json.loads((GOLDEN / 'state_dict_10b.json').read_text())['tensors']
    return [(name, entry['shape']) for name, entry in tensors.items()]


@pytest.mark.parametrize('scheme', PACKED, ids=lambda s: f'{s.bits:g}')
def test_every_code_comes_back_from_the_packed_bytes(scheme):
    each = count_digits(scheme.levels)
    codes = torch.randint(0, scheme.levels, (each, 7, 32), dtype=torch.uint8)
    packed = pack(codes, scheme.levels)
    assert packed.shape == (7, 32)
    one, none = torch.ones(each * 7, 1), torch.zeros(each * 7, 1)
    dense = unpack_rows(PackedMatrix(packed, one, none, scheme.levels), 32, torch.arange(each * 7))
    assert torch.equal(dense, codes.flatten(0, 1).to(torch.float32))


@pytest.mark.parametrize('levels', [5, 6, 8])
def test_widths_that_are_not_in_the_table_are_packed_as_well(levels):
    each = count_digits(levels)
    codes = torch.arange(each * 7 * 32, dtype=torch.uint8).reshape(each, 7, 32) % levels
    found = unpack_codes(pack(codes, levels), levels, torch.arange(each * 7))
    assert torch.equal(found, codes.flatten(0, 1))


def test_the_node_offers_every_width():
    assert sorted(BITS) == sorted(SCHEMES)


@pytest.mark.parametrize(
    ('columns', 'group'),
    [(4096, 128), (12288, 128), (1152, 128), (8256, 96), (4304, 4304), (128, 128), (60, 60)],
)
def test_groups_follow_the_rule_of_quanto(columns, group):
    assert SCHEMES[2].group_size(columns) == group
    assert SCHEMES[8].group_size(columns) == columns


def test_a_quarter_of_the_rows_is_a_view_of_the_bytes():
    """Byte row j of [N/4, K] holds rows j, j + N/4, ... where 4 divides N."""
    shapes = SCHEMES[2].list_shapes(4096, 8256)
    assert shapes['._data._data'] == (4096 * 8256 // 96 // 4, 96)
    assert torch.empty(shapes['._data._data']).view(1024, 8256).shape == (1024, 8256)


def test_padded_heights_of_the_vocabulary():
    rules = make_rules('mixed', 2)
    assert find_rule('vlm.lm_head', rules).pad(155697) == 155776
    assert find_rule('vlm.model.language_model.embed_tokens', rules).pad(155697) == 155776
    assert find_rule('vlm.lm_head', make_rules('uniform', 2)).pad(155697) == 155697
    assert Rule('*', 1.58).pad(4096) == 4100


@pytest.mark.parametrize(
    ('recipe', 'total'),
    [
        ('mixed', 3_863_950_856),
        ('mixed_expert4', 4_433_720_840),
        ('mixed_attention4', 4_148_994_024),
        ('mixed_path4', 4_151_353_320),
    ],
)
def test_bytes_of_the_release(recipe, total, release):
    rules = make_rules(recipe, 2)
    assert sum(count_bytes(rules, release, padded=False).values()) == total
    both_tables = 2 * 79 * (4096 // 2 + 4 * 4096 // 128)  # 79 rows of padding
    assert sum(count_bytes(rules, release).values()) == total + both_tables


def test_bytes_of_plain_and_uniform_releases(release):
    def gigabytes(bits):
        return sum(count_bytes(make_rules('uniform', bits), release).values()) / 1e9

    assert round(gigabytes(16), 3) == 22.157
    assert round(gigabytes(2), 3) == 4.223


def test_mixed_keeps_what_few_bits_hurt_most():
    def bits(module, recipe='mixed'):
        return find_rule(module, make_rules(recipe, 2)).bits

    assert bits(LAYER + 'mlp.down_proj') == bits('expert.layers.0.mlp.down_proj') == 2
    assert bits('expert.layers.0.mlp.down_proj', 'mixed_expert4') == 4
    assert bits('vlm.lm_head') == bits('vlm.model.language_model.embed_tokens') == 4
    assert bits('vlm.model.visual.blocks.0.mlp.linear_fc2') == 8
    assert bits(LAYER + 'self_attn.o_proj') == 2
    kept = ['vlm.model.visual.pos_embed', 'action_out_proj', 'action_in_proj.encoder.trunk.0']
    assert [bits(name) for name in kept] == [16, 16, 16]


def test_attention_and_path_are_paid_for_with_the_vision_tower():
    def bits(module, recipe=None):
        recipe = recipe or choose_recipe(2, is_calibrated=True)
        return find_rule(module, make_rules(recipe, 2)).bits

    attention = 'mixed_attention4'
    assert bits(LAYER + 'self_attn.q_proj', attention) == 4
    assert bits('expert.layers.0.self_attn.o_proj', attention) == 4
    assert bits(LAYER + 'mlp.down_proj', attention) == 2
    assert bits('expert.layers.0.mlp.down_proj', attention) == 2
    assert bits(LAYER + 'self_attn.k_proj') == bits(LAYER + 'self_attn.v_proj') == 4
    assert bits(LAYER + 'self_attn.q_proj') == bits(LAYER + 'mlp.down_proj') == 2
    assert bits('expert.layers.0.self_attn.q_proj') == 4
    assert bits('expert.layers.0.mlp.up_proj') == bits('expert.layers.0.mlp.down_proj') == 4
    assert bits('expert.layers.0.mlp.gate_proj') == 2
    for recipe in (attention, 'mixed_path4'):
        assert bits('vlm.model.visual.blocks.0.mlp.linear_fc1', recipe) == 4
        assert bits('vlm.model.visual.blocks.0.mlp.linear_fc2', recipe) == 8  # one scale for 4304
        assert (
            bits('vlm.model.visual.merger.linear_fc2', recipe) == bits('vlm.lm_head', recipe) == 4
        )
    assert choose_recipe(2) == choose_recipe(4, is_calibrated=True) == 'mixed'
    assert choose_recipe(1.58) == 'mixed'


@pytest.mark.parametrize('bits', SCHEMES)
@pytest.mark.parametrize('recipe', RECIPES)
def test_rules_survive_the_config_file(recipe, bits):
    rules = make_rules(recipe, bits)
    written = json.loads(json.dumps({rule.pattern: rule.to_json() for rule in rules}))
    assert parse_rules(written, 'config.json') == rules


@pytest.mark.parametrize('recipe', [['mixed'], None, 'best'])
def test_a_recipe_in_a_checkpoint_that_is_none_is_refused(recipe):
    raw = {'format_version': 1, 'recipe': recipe, 'modules': {}, 'solver': '', 'source_sha256': ''}
    with pytest.raises(BadInput, match=r'^config\.json: recipe .* is not one of: uniform, mixed'):
        parse_quantization({KEY: raw}, 'config.json')


def test_unknown_widths_and_recipes_are_named():
    with pytest.raises(BadInput, match=r'bits=3 is not one of: 16, 8, 4, 2, 1\.58'):
        make_rules('mixed', 3)
    with pytest.raises(BadInput, match="'best' is not one of: uniform, mixed"):
        make_rules('best', 2)
    entry = Rule('*', 2).to_json()
    for changed in ({'bits': 3}, {'group': 64}, {'layout': 'gptq'}, {'padded_rows': 0}):
        with pytest.raises(BadInput, match=r"config\.json: '\*'"):
            parse_rules({'*': entry | changed}, 'config.json')
