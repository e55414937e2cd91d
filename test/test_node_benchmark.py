"""alpamayo_benchmark node: what it prints; no test looks at how fast it was."""

import json
import os
import subprocess
import sys

from process_table import processes
from rosless.benchmark import LOOPBACK

from alpamayo_ros.cli.benchmark import main

ENVIRONMENT = {'CYCLONEDDS_URI': LOOPBACK, 'ROS_DOMAIN_ID': str(224 + os.getpid() % 9)}


def test_a_run_ends_with_one_line_of_json_and_leaves_no_node_behind():
    command = [sys.executable, '-m', 'rosless', 'alpamayo_ros.cli.benchmark', 'node']
    run = subprocess.run(
        [*command, '--seconds', '2'],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout.splitlines()[-1])
    assert 200_000 < document['image_bytes'] < 300_000
    assert document['cpu_percent_of_a_core'] > 0
    assert 0 < document['submit_p50_ms'] <= document['submit_p99_ms']
    assert document['submit_p50_ms'] < document['stamp_to_path_p50_ms']
    assert document['paths_per_s'] > 5
    assert document['anchors']['inferred'] <= document['anchors']['seen']
    assert processes('__node:=alpamayo_benchmarked') == []


def test_less_than_a_second_is_refused(capsys):
    assert main(['node', '--seconds', '0']) == 2
    assert capsys.readouterr().err == (
        'alpamayo_benchmark: error: --seconds 0: expected 1 or more\n'
    )
