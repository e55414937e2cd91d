"""Imports point down the layers of docs/design.md, and nothing else is imported than it allows."""

from dataclasses import dataclass
from pathlib import Path
import subprocess
import sys

import pytest
from source_imports import imported, third_party

ROS_PACKAGES = ('rclpy', 'rcl_interfaces', 'builtin_interfaces', 'cv_bridge', 'rosbag2_py')


@dataclass(frozen=True)
class Part:
    """One row of the layer table."""

    name: str  # 'model/' or 'rig.py'
    layer: int
    third_party: frozenset


@pytest.fixture(scope='module')
def parts(design_table, code_names):
    """Return the layer table: one Part per row."""
    found = []
    for layer, part, imports in design_table('Layers'):
        (name,) = code_names(part)
        found.append(Part(name, int(layer), frozenset(code_names(imports))))
    return found


def part_of(parts, inside):
    """Innermost part that holds a path below alpamayo_ros/."""
    names = [f'{folder.as_posix()}/' for folder in inside.parents]
    for name in (inside.as_posix(), *names):
        for part in parts:
            if part.name == name:
                return part
    raise AssertionError(f'{inside}: its part is not in the layer table of docs/design.md')


def own_part(parts, root, dotted):
    """Part that a dotted name below alpamayo_ros belongs to."""
    names = dotted.split('.')[1:]
    folder = root / 'alpamayo_ros'
    for depth in range(len(names), 0, -1):
        inside = '/'.join(names[:depth])
        if (folder / f'{inside}.py').is_file():
            return part_of(parts, (folder / f'{inside}.py').relative_to(folder))
        if (folder / inside / '__init__.py').is_file():
            return part_of(parts, (folder / inside / '__init__.py').relative_to(folder))
    return None


def faults_of(parts, root, module):
    """Lines that say what is wrong with the imports of one module."""
    inside = module.relative_to('alpamayo_ros')
    here = part_of(parts, inside)
    faults = []
    for name in imported(root, module):
        there = own_part(parts, root, name) if name.startswith('alpamayo_ros.') else None
        if there and there != here and there.layer >= here.layer:
            faults.append(f'{module} ({here.name}, {here.layer}) imports {name}')
    for name in sorted(third_party(root, module) - here.third_party):
        faults.append(f'{module}: {name} is not among the imports of {here.name}')
    return faults


def test_imports_point_down_and_third_party_imports_are_declared(parts, root, modules):
    assert [line for module in modules for line in faults_of(parts, root, module)] == []


def test_the_layer_table_names_no_import_that_is_not_there(parts, root, modules):
    used = {}
    for module in modules:
        part = part_of(parts, module.relative_to('alpamayo_ros'))
        used.setdefault(part.name, set()).update(third_party(root, module))
    unused = {p.name: sorted(p.third_party - used.get(p.name, set())) for p in parts}
    assert {name: names for name, names in unused.items() if names} == {}


def test_an_upward_import_would_be_found(parts, root, tmp_path):
    (tmp_path / 'alpamayo_ros').mkdir()
    (tmp_path / 'alpamayo_ros/errors.py').write_text(
        'from .cli.entry import command\nimport torch\n'
    )
    (tmp_path / 'alpamayo_ros/cli').mkdir()
    (tmp_path / 'alpamayo_ros/cli/entry.py').write_text('')
    faults = faults_of(parts, tmp_path, Path('alpamayo_ros/errors.py'))
    assert faults == [
        'alpamayo_ros/errors.py (errors.py, 0) imports alpamayo_ros.cli.entry.command',
        'alpamayo_ros/errors.py: torch is not among the imports of errors.py',
    ]


def test_ros_is_imported_under_ros_only(root, modules):
    found = [
        f'{module}: {name}'
        for module in modules
        for name in third_party(root, module)
        if module.parts[1] != 'ros' and (name in ROS_PACKAGES or name.endswith('_msgs'))
    ]
    assert found == []


def test_the_package_does_not_know_the_runtime_for_machines_without_ros(root):
    files = [*(root / 'alpamayo_ros').rglob('*.py'), root / 'package.xml']
    assert [f.name for f in files if 'rosless' in f.read_text(encoding='utf-8')] == []


def test_parts_without_torch_in_their_row_do_not_load_it_through_others(parts, root, modules):
    free = [
        '.'.join(module.with_suffix('').parts)
        for module in modules
        if 'torch' not in part_of(parts, module.relative_to('alpamayo_ros')).third_party
        and part_of(parts, module.relative_to('alpamayo_ros')).layer <= 3
    ]
    assert 'alpamayo_ros.context.buffer' in free
    script = (
        'import importlib, sys\n'
        'for name in sys.argv[1:]:\n'
        '    importlib.import_module(name)\n'
        '    if {"torch", "transformers"} & set(sys.modules): sys.exit(name)\n'
    )
    run = subprocess.run(
        [sys.executable, '-c', script, *free], cwd=root, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, '')
