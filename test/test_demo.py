"""A drive through the live graph: player, node and recorder as processes of their own."""

from dataclasses import fields
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

from process_table import processes
import pytest
from rosless.benchmark import LOOPBACK
from small_bag import START_NS, drive, write, write_rig

from alpamayo_ros.bags.reader import Bag
from alpamayo_ros.cli import live
from alpamayo_ros.cli.processes import play
from alpamayo_ros.data_types import GRID_NS, NANOSECONDS, derive_seed
from alpamayo_ros.ros.parameters import NodeParameters

LIMIT_S = 60
# Participants with another tag are not seen: test runs side by side do not meet.
TAGGED = LOOPBACK.replace('<Discovery>', f'<Discovery><Tag>{os.getpid()}</Tag>')
ENVIRONMENT = os.environ | {
    'CYCLONEDDS_URI': TAGGED,
    'ROS_DOMAIN_ID': str(1 + os.getpid() % 100),
}


def run(program, *arguments):
    """A program of the package in a process of its own."""
    return subprocess.Popen(
        [sys.executable, '-m', 'rosless', f'alpamayo_ros.cli.{program}', *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start(folder, *options, seconds):
    """The live graph on a new drive; its parts are in sessions of their own."""
    bag, rig = folder / 'drive', write_rig(folder)
    write(bag, drive(seconds))
    arguments = ['--rig', rig, '--out', folder / 'out', '--engine', 'constant_velocity']
    return run('live', bag, *arguments, *options)


def wait_for(process, text):
    """Read lines up to one that has the text."""
    heard = []
    for line in process.stdout:
        heard.append(line)
        if text in line:
            return
    pytest.fail(f'no {text!r} in {heard}')


def until_gone(folder):
    """Wait until no process knows the folder of a test any more."""
    end_s = time.monotonic() + LIMIT_S
    while left := processes(folder):
        assert time.monotonic() < end_s, left
        time.sleep(0.05)


def test_a_drive_is_played_predicted_recorded_and_reported(tmp_path):
    process = start(tmp_path, '--seed', '0x7', '--finish', '1', '--json', seconds=4.0)
    text, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, text
    lines = text.splitlines()
    assert any(line.startswith('[record]') and 'predictions/s, age' in line for line in lines)
    summary = json.loads(lines[-1])
    assert summary['anchors'] == 41
    assert summary['ok'] >= 10  # of the 25 with a history of 1.6 s
    assert summary['provenance']['anchors']['inferred'] >= summary['ok']
    assert summary['horizons']['1.0']['ade_m']['mean'] < 0.01  # straight on, at constant speed
    results = [json.loads(x) for x in (tmp_path / 'out/results.jsonl').read_text().splitlines()]
    served = [line for line in results if line['status'] == 'ok']
    assert len(served) == summary['ok']
    assert all(line['seed'] == derive_seed(7, line['t0_ns']) for line in served)
    assert {check for line in served for check in line['checks']} == set()
    page, fates = (tmp_path / 'out/report.html').read_text(), summary['provenance']['anchors']
    assert '<h1>Live run of drive</h1>' in page
    assert f'; {fates["dropped"]} dropped, {fates["rejected"]} rejected, ' in page
    with Bag(tmp_path / 'out/recording') as bag:
        assert bag.count('/diagnostics') >= 3
        topic = '/alpamayo/output/path'
        stamps = [
            bag.decode(topic, payload).header.stamp for _, _, payload in bag.messages([topic])
        ]
    t0s_ns = [stamp.sec * NANOSECONDS + stamp.nanosec for stamp in stamps]
    assert len(t0s_ns) >= summary['ok']
    assert set(t0s_ns) <= {START_NS + tick * GRID_NS for tick in range(41)}
    assert processes(tmp_path) == []


def test_an_interrupt_ends_all_processes_within_two_seconds(tmp_path):
    process = start(tmp_path, seconds=30.0)
    wait_for(process, 'predictions/s, age')
    start_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert time.monotonic() - start_s < 2.0
    assert processes(tmp_path) == []
    with Bag(tmp_path / 'out/recording') as bag:
        assert bag.count('/alpamayo/output/path') > 0


def test_nothing_is_left_when_it_is_killed(tmp_path):
    process = start(tmp_path, seconds=30.0)
    wait_for(process, 'playing')
    process.kill()
    process.communicate(timeout=LIMIT_S)
    until_gone(tmp_path)


def test_a_process_that_dies_ends_all_and_what_was_recorded_is_reported(tmp_path):
    process = start(tmp_path, seconds=30.0)
    wait_for(process, 'predictions/s, age')
    (node,) = processes(f'alpamayo_ros.cli.node.*{tmp_path}')
    os.kill(node, signal.SIGKILL)
    text, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert 'alpamayo_live: node ended with status -9 before its time' in text
    assert (tmp_path / 'out/report.html').exists()
    assert processes(tmp_path) == []


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_player_with_0_and_a_line(tmp_path, number):
    bag = write(tmp_path / 'drive', drive(1.0))
    process = run('processes.play', bag, '--rig', write_rig(tmp_path))
    wait_for(process, 'waiting')
    process.send_signal(number)
    text, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert text.endswith('played 0 of 95 messages\n')


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('--seed=seven', '--seed seven: expected an integer'),
        ('seed:=seven', '--seed seven: expected an integer'),
        ('--num-samples=1.5', '--num-samples 1.5: expected an integer'),
        ('--max-skew-s=often', '--max-skew-s often: expected a number'),
        ('--greedy=perhaps', '--greedy perhaps: expected true or false'),
        ('--device=tpu', "device: 'tpu' is not one of cpu, cuda, cuda:N"),
        ('--max-rate-hz=1000', 'max_rate_hz: 1000.0 is not in 0.01 ... 100.0'),
        ('bogus:=3', 'bogus:=3: the node has no such parameter: expected one of rig, engine'),
        ('--rate=inf', '--rate inf: expected more than 0, finite'),
        ('--finish=inf', '--finish inf: expected 0 to 3600 seconds'),
    ],
)
def test_what_cannot_be_played_or_reported_starts_nothing(tmp_path, capsys, option, message):
    out = tmp_path / 'out'
    options = ['--engine', 'constant_velocity', option]
    assert live.main(['nothing', '--rig', 'r1', '--out', str(out), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'alpamayo_live: error: {message}')
    assert not out.exists()


def test_the_player_refuses_a_rate_without_an_end(capsys):
    assert play.main(['nothing', '--rig', 'r1', '--rate', 'inf']) == 2
    assert '--rate inf: expected more than 0, finite' in capsys.readouterr().err


def test_make_clean_leaves_what_neither_demo_nor_tests_have_made(tmp_path):
    shutil.copy(Path(__file__).parents[1] / 'Makefile', tmp_path)
    made, kept = tmp_path / 'out/demo/live', tmp_path / 'out/evaluation'
    for folder in (made, kept):
        folder.mkdir(parents=True)
    subprocess.run(['make', '-C', tmp_path, 'clean'], check=True)
    assert kept.is_dir() and not made.parent.exists()


def test_a_parameter_that_the_node_refuses_ends_it_with_2_and_one_line(tmp_path):
    process = start(tmp_path, 'use_sim_time:=often', seconds=2.0)
    text, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2
    assert '[node] alpamayo_node: error: ' in text
    assert text.splitlines()[-1] == 'alpamayo_live: error: node: ended with status 2'
    assert processes(tmp_path) == []


def parameters_of(*arguments):
    """The node's parameters that a command line of alpamayo_live sets."""
    fixed = ['drive', '--rig', 'r1', '--out', 'out', '--engine', 'constant_velocity']
    return live.parse([*fixed, *arguments]).parameters


def test_every_parameter_of_the_node_is_an_option_of_its_type():
    values = {row.name: row.default for row in fields(NodeParameters)}
    values |= {'checkpoint': 'small', 'recipe': 'mixed', 'greedy': True, 'engine': 'alpamayo'}
    del values['rig']
    options = [f'--{name.replace("_", "-")}={value}' for name, value in values.items()]
    assert parameters_of(*options) == values


def test_a_parameter_in_the_spelling_of_ros_is_the_option():
    spelled = parameters_of('num_samples:=3', 'max_skew_s:=0.1', 'greedy:=true')
    assert spelled == parameters_of('--num-samples', '3', '--max-skew-s', '0.1', '--greedy')
    assert spelled['num_samples'] == 3 and spelled['max_skew_s'] == 0.1 and spelled['greedy']


def test_parameters_without_an_option_go_on_to_the_node():
    quality = 'qos_overrides./odometry.subscription.depth'
    assert parameters_of(f'{quality}:=7', 'use_sim_time:=false') == {
        'engine': 'constant_velocity',
        quality: '7',
        'use_sim_time': 'false',
    }
