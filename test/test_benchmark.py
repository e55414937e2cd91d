"""alpamayo_benchmark: what it prints; no test looks at how fast it was."""

import json

import small_bag

from alpamayo_ros.cli.benchmark import main


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
