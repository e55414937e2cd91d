"""Breaks code in one place after the other and tells which tests notice.

Run: python test/mutants.py NAME [FIRST LAST], for test/mutants_NAME.yaml, and for the mutants of
these numbers only. Each mutant is made in a temporary copy of the package, so that the sources
stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

import yaml

ROOT = Path(__file__).parents[1]


def list_mutants(table: dict[str, dict[str, list[list[str]]]]) -> Iterator[tuple[str, ...]]:
    """Yield file, text, replacement and tests of each mutant; ' -k WORD' selects tests."""
    for file, by_tests in table.items():
        for tests, pairs in by_tests.items():
            for text, other in pairs:
                yield file, text, other, *tests.split(' -k ')


def main(name: str, first: int = 1, last: int = sys.maxsize) -> int:
    """Make every mutant, run its tests, and print which are caught; the last line is JSON.

    Returns the exit status: 1 if more than `most_survivors` survive, or if the text of a mutant
    does not stand in its file once.
    """
    facts = yaml.safe_load((ROOT / f'test/mutants_{name}.yaml').read_text(encoding='utf-8'))
    mutants = list(list_mutants(facts['mutants']))
    last = min(last, len(mutants))
    survivors = []
    with tempfile.TemporaryDirectory() as folder_name:
        copy = Path(folder_name)
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
    return int(len(survivors) > facts['most_survivors'])


def _run(copy: Path, tests: str, keyword: str = '') -> int:
    """Exit status of pytest on one file of tests: 1 if a test failed."""
    options = ['-q', '-x', '--noconftest', '-p', 'no:cacheprovider', '-k', keyword]
    command = [sys.executable, '-m', 'pytest', *options, f'test/{tests}']
    environment = {**os.environ, 'PYTHONPATH': str(copy), 'PYTHONDONTWRITEBYTECODE': '1'}
    return subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, check=False
    ).returncode


if __name__ == '__main__':
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
