"""Fixtures and settings of all tests: no hub, no display, and the tables of docs/design.md."""

import ast
from importlib.util import find_spec
import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch

os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['MPLBACKEND'] = 'Agg'
# A shell ignores SIGINT for its background jobs, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
# Processes that talk to each other in real time: never two of these tests at once, and first, as
# they mostly wait.
WIRE = (
    'test_node',
    'test_examples',
    'test_soak',
    'test_demo',
    'test_node_benchmark',
    'test_launch_files',
)
RAY = ('test_cluster', 'test_evaluate', 'test_dataset')  # they share one local Ray


def pytest_runtest_setup(item):
    """Give the tests over the wire the right of way: a worker that runs others is nicer."""
    is_alone = 'PYTEST_XDIST_WORKER' not in os.environ
    if not is_alone and item.path.stem not in WIRE and os.nice(0) == 0:
        os.nice(10)


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """Keep the tests of a file in one process when `pytest -n` shares them out."""
    items.sort(key=lambda item: item.path.stem not in WIRE)
    shared = dict.fromkeys(WIRE, 'wire') | dict.fromkeys(RAY, 'ray')
    for item in items:
        together = shared.get(item.path.stem, item.path.stem)
        item.add_marker(pytest.mark.xdist_group(together))


def pytest_report_header():
    """Say what these tests run on, as some need more than every machine has."""
    ros, numba, ray, alpasim = map(find_spec, ('rclpy', 'numba', 'ray', 'carla_driver_interface'))
    return [
        f'ROS 2: {ros.origin if ros else "not sourced, tests over the wire run on rosless"}',
        f'GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else "none, skipped"}',
        f'Numba: {numba.origin if numba else "none, skipped"}',
        f'Ray: {ray.origin if ray else "none, skipped"}',
        f'carla-driver-interface: {alpasim.origin if alpasim else "none, skipped"}',
    ]


@pytest.fixture(scope='session')
def root():
    """Return the folder of package.xml."""
    return ROOT


@pytest.fixture(scope='session')
def local_ray(root):
    """Start a Ray of two workers, on loopback, that all tests of this process share."""
    if not find_spec('ray'):
        pytest.skip('Ray is not installed')
    from alpamayo_ros.cluster.ray_workers import connect, ray
    from alpamayo_ros.cluster.workers import Cluster

    with pytest.MonkeyPatch.context() as patch:  # workers import what tests hand to them
        patch.setenv('PYTHONPATH', str(root / 'test'), prepend=os.pathsep)
        assert connect(Cluster('local', 2))
    yield ray
    ray.shutdown()


@pytest.fixture
def checkpoint_copy(root, tmp_path):
    """Return a copy of the small reference checkpoint that a test may damage."""
    copy = tmp_path / 'checkpoint'
    left_out = shutil.ignore_patterns('*.npz')
    return shutil.copytree(root / 'test/golden/model', copy, ignore=left_out)


@pytest.fixture(scope='session')
def modules(root):
    """Return every Python file of the package that holds more than a docstring."""
    files = sorted((root / 'alpamayo_ros').rglob('*.py'))
    return [
        path.relative_to(root)
        for path in files
        if len(ast.parse(path.read_text(encoding='utf-8')).body) > 1 or path.stem != '__init__'
    ]


@pytest.fixture(scope='session')
def design_table(root):
    """Return a function: heading of docs/design.md to the rows of its table, cells as text."""
    text = (root / 'docs/design.md').read_text(encoding='utf-8')

    def rows(heading):
        section = text.split(f'\n## {heading}\n', 1)[1].split('\n## ', 1)[0]
        lines = [line for line in section.splitlines() if line.startswith('|')]
        return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]

    return rows


# Runs the lines that come in; answers each with a line: JSON of its traceback, or of ''.
INTERPRETER = """
import json, sys, traceback
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    try:
        exec(line, {})
        fault = ''
    except BaseException:
        fault = traceback.format_exc()
    print(json.dumps(fault), file=answers, flush=True)
"""


@pytest.fixture(scope='session')
def interpreted(root):
    """Return a function: run a line of Python in Triton's interpreter.

    The interpreter is chosen when triton is imported, so it is a process of its own. All tests
    share it, as its imports take longer than most of them.
    """
    pytest.importorskip('triton', reason='triton is not installed')
    paths = os.pathsep.join([str(root / 'test'), *sys.path])
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': paths}
    process = subprocess.Popen(
        [sys.executable, '-c', INTERPRETER],
        cwd=root, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip

    def run(code):
        print(code, file=process.stdin, flush=True)
        fault = json.loads(process.stdout.readline() or '"the process died"')
        assert not fault, fault

    yield run
    process.communicate()


@pytest.fixture(scope='session')
def code_names():
    """Return a function: the names between backticks in a table cell."""
    return lambda cell: re.findall(r'`([^`]+)`', cell)
