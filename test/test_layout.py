"""The map of docs/design.md is complete, and the repository names nothing of one machine."""

import re
import subprocess

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


def test_every_module_is_in_the_map_and_nothing_else(design_table, code_names, modules):
    named = [name for row in design_table('Modules') for name in code_names(row[0])]
    assert sorted(named) == sorted(m.relative_to('alpamayo_ros').as_posix() for m in modules)


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
