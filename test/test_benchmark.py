"""alpamayo_benchmark: what it prints; no test looks at how fast it was."""

import json

import small_bag
import torch

from alpamayo_ros.cli.benchmark import main
from alpamayo_ros.evaluation.engine_benchmark import RELEASE
from alpamayo_ros.model.config import parse_config
from alpamayo_ros.runtime.load import build_on_meta


def test_context_ends_with_one_line_of_json(capsys):
    assert main(['context', '--contexts', '30']) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document['n'] == 30
    assert document['contexts_per_s'] > 0
    assert set(document['context_ms']) == {'p50', 'p90', 'max'}
    assert {'machine', 'versions', 'peak_rss_mb'} <= set(document)


def test_count_below_one_is_refused(capsys):
    assert main(['context', '--contexts', '0']) == 2
    assert capsys.readouterr().err == (
        'alpamayo_benchmark: error: --contexts 0: expected 1 or more\n'
    )


def test_replay_ends_with_one_line_of_json(tmp_path, capsys):
    bag = small_bag.write(tmp_path / 'bag', small_bag.drive(3))
    rig = small_bag.write_rig(tmp_path)
    more = ['--rig', str(rig), '--engine', 'constant_velocity', '--contexts', '5']
    assert main(['replay', str(bag), *more]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document['n'] == 5
    assert document['contexts_per_s'] > 0
    assert document['total_ms']['p50'] > 0


def test_engine_measures_every_stage_of_the_small_model(capsys):
    assert main(['engine', '--samples', '2']) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    stages = document['eager K=2']
    assert {'vision', 'prefill', 'token', 'flow_step', 'end_to_end'} <= set(stages)
    assert all(stages[stage] > 0 for stage in ('vision', 'prefill', 'token', 'flow_step'))
    assert document['bytes']['embedding'] == document['bytes']['head'] > 0


def test_full_size_has_the_parameters_of_the_release(root):
    """Sizes of the benchmark's own description against the reference list of tensors."""
    want = json.loads((root / 'test/golden/state_dict_10b.json').read_text())
    model = build_on_meta(parse_config(RELEASE))
    have = {name: list(t.shape) for name, t in model.state_dict().items()}
    assert have == {name: entry['shape'] for name, entry in want['tensors'].items()}


def test_absent_device_is_said_in_one_line(capsys):
    assert main(['engine', '--device', 'cuda:99' if torch.cuda.is_available() else 'cuda']) == 2
    assert 'alpamayo_benchmark: error: device' in capsys.readouterr().err
