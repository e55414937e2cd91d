"""Folders stay small and documented, and the repository names nothing of one machine."""

import ast
from collections import Counter
import os
import re
import subprocess
import sys

import pytest

# written so that the patterns do not match themselves
MACHINE_PATH = re.compile(r'(?<![\w./~-])/(?:work|root|home)/|file:/{2}')
REGISTRY_HOST = re.compile(r'\b(?:pypi|pythonhosted|npmjs)\.(?:org|com)\b|\bdeb\.debian\b')


@pytest.fixture(scope='module')
def tracked(root):
    """Return the files that a clone would hold: tracked ones and new ones git does not ignore."""
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z']
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split('\0') if name and (root / name).is_file()]


def test_no_folder_holds_more_than_fifteen_modules(modules):
    counts = Counter(str(m.parent) for m in modules if m.name != '__init__.py')
    assert {folder: count for folder, count in counts.items() if count > 15} == {}


def test_every_folder_and_module_says_what_belongs_there(root):
    silent = [
        str(path.relative_to(root))
        for path in (root / 'alpamayo_ros').rglob('*.py')
        if not ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    ]
    assert silent == []


def test_no_two_public_classes_have_one_name(root, modules):
    homes = {}
    others = [*root.glob('training/*.py'), *root.glob('quantization_study/*.py')]
    for module in [*modules, *(path.relative_to(root) for path in others)]:
        for node in ast.parse((root / module).read_text(encoding='utf-8')).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
                homes.setdefault(node.name, []).append(str(module))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_top_level_entries_are_those_of_the_map(design_table, code_names, tracked):
    named = {name for row in design_table('Top level') for name in code_names(row[0])}
    assert {name.split('/')[0] for name in tracked} == {name.rstrip('/') for name in named}


def test_no_file_names_a_path_or_a_registry_of_one_machine(root, tracked):
    found = []
    for name in tracked:
        text = (root / name).read_bytes().decode('utf-8', errors='replace')
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line) or REGISTRY_HOST.search(line):
                found.append(f'{name}:{number}')
    assert found == []


@pytest.mark.parametrize('home', ['work', 'root', 'home'])
def test_a_machine_path_would_be_found(home):
    assert MACHINE_PATH.search(f"open('/{home}/data')")
    assert not MACHINE_PATH.search(f'docs/{home}/data')


def test_every_link_of_the_documents_leads_to_a_file(root, tracked):
    broken = []
    for name in tracked:
        if name.endswith('.md') and not name.startswith('test/golden'):
            text = (root / name).read_text(encoding='utf-8')
            for target in re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', text):
                if not ((root / name).parent / target).exists():
                    broken.append(f'{name}: {target}')
    assert broken == []


@pytest.mark.parametrize('plugin', ['launch_testing', 'launch_ros', 'launch_pytest'])
def test_pytest_starts_without_what_plugins_of_ros_2_need(root, tmp_path, plugin):
    facts = tmp_path / f'{plugin}-1.0.dist-info'
    facts.mkdir()
    (facts / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {plugin}\nVersion: 1.0\n')
    (facts / 'entry_points.txt').write_text(f'[pytest11]\n{plugin} = needs_what_is_not_there\n')
    run = subprocess.run(
        [sys.executable, '-m', 'pytest', '--noconftest', '--markers'],
        cwd=root,
        env=os.environ | {'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
