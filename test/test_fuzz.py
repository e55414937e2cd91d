"""The fuzz job with fixed seeds: no finding, and it would see each kind of finding."""

import json
import mmap
from pathlib import Path
import random
import subprocess
import sys
import time

from fuzz import fuzz, run_case
import pytest

CASES = {'rig': 120, 'image': 300, 'odometry': 400, 'stream': 40, 'bag': 30, 'checkpoint': 25}
CASES |= {'recording': 12, 'tensor': 15, 'parameter': 100}


@pytest.mark.parametrize('kind', CASES)
def test_changed_inputs_give_a_result_or_one_line(kind, tmp_path):
    counts, findings = fuzz([kind], 0.0, seed=0, keep=tmp_path, cases=CASES[kind])
    assert findings == []
    assert counts.total() == CASES[kind]
    assert counts[kind, 'served'] > 0 and counts[kind, 'refused'] > 0


class Broken:
    """A kind whose run does what a test wants."""

    def __init__(self, run):
        self.run = lambda rng, folder: run()


def use(seconds):
    end_s = time.process_time() + seconds
    while time.process_time() < end_s:
        pass
    return 'served'


def fill(size):
    with mmap.mmap(-1, size) as pages:  # malloc could give memory that it kept from earlier tests
        pages.write(bytes(size))
    return 'served'


@pytest.mark.parametrize(
    ('run', 'fault'),
    [
        (lambda: 'served', ''),
        (lambda: {}['missing'], 'traceback'),
        (lambda: sys.exit(1), 'traceback'),
        (lambda: pytest.fail('twin'), 'traceback'),
        (lambda: use(0.2), 'slow'),
        (lambda: fill(40 << 20), 'memory'),
    ],
)
def test_each_fault_of_a_case_is_seen(run, fault, tmp_path, monkeypatch):
    monkeypatch.setattr('fuzz.LIMIT_CPU_S', 0.1)
    monkeypatch.setattr('fuzz.LIMIT_MB', 20)
    assert run_case(Broken(run), 0, tmp_path)['fault'] == fault


def test_a_wrong_success_is_seen(tmp_path):
    def run():
        assert 1 == 2, 'the twin gives 2'

    found = run_case(Broken(run), 0, tmp_path)
    assert found['fault'] == 'wrong' and 'the twin gives 2' in found['text']


def test_a_hang_and_a_crash_of_the_child_are_seen(tmp_path):
    code = (
        'import os, sys, types\n'
        'import fuzz\n'
        'class Bad:\n'
        '    def prepare(self, folder): pass\n'
        '    def run(self, rng, folder):\n'
        '        while MODE == "hang": pass\n'
        '        os._exit(3)\n'
        'sys.modules["fuzz_kinds"] = types.SimpleNamespace(KINDS={"rig": Bad})\n'
    )
    for mode in ('hang', 'crash'):
        script = tmp_path / f'{mode}.py'
        script.write_text(
            f'{code.replace("MODE", repr(mode))}\n'
            'if sys.argv[1:2] == ["--child"]: sys.exit(fuzz.main())\n'
            'fuzz.LIMIT_CPU_S, fuzz.__file__ = 0.2, __file__\n'
            'counts, findings = fuzz.fuzz(["rig"], 0.0, 0, None, cases=1)\n'
            'print(findings[0].fault)\n'
        )
        done = subprocess.run(
            [sys.executable, script],
            env={'PYTHONPATH': str(Path(__file__).parent)},
            capture_output=True,
            text=True,
        )
        assert done.stdout.splitlines()[-1:] == [mode], done.stdout + done.stderr


def test_a_case_is_a_function_of_its_seed():
    from fuzz_changes import change_bytes, change_tree

    for change, value in ((change_bytes, bytes(100)), (change_tree, {'a': [1, {'b': 2}]})):
        found = [json.dumps(repr(change(random.Random(5), value))) for _ in range(2)]
        assert found[0] == found[1]
