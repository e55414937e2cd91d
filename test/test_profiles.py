"""Profiles: one table, and what is set beside a profile wins."""

import argparse

import pytest

from alpamayo_ros.cli.engine_arguments import add_engine_arguments, check_engine_arguments
from alpamayo_ros.data_types import SamplingOptions
from alpamayo_ros.errors import BadInput
from alpamayo_ros.profiles import PROFILES, Profile, choose, split_names
from alpamayo_ros.rig import CAMERA_INDEX, load_rig, select_cameras
from alpamayo_ros.ros.parameters import NodeParameters

GOOD = {'rig': 'r1', 'engine': 'constant_velocity'}


def parse(*words):
    parser = argparse.ArgumentParser()
    add_engine_arguments(parser)
    arguments = parser.parse_args(['--engine', 'constant_velocity', *words])
    check_engine_arguments(arguments)
    return arguments


def test_exact_is_the_default_and_changes_nothing():
    assert NodeParameters(**GOOD).sampling == SamplingOptions()
    choice = NodeParameters(**GOOD).choice
    assert (choice.activations, choice.kv_bits, choice.cameras, choice.pixels) == (16, 16, (), 0)
    assert {row: getattr(parse(), row) for row in vars(PROFILES['exact'])} == vars(
        PROFILES['exact']
    )


def test_rows_are_those_of_the_specification():
    found = {name: (row.activations, row.kv_bits) for name, row in PROFILES.items()}
    assert found == {'exact': (16, 16), 'fast': (8, 8), 'drive': (8, 8)}
    assert [row.flow_steps for row in PROFILES.values()] == [0, 5, 3]
    assert [row.reasoning for row in PROFILES.values()] == ['full', 'full', 'none']
    cameras = [split_names(row.cameras) for row in PROFILES.values()]
    assert [len(names) for names in cameras] == [0, 0, 2]
    assert set(cameras[2]) <= set(CAMERA_INDEX)


def test_what_is_set_beside_a_profile_wins_in_the_node_and_in_commands():
    changes = {'activations': 16, 'flow_steps': 7, 'reasoning': 'short'}
    chosen = NodeParameters(**GOOD, profile='drive', **changes).chosen
    assert chosen == Profile(16, 8, 'short', 7, 'front_wide,front_tele', 0)
    words = ['--profile', 'drive', '--activations', '16', '--flow-steps', '7']
    arguments = parse(*words, '--reasoning', 'short')
    assert {name: getattr(arguments, name) for name in vars(chosen)} == vars(chosen)


def test_a_profile_reaches_sampling_and_rig():
    parameters = NodeParameters(**GOOD, profile='drive')
    assert (parameters.sampling.reasoning, parameters.sampling.flow_steps) == ('none', 3)
    rig = parameters.load_rig()
    assert [camera.name for camera in rig.cameras] == ['front_wide', 'front_tele']
    assert rig.absent == ('cross_left', 'cross_right')
    assert parameters.choice.cameras == ('front_wide', 'front_tele')


def test_unknown_profile_is_refused():
    with pytest.raises(BadInput, match="profile: 'quick' is not one of exact, fast, drive"):
        choose('quick', Profile())


@pytest.mark.parametrize(
    ('names', 'text'),
    [
        (('front_wide', 'rear_left'), "the rig r1 has no 'rear_left', but cross_left"),
        (('front_tele',), 'front_wide is the anchor of the rig r1 and must stay'),
    ],
)
def test_cameras_that_cannot_be_chosen_are_refused(names, text):
    with pytest.raises(BadInput, match=text):
        select_cameras(load_rig('r1'), names)


@pytest.mark.parametrize(
    'words', [('--guidance-weight', '-1'), ('--noise-temperature', '0'), ('--pixels', '-1')]
)
def test_bad_numbers_are_refused(words):
    with pytest.raises(BadInput, match=words[0]):
        parse(*words)
