"""The card of a trained checkpoint takes its main figures from an evaluation of these weights."""

import json

import pytest

from alpamayo_ros.drives.parts import Part
from alpamayo_ros.drives.table import tabulate
from alpamayo_ros.metrics.evaluation import CLOSED_LOOP_METRICS, OCCASIONS
from alpamayo_ros.model.checkpoint import hash_checkpoint
from training.card import main

DRIVES = 40
MODEL, TURNING = 0.4, 2.0  # minADE


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with weights of one byte and a card without metrics."""
    folder = tmp_path / 'checkpoint'
    folder.mkdir()
    (folder / 'config.json').write_text('{}')
    (folder / 'model.safetensors').write_bytes(b'x')
    (folder / 'card.json').write_text('{"steps": 7, "metrics": "old"}')
    return folder


def part(row, kind, planner, value, latency_s=None):
    """A part whose every record has one value of minADE or one of all closed-loop figures."""
    loop = {'drives': DRIVES, 'split': 'test', 'seconds': 60.0, 'seed': 3}
    loop |= {'kind': 'open', 'moments': 1, 'samples': 6}
    about = {'cause': 'keep_lane', 'weather': 'day', 'marker': True, 'text': True}
    record = {'k': 1 if kind == 'baseline' else 6, 'min_ade_m_6.4s': value,
              'min_ade_1_m_6.4s': value, **about}  # fmt: skip
    if latency_s is not None:
        loop |= {'kind': 'closed', 'latency_s': latency_s, 'samples': 1}
        record = {metric.key: value for metric in CLOSED_LOOP_METRICS}
        record |= {
            'expert_m': 1.0,
            'held_back': {},
            'plans': 1,
            'cause': 'keep_lane',
            'demands': [],
            **{key: 0 for met, broken, _ in OCCASIONS for key in (met, broken)},
        }
    made_from = {'row': row, 'kind': kind, 'planner': planner, 'world': 'w', 'loop': loop}
    return Part(made_from, [{'drive': i, **record} for i in range(DRIVES)], DRIVES)


@pytest.fixture
def evaluation(checkpoint, tmp_path):
    """Return a function: closed loop's latency and hash of the weights to evaluation.json."""

    def write(latency_s=0.5, sha256=None):
        planner = {'checkpoint_sha256': sha256 or hash_checkpoint(checkpoint)}
        parts = [
            part('16 bits', 'reference', {**planner, 'bits': 16.0}, MODEL),
            part('16 bits', 'reference', {**planner, 'bits': 16.0}, 0.9, latency_s),
            part('2 bits mixed', 'model', {**planner, 'bits': 2.0}, 5.0),
            part('constant turn rate', 'baseline', {'engine': 'constant_turn_rate'}, TURNING),
        ]
        file = tmp_path / 'evaluation.json'
        file.write_text(json.dumps(tabulate(parts, rounds=20, seed=0)))
        return file

    return write


def test_figures_of_sixteen_bits_are_copied_and_the_rest_of_the_card_stays(checkpoint, evaluation):
    assert main([str(checkpoint), str(evaluation())]) == 0
    card = json.loads((checkpoint / 'card.json').read_text())
    found = card['metrics']
    assert card['steps'] == 7
    assert (found['drives'], found['seeds'], found['sampling_seed']) == (40, [0, 39], 3)
    assert found['min_ade_6_m'] == {'mean': MODEL, 'low': MODEL, 'high': MODEL, 'n': DRIVES}
    ratio = found['ratio_to_constant_turn_rate']
    assert ratio == {'mean': 0.2, 'low': 0.2, 'high': 0.2, 'n': DRIVES}
    assert found['marker']['mean'] == found['cause']['mean'] == 1.0
    assert (found['closed_loop']['latency_s'], found['closed_loop']['drives']) == (0.5, 40)
    assert found['closed_loop']['clean']['mean'] == 0.9


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'latency_s': 1.0}, 'and a closed loop 0.5 s late'),
        ({'sha256': 'f' * 64}, 'expected rows of 16 bits for sha256'),
    ],
)
def test_an_evaluation_of_something_else_is_refused(
    checkpoint, evaluation, capsys, changes, message
):
    assert main([str(checkpoint), str(evaluation(**changes))]) == 2
    assert message in capsys.readouterr().err
    assert json.loads((checkpoint / 'card.json').read_text())['metrics'] == 'old'


def test_another_file_is_refused(checkpoint, capsys):
    assert main([str(checkpoint), str(checkpoint / 'card.json')]) == 2
    assert "card.json: not a table of alpamayo_evaluate: KeyError('rows')" in (
        capsys.readouterr().err
    )
