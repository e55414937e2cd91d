"""What becomes importable, how a program is started, and that a real rclpy comes first."""

import importlib
import json
import os
import subprocess
import sys

import pytest


def run(*arguments, **options):
    command = [sys.executable, '-m', *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, **options)


def test_rclpy_and_message_packages_are_importable():
    rclpy = importlib.import_module('rclpy')
    for module in ('executors', 'qos', 'callback_groups', 'parameter', 'time', 'task', 'logging'):
        assert importlib.import_module(f'rclpy.{module}') is getattr(rclpy, module)
    messages = importlib.import_module('sensor_msgs.msg')
    assert messages.CompressedImage.__module__ == 'sensor_msgs.msg'
    services = importlib.import_module('std_srvs.srv')
    assert services.SetBool.Request.__name__ == 'SetBool_Request'


@pytest.mark.parametrize('name', ['autoware_control_msgs.msg', 'rclpy.action', 'std_msgs.srv'])
def test_what_is_not_covered_is_not_importable(name):
    with pytest.raises(ImportError):
        importlib.import_module(name)


def test_a_module_runs_as_main_with_its_arguments(tmp_path):
    (tmp_path / 'tool.py').write_text(
        'import sys, rclpy\nprint(__name__, sys.argv[1:], rclpy.utilities.remove_ros_args()[1:])'
    )
    done = run('rosless', 'tool', '-x', '--ros-args', '-p', 'a:=1', cwd=tmp_path)
    assert done.stdout == "__main__ ['-x', '--ros-args', '-p', 'a:=1'] ['-x']\n"
    assert done.stderr == 'rosless: there is no ROS 2 here, rosless stands in for rclpy\n'


def test_a_function_runs_as_a_console_script(tmp_path):
    (tmp_path / 'tool.py').write_text('import rclpy\ndef main():\n    return 5')
    assert run('rosless', 'tool:main', cwd=tmp_path).returncode == 5


def test_the_program_must_be_named():
    done = run('rosless')
    assert done.returncode == 2 and done.stderr.startswith('usage: python -m rosless')


def test_an_installed_rclpy_is_used_and_told(tmp_path):
    package = tmp_path / 'rclpy'
    package.mkdir()
    (package / '__init__.py').write_text('NAME = "the installed one"')
    (tmp_path / 'tool.py').write_text('import rclpy\nprint(rclpy.NAME)')
    done = run('rosless', 'tool', cwd=tmp_path)
    assert done.stdout == 'the installed one\n'
    assert done.stderr.startswith('rosless: the installed rclpy is used: ')


def test_an_unknown_distribution_is_refused(monkeypatch):
    done = run('rosless', 'rclpy', env={'ROS_DISTRO': 'unknown'})
    assert done.returncode != 0
    assert 'ROS_DISTRO=unknown is not one of' in done.stderr


def test_receiving_four_cameras_costs_less_than_15_percent_of_a_core():
    done = run('rosless.benchmark', '--seconds', '3')
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures['streams'] == 4 and figures['kilobytes'] == 250
    assert figures['received_hz'] > 100
    assert figures['cpu_percent_of_a_core'] < 15


@pytest.mark.skipif('PEER_SETUP' in os.environ, reason="Python's own handler, which rclpy calls")
def test_a_sigint_that_was_caught_is_no_death_by_signal(program):
    compiling = program('compiling')
    compiling.line('interrupted')
    assert compiling.process.wait(5) == 0
