"""Lint is a test: style, format and types as pyproject.toml sets them, and a sound package.xml."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest


@pytest.mark.parametrize(
    'command',
    [
        pytest.param(['ruff', 'check', '--no-cache', '.'], id='ruff-check'),
        pytest.param(['ruff', 'format', '--no-cache', '--check', '.'], id='ruff-format'),
        pytest.param(['mypy'], id='mypy'),
    ],
)
def test_the_code_is_clean(root, command):
    run = subprocess.run(
        [sys.executable, '-m', *command], cwd=root, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_package_xml_is_one_that_ros_tools_accept(root):
    package = ElementTree.parse(root / 'package.xml').getroot()
    assert package.tag == 'package' and package.get('format') == '3'
    assert package.findtext('name') == 'alpamayo_ros'
    assert re.fullmatch(r'\d+\.\d+\.\d+', package.findtext('version'))
    assert package.findtext('export/build_type') == 'ament_python'
    assert package.findtext('license') == 'Apache-2.0'
    assert package.find('license').get('file') == 'LICENSE'
    assert package.find('buildtool_depend') is None


def test_the_maintainer_has_a_valid_address(root):
    # colcon takes the package for plain Python when the address is not valid
    maintainer = ElementTree.parse(root / 'package.xml').getroot().find('maintainer')
    assert maintainer.text == 'alpamayo_ros developers'
    assert maintainer.get('email') == 'alpamayo_ros@example.org'
