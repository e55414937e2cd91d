"""The checkpoints that ship, `small`, `small15` and `small-2bit`: hash, size, words, card."""

import json

import pytest

from alpamayo_ros.hub import resolve_checkpoint
from alpamayo_ros.model.checkpoint import hash_checkpoint, read_tensor_shapes
from alpamayo_ros.model.config import load_config
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.model.prompt.tokens import IMAGE_PAD, list_special_tokens
from alpamayo_ros.model.small.vlm_files import ADDED_TOKENS
from alpamayo_ros.runtime.load import load_model

BYTES = 16 * 2**20


@pytest.fixture(scope='module', params=['small', 'small15'])
def folder(root, request):
    """Return the folder of the repository."""
    return root / 'checkpoints' / request.param


@pytest.fixture(scope='module')
def card(folder):
    return json.loads((folder / 'card.json').read_text(encoding='utf-8'))


def test_its_name_leads_to_it(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_checkpoint(folder.name) == folder


def test_its_hash_is_that_of_its_card(folder, card):
    assert hash_checkpoint(folder) == card['sha256']


def test_it_is_small(folder):
    files = [file for file in folder.rglob('*') if file.is_file()]
    assert sum(file.stat().st_size for file in files if file.suffix == '.safetensors') <= BYTES
    assert sum(file.stat().st_size for file in files) <= BYTES
    assert {file.suffix for file in files} == {'.json', '.png', '.safetensors', '.txt'}


def test_it_loads_strictly_and_is_trained(folder, card):
    model = load_model(folder, 'cpu')
    assert not model.config.untrained
    assert sum(parameter.numel() for parameter in model.parameters()) == card['parameters']
    assert set(model.state_dict()) == set(read_tensor_shapes(folder))


def test_special_tokens_have_the_order_of_the_release(folder):
    """Qwen's added tokens, the discrete ones of trajectories, then Alpamayo's special tokens."""
    config = load_config(folder)
    tokenizer = Processor(config, folder).tokenizer
    added = tokenizer.convert_tokens_to_ids(list(ADDED_TOKENS))
    first = added[0]
    assert added == list(range(first, config.traj_token_start_idx))
    assert tokenizer.convert_tokens_to_ids(IMAGE_PAD) == config.image_token_id
    discrete = range(
        config.traj_token_start_idx, config.traj_token_start_idx + config.traj_vocab_size
    )
    assert tokenizer.convert_tokens_to_ids([f'<i{i}>' for i in (0, len(discrete) - 1)]) == [
        discrete[0],
        discrete[-1],
    ]
    new = [token for token in list_special_tokens(config) if token != IMAGE_PAD]
    ids = tokenizer.convert_tokens_to_ids(new)
    assert ids == list(range(discrete[-1] + 1, config.vocab_size))


def test_its_card_says_where_it_comes_from_and_what_it_is_not_for(card):
    for run in card['runs']:
        assert run['data']['split'] == 'train' and run['data']['drives'] > 0 and run['steps'] > 0
        assert set(run['losses']) == {'language', 'flow', 'path'}
    assert any('Not for a vehicle' in limit for limit in card['limits'])
    assert any('synthetic world only' in limit for limit in card['limits'])


def test_small15_is_an_alpamayo_1_5_that_began_with_small(root):
    folders = [root / 'checkpoints' / name for name in ('small', 'small15')]
    cards = [json.loads((x / 'card.json').read_text(encoding='utf-8')) for x in folders]
    assert [load_config(x).model_type for x in folders] == ['alpamayo_r1', 'alpamayo1_5']
    assert cards[1]['began_with_sha256'] == cards[0]['sha256']


def test_figures_of_the_card_of_small_are_those_of_the_published_evaluation(root):
    card = json.loads((root / 'checkpoints/small/card.json').read_text(encoding='utf-8'))
    table = json.loads((root / 'docs/results/small-evaluation.json').read_text(encoding='utf-8'))
    (row,) = (row for row in table['rows'] if row['kind'] == 'reference')
    metrics, opened, late = card['metrics'], row['open']['all'], row['closed']['0.5']
    assert (metrics['split'], metrics['closed_loop']['latency_s']) == ('test', 0.5)
    assert metrics['world_sha256'] == table['world_sha256']
    assert metrics['min_ade_6_m'] == pytest.approx(opened['min_ade_m_6.4s'], abs=1e-5)
    assert metrics['cause'] == pytest.approx(opened['text'], abs=1e-5)
    assert metrics['marker'] == pytest.approx(opened['marker'], abs=1e-5)
    assert metrics['closed_loop']['clean'] == pytest.approx(late['clean'], abs=1e-5)


def test_two_bits_are_those_of_the_checkpoint_that_ships(root):
    packed = root / 'checkpoints/small-2bit'
    config = json.loads((packed / 'config.json').read_text(encoding='utf-8'))
    made = config['quantization_config']
    assert made['source_sha256'] == hash_checkpoint(root / 'checkpoints/small')
    assert made['recipe'] == 'mixed_path4' and len(made['calibration_sha256']) == 64
    assert sum(x.stat().st_size for x in packed.rglob('*') if x.is_file()) < 6_000_000
    load_model(packed, bits=2)
