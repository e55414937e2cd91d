"""Names, remap rules and the command line."""

import pytest
from rclpy.exceptions import (
    InvalidNamespaceException,
    InvalidNodeNameException,
    InvalidServiceNameException,
    InvalidTopicNameException,
)
from rclpy.utilities import remove_ros_args

from rosless import names
from rosless.arguments import parse
from rosless.rcl_error import RCLInvalidROSArgsError, UnknownROSArgsError


def rules(*texts):
    return parse(['--ros-args', *(part for text in texts for part in ('-r', text))]).remaps


@pytest.mark.parametrize(
    ('name', 'absolute'),
    [
        ('scan', '/ns/scan'),
        ('a/scan', '/ns/a/scan'),
        ('/scan', '/scan'),
        ('~', '/ns/node'),
        ('~/scan', '/ns/node/scan'),
        ('{node}/scan', '/ns/node/scan'),
    ],
)
def test_names_expand(name, absolute):
    assert names.expand_name(name, 'node', '/ns') == absolute


@pytest.mark.parametrize(
    'name', ['', '/', 'a//b', 'a/', '1a', 'a/1b', 'a b', '~a', 'a-b', '{wrong}/a']
)
def test_invalid_names_are_refused(name):
    with pytest.raises(InvalidTopicNameException):
        names.expand_name(name, 'node', '/ns')
    with pytest.raises(InvalidServiceNameException):
        names.expand_name(name, 'node', '/ns', service=True)


def test_node_names_and_namespaces():
    assert names.make_absolute_namespace('') == '/'
    assert names.make_absolute_namespace('a/b') == '/a/b'
    assert names.join_name('node', '/') == '/node'
    with pytest.raises(InvalidNamespaceException):
        names.make_absolute_namespace('/a/')
    with pytest.raises(InvalidNodeNameException):
        names.validate_node_name('a/b')


@pytest.mark.parametrize(
    ('rule', 'result'),
    [
        ('scan:=laser', '/ns/laser'),
        ('/ns/scan:=/laser', '/laser'),
        ('scan:=~/laser', '/ns/node/laser'),
        ('node:scan:=laser', '/ns/laser'),
        ('other:scan:=laser', '/ns/scan'),
        ('/scan:=laser', '/ns/scan'),
    ],
)
def test_both_sides_of_a_remap_rule_are_expanded(rule, result):
    assert names.remap_name('scan', rules(rule), 'node', '/ns') == result


def test_the_first_rule_that_fits_wins():
    found = names.remap_name('a', rules('b:=c', 'a:=b', 'a:=d'), 'node', '/')
    assert found == '/b'


def test_name_and_namespace_of_a_node_are_remapped():
    found = names.remap_node('a', '/', rules('__node:=b', '__ns:=/x/y'))
    assert found == ('b', '/x/y')
    assert names.remap_node('a', '/', rules('other:__node:=b')) == ('a', '/')


def test_ros_arguments_end_at_two_dashes():
    args = ['prog', '--a', '--ros-args', '-p', 'x:=1', '--', '--b', '--ros-args', '-p', 'y:=2']
    assert remove_ros_args(args) == ['prog', '--a', '--b']
    assert parse(args).overrides == {'/**': {'x': 1, 'y': 2}}


def test_log_levels_and_enclave():
    levels = ['--log-level', 'warn', '--log-level', 'a.b:=DEBUG']
    parsed = parse(['--ros-args', *levels, '-e', '/secret'])
    assert parsed.log_levels == {'': 30, 'a.b': 10}
    assert parsed.enclave == '/secret'


def test_arguments_of_no_effect_are_accepted():
    parsed = parse(['--ros-args', '--log-config-file', 'f', '--disable-rosout-logs', '-p', 'a:=1'])
    assert parsed.overrides == {'/**': {'a': 1}}


def test_an_unknown_argument_is_refused():
    with pytest.raises(UnknownROSArgsError, match='--wrong'):
        parse(['--ros-args', '--wrong'])


@pytest.mark.parametrize(
    'arguments',
    ['-p', '-p x', '-p x:=[1,2.5]', '-r a', '-r a:=', '--log-level loud', '--params-file none'],
)
def test_an_argument_without_a_valid_value_is_refused(arguments):
    with pytest.raises(RCLInvalidROSArgsError):
        parse(['--ros-args', *arguments.split()])
