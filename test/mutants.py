"""Breaks code in one place after the other and tells which tests notice: the runs of mutants_*.py.

Each mutant is made in a temporary copy of the package, so that the sources stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

ROOT = Path(__file__).parents[1]
Mutant = tuple[str, ...]  # file below alpamayo_ros/, text, its replacement, tests that should fail


def run_mutants(mutants: Sequence[Mutant], most_survivors: int) -> int:
    """Make every mutant, run its tests, and print which are caught; the last line is JSON.

    A fifth text of a mutant selects among its tests, as pytest's -k does. FIRST LAST on the
    command line: only mutants of these numbers. Returns the exit status: 1 if more than
    `most_survivors` survive, or if the text of a mutant does not stand in its file once.
    """
    first, last = map(int, sys.argv[1:3]) if len(sys.argv) > 1 else (1, len(mutants))
    survivors = []
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for folder in ('alpamayo_ros', 'test', 'config'):
            ignored = shutil.ignore_patterns('__pycache__', '.pytest_cache')
            shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
        shutil.copy(ROOT / 'setup.cfg', copy)
        for number, (file, text, other, *tests) in enumerate(mutants, start=1):
            path = copy / 'alpamayo_ros' / file
            source = path.read_text(encoding='utf-8')
            if source.count(text) != 1:
                print(f'{file}: expected once: {text}', file=sys.stderr)
                return 1
            if not first <= number <= last:
                continue
            path.write_text(source.replace(text, other), encoding='utf-8')
            is_caught = _run(copy, *tests) == 1
            path.write_text(source, encoding='utf-8')
            print(f'{number:2} {"caught  " if is_caught else "SURVIVED"} {file}: {other.strip()}',
                  flush=True)  # fmt: skip
            if not is_caught:
                survivors.append(number)
    count = last - first + 1
    print(json.dumps({'mutants': count, 'caught': count - len(survivors), 'survivors': survivors}))
    return int(len(survivors) > most_survivors)


def _run(copy: Path, tests: str, keyword: str = '') -> int:
    """Exit status of pytest on one file of tests: 1 if a test failed."""
    options = ['-q', '-x', '--noconftest', '-p', 'no:cacheprovider', '-k', keyword]
    command = [sys.executable, '-m', 'pytest', *options, f'test/{tests}']
    environment = {**os.environ, 'PYTHONPATH': str(copy), 'PYTHONDONTWRITEBYTECODE': '1'}
    return subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, check=False
    ).returncode
