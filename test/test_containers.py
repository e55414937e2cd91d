"""Rules of the Dockerfile and of pixi.toml, for machines that can run neither."""

import re
import shlex
import xml.etree.ElementTree as ElementTree

import pytest

tomllib = pytest.importorskip('tomllib', reason='part of Python 3.11 and newer')
ROS_TOOLS = {'ros2launch', 'ros2bag', 'ros2param', 'launch', 'launch_ros', 'rclpy'}  # in ros-base


@pytest.fixture(scope='module')
def instructions(root):
    """Return the instructions of the Dockerfile, each as its word and the rest in one line."""
    text = (root / 'docker/Dockerfile').read_text(encoding='utf-8')
    lines = [line for line in text.splitlines() if not line.startswith('#')]
    joined = re.sub(r'\\\n\s*', '', '\n'.join(lines))
    return [tuple(line.split(' ', 1)) for line in joined.splitlines() if line]


@pytest.fixture(scope='module')
def runs(instructions):
    """Return the shell lines that the Dockerfile runs."""
    return [rest for word, rest in instructions if word == 'RUN']


def test_the_base_has_a_version_and_nothing_comes_from_elsewhere(instructions):
    bases = [rest for word, rest in instructions if word == 'ARG' and rest.startswith('BASE=')]
    assert len(bases) == 1 and re.search(r':\d', bases[0])
    assert [rest for word, rest in instructions if word == 'FROM'] == ['${BASE}']
    assert [word for word, _ in instructions if word == 'ADD'] == []


def test_every_layer_with_packages_updates_and_clears_the_lists(runs):
    for run in runs:
        if 'apt-get' in run:
            assert run.index('apt-get update') < run.index('install')
            assert run.endswith('rm -rf /var/lib/apt/lists/*')
            for command in re.findall(r'apt-get install[^&]*', run):
                assert '-y --no-install-recommends' in command


def test_pip_keeps_no_cache(runs):
    commands = [command for run in runs for command in re.findall(r'pip install[^&]*', run)]
    assert commands and all('--no-cache-dir' in command for command in commands)


def test_shell_lines_are_words_to_a_shell_and_fail_in_pipes(instructions, runs):
    shells = [rest for word, rest in instructions if word == 'SHELL']
    assert shells == ['["/bin/bash", "-o", "pipefail", "-c"]']
    for run in runs:
        shlex.split(run)  # raises where a quote is not closed


def test_the_container_does_not_run_as_root_and_starts_with_ros_2(instructions):
    words = [word for word, _ in instructions]
    assert [rest for word, rest in instructions if word == 'USER'] == ['alpamayo']
    assert words.index('USER') > max(i for i, word in enumerate(words) if word in ('RUN', 'COPY'))
    entry = dict(instructions)['ENTRYPOINT']
    for script in ('/opt/ros/$ROS_DISTRO/setup.bash', '/ros2_ws/venv', '/ros2_ws/install'):
        assert f'source {script}' in entry
    assert entry.endswith('exec \\"$@\\"", "--"]')


def test_pixi_installs_what_package_xml_names_beyond_ros_base(root):
    pixi = tomllib.loads((root / 'pixi.toml').read_text(encoding='utf-8'))
    package = ElementTree.parse(root / 'package.xml').getroot()
    named = {element.text for element in package.iter('exec_depend')}
    wanted = {name for name in named - ROS_TOOLS if not name.startswith('python3-')}
    found = {name.removeprefix('ros-jazzy-').replace('-', '_') for name in pixi['dependencies']}
    assert wanted <= found
    assert pixi['pypi-dependencies']['alpamayo_ros'] == {'path': '.', 'editable': True}
