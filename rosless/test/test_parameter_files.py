"""Types of YAML values, and which block of a parameter file applies to a node."""

import math

import pytest

from rosless.arguments import parse
from rosless.parameter_files import ParameterTextError, parse_file, parse_value, select_for_node
from rosless.rcl_error import RCLInvalidROSArgsError


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('1', 1),
        ('-7', -7),
        ('0x10', 16),
        ('1.0', 1.0),
        ('1.', 1.0),
        ('1e3', 1000.0),
        ('.inf', math.inf),
        ('-.inf', -math.inf),
        ('true', True),
        ('yes', True),
        ('on', True),
        ('off', False),
        ("'1'", '1'),
        ('"12"', '12'),
        ('hello', 'hello'),
        ('2020-01-01', '2020-01-01'),
        ('""', ''),
        ('[1, 2]', [1, 2]),
        ('[1.0, 2.5]', [1.0, 2.5]),
        ('[a, b]', ['a', 'b']),
        ('[true, no]', [True, False]),
    ],
)
def test_values_have_the_types_that_ros_gives_them(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize('text', ['[1, 2.5]', '[1, a]', '[[1], [2]]', '{a: 1}', '[1', 'a: b'])
def test_other_values_are_refused(text):
    with pytest.raises(ParameterTextError):
        parse_value(text)


@pytest.mark.parametrize(
    ('pattern', 'nodes'),
    [
        ('robot', {'/robot'}),
        ('/ns/robot', {'/ns/robot'}),
        ('/*/robot', {'/ns/robot'}),
        ('/**/robot', {'/robot', '/ns/robot', '/a/b/robot'}),
        ('/**', {'/robot', '/ns/robot', '/a/b/robot', '/other'}),
        ('/ns/*', {'/ns/robot'}),
    ],
)
def test_a_pattern_applies_to_these_nodes(tmp_path, pattern, nodes):
    file = tmp_path / 'p.yaml'
    file.write_text(f'{pattern}: {{ros__parameters: {{x: 1}}}}')
    overrides = parse_file(str(file))
    everyone = ('/robot', '/ns/robot', '/a/b/robot', '/other')
    assert {name for name in everyone if select_for_node(overrides, name)} == nodes


def test_nested_namespaces_and_nested_parameters(tmp_path):
    file = tmp_path / 'p.yaml'
    file.write_text('ns: {robot: {ros__parameters: {a: {b: 1, c: x}}}}')
    assert select_for_node(parse_file(str(file)), '/ns/robot') == {'a.b': 1, 'a.c': 'x'}


def read(tmp_path, text, *arguments):
    file = tmp_path / 'p.yaml'
    file.write_text(text)
    filled = [str(file) if argument == 'FILE' else argument for argument in arguments]
    return select_for_node(parse(['--ros-args', *filled]).overrides, '/robot')


def test_the_last_block_wins_and_not_the_most_exact(tmp_path):
    text = '/robot: {ros__parameters: {x: 1}}\n/**: {ros__parameters: {x: 2}}'
    assert read(tmp_path, text, '--params-file', 'FILE') == {'x': 2}


@pytest.mark.parametrize('order', [('-p', 'x:=9', '--params-file', 'FILE'), None])
def test_a_node_block_after_a_wildcard_beats_the_command_line(tmp_path, order):
    """-p counts as /**, and a pattern keeps the place of its first appearance."""
    text = '/**: {ros__parameters: {y: 0}}\n/robot: {ros__parameters: {x: 1}}'
    arguments = order or ('--params-file', 'FILE', '-p', 'x:=9')
    assert read(tmp_path, text, *arguments)['x'] == 1


def test_the_command_line_beats_a_file_without_a_wildcard(tmp_path):
    text = '/robot: {ros__parameters: {x: 1}}'
    assert read(tmp_path, text, '--params-file', 'FILE', '-p', 'x:=9') == {'x': 9}


def test_a_node_prefix_is_a_name_in_the_root_namespace():
    overrides = parse(['--ros-args', '-p', 'robot:x:=1']).overrides
    assert select_for_node(overrides, '/robot') == {'x': 1}
    assert select_for_node(overrides, '/ns/robot') == {}


@pytest.mark.parametrize(
    'text', ['- a', 'robot: 1', 'robot: {x: 1}', 'ros__parameters: {x: 1}', 'a: [', '']
)
def test_a_file_of_another_form_is_refused_by_its_name(tmp_path, text):
    file = tmp_path / 'wrong.yaml'
    file.write_text(text)
    with pytest.raises(RCLInvalidROSArgsError, match=r'wrong\.yaml'):
        parse(['--ros-args', '--params-file', str(file)])
