"""Names of topics after the remaps of a launch file, and which of them are recorded."""

import re

import pytest

from alpamayo_ros.errors import BadInput
from alpamayo_ros.ros.remaps import make_recorded_pattern, read_remaps, remap

NODE = '/fleet/alpamayo'


@pytest.mark.parametrize(
    'name, remaps, expected',
    [
        ('odometry', '', '/fleet/odometry'),
        ('/odometry', '', '/odometry'),
        ('~/output/path', '', '/fleet/alpamayo/output/path'),
        ('odometry', 'odometry:=/loc/odom', '/loc/odom'),
        ('odometry', '/fleet/odometry:=loc/odom', '/fleet/loc/odom'),
        ('odometry', '/odometry:=/loc/odom', '/fleet/odometry'),
        ('alpamayo/output/path', 'a:=b ~/output/path:=~/plan', '/fleet/alpamayo/plan'),
    ],
)
def test_both_sides_of_a_remap_are_expanded_before_they_are_compared(name, remaps, expected):
    assert remap(name, NODE, read_remaps(remaps)) == expected


def test_a_node_outside_of_a_namespace_has_its_topics_at_the_root():
    assert remap('odometry', '/alpamayo', {}) == '/odometry'


@pytest.mark.parametrize('text', ['/odometry', 'a:=', ':=b', 'a:=b:=c', 'a:=b /c'])
def test_what_is_no_pair_is_named(text):
    with pytest.raises(BadInput, match=r"remaps: expected FROM:=TO, got '"):
        read_remaps(text)


def test_a_recording_has_what_the_node_got_and_did_and_nothing_else():
    remaps = {'odometry': '/loc/odom', '~/output/path': '/plan'}
    pattern = re.compile(make_recorded_pattern('r1', NODE, remaps))
    camera = '/fleet/camera/front_wide/image_raw/compressed'
    own = [f'{NODE}/{x}' for x in ('output/status', 'debug/path', 'input/route')]
    kept = ['/loc/odom', '/plan', camera, *own, f'{NODE}/transition_event', '/tf', '/diagnostics']
    others = ['/fleet/odometry', '/tf2', '/camera/raw', f'{NODE}2/output/path', f'{camera}/x']
    assert [name for name in (*kept, *others) if pattern.search(name)] == kept
