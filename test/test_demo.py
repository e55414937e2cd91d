"""A drive through the live graph: player, node and recorder as processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time

from rosless.benchmark import LOOPBACK
from small_bag import drive, write, write_rig

from alpamayo_ros.evaluation.bag import Bag

LIMIT_S = 60
ENVIRONMENT = os.environ | {
    'CYCLONEDDS_URI': LOOPBACK,
    'ROS_DOMAIN_ID': str(1 + os.getpid() % 100),
}


def start(folder, *options, seconds):
    """The program on a new drive; its parts are in sessions of their own."""
    bag, rig = folder / 'drive', write_rig(folder)
    write(bag, drive(seconds))
    arguments = [bag, '--rig', rig, '--out', folder / 'out', 'engine:=constant_velocity', *options]
    return subprocess.Popen(
        [sys.executable, '-m', 'rosless', 'alpamayo_ros.cli.live', *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left_over(folder):
    """Processes that still know a folder of the test."""
    return subprocess.run(['pgrep', '-f', str(folder)], capture_output=True, text=True).stdout


def test_a_drive_is_played_predicted_recorded_and_reported(tmp_path):
    process = start(tmp_path, '--finish', '1', '--json', seconds=4.0)
    text, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, text
    lines = text.splitlines()
    assert any(line.startswith('[record]') and 'predictions/s, age' in line for line in lines)
    summary = json.loads(lines[-1])
    assert summary['anchors'] == 41
    assert summary['ok'] >= 20  # of the 25 with a history of 1.6 s
    assert summary['horizons']['1.0']['ade_m']['mean'] < 0.01  # straight on, at constant speed
    results = [json.loads(x) for x in (tmp_path / 'out/results.jsonl').read_text().splitlines()]
    assert {line['status'] for line in results} == {'ok', 'rejected'}
    assert (tmp_path / 'out/report.html').stat().st_size > 10_000
    with Bag(tmp_path / 'out/recording') as bag:
        assert bag.count('/alpamayo/output/path') >= summary['ok']
        assert bag.count('/diagnostics') >= 3
    assert left_over(tmp_path) == ''


def test_an_interrupt_ends_all_processes_within_two_seconds(tmp_path):
    process = start(tmp_path, seconds=30.0)
    for line in process.stdout:
        if line.startswith('[record]') and 'predictions/s, age' in line:
            break
    start_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert time.monotonic() - start_s < 2.0
    assert left_over(tmp_path) == ''


def test_a_parameter_that_the_node_refuses_ends_it_with_2_and_one_line(tmp_path):
    process = start(tmp_path, 'device:=tpu', seconds=2.0)
    text, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2
    assert "[node] alpamayo_node: error: device: 'tpu' is not one of cpu, cuda, cuda:N" in text
    assert text.splitlines()[-1] == 'alpamayo_live: error: node: ended with status 2'
    assert left_over(tmp_path) == ''
