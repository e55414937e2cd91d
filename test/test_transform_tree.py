"""Transforms through chains of links: both directions, between stamps, and what is missing."""

import math

import numpy as np
import pytest

from alpamayo_ros import geometry
from alpamayo_ros.transform_tree import GAP_NS, KEPT_NS, Link, NoTransform, TransformTree

T = 100 * 10**9
STEP = GAP_NS // 2


def turn(yaw):
    return (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))


def static(parent, child, x=0.0, y=0.0, yaw=0.0):
    return Link(parent, child, 0, (x, y, 0.0), turn(yaw), is_static=True)


def moving(parent, child, stamp_ns, x=0.0, y=0.0, yaw=0.0):
    return Link(parent, child, stamp_ns, (x, y, 0.0), turn(yaw))


def tree_of(*links):
    tree = TransformTree()
    for link in links:
        tree.add(link)
    return tree


def flat(pose):
    """x, y and yaw of a pose."""
    position, quaternion = pose
    yaw = geometry.yaw(geometry.rotation_matrix(quaternion))
    return [*position[:2].round(9).tolist(), round(float(yaw), 9)]


VEHICLE = (
    moving('map', 'odom', T, 100.0, 0.0, math.pi / 2),
    moving('odom', 'base_footprint', T, 5.0, 0.0, math.pi / 2),
    static('base_footprint', 'base_link', -1.0, 0.0),
    static('base_link', 'sensor_kit', 2.0, 0.0, -math.pi / 2),
    static('sensor_kit', 'camera', 0.0, 0.5),
    static('base_link', 'imu', 0.3, 0.1),
)


def test_a_chain_is_followed_up_and_down_over_static_and_moving_links():
    tree = tree_of(*VEHICLE)
    # odom is turned to the left, base_footprint 5 m on, the vehicle looks back: its rear is ahead
    assert flat(tree.find('map', 'base_link', T)) == [101.0, 5.0, round(math.pi, 9)]
    found = tree.find('base_link', 'map', T)
    assert flat(found) == [101.0, 5.0, round(-math.pi, 9)] or flat(found)[2] == round(math.pi, 9)
    assert flat(found)[:2] == [101.0, 5.0]
    assert flat(tree.find('base_link', 'camera')) == [2.5, 0.0, round(-math.pi / 2, 9)]
    assert flat(tree.find('imu', 'base_link')) == [-0.3, -0.1, 0.0]
    assert flat(tree.find('imu', 'camera')) == [2.2, -0.1, round(-math.pi / 2, 9)]
    assert flat(tree.find('imu', 'imu')) == [0.0, 0.0, 0.0]
    assert flat(tree.find('unheard', 'unheard')) == [0.0, 0.0, 0.0]


def test_a_way_back_is_the_inverse():
    tree = tree_of(*VEHICLE)
    for parent, child in (('map', 'camera'), ('imu', 'odom'), ('camera', 'imu')):
        there, back = tree.find(parent, child, T), tree.find(child, parent, T)
        closed = there[0] + geometry.rotation_matrix(there[1]) @ back[0]
        np.testing.assert_allclose(closed, 0.0, atol=1e-12)
        np.testing.assert_allclose(
            np.abs(geometry.multiply(there[1], back[1])), (0, 0, 0, 1), atol=1e-12
        )


def test_a_moving_link_is_interpolated_and_never_extrapolated():
    tree = tree_of(
        moving('odom', 'base_link', T, 1.0, 0.0, 0.2),
        moving('odom', 'base_link', T + STEP, 2.0, 4.0, 0.6),
    )
    assert flat(tree.find('odom', 'base_link', T + STEP // 4)) == [1.25, 1.0, 0.3]
    assert flat(tree.find('odom', 'base_link', T + STEP)) == [2.0, 4.0, 0.6]
    with pytest.raises(NoTransform, match='base_link in odom end 0.05 s before') as late:
        tree.find('odom', 'base_link', T + STEP + 50_000_000)
    assert late.value.is_late
    with pytest.raises(NoTransform, match='base_link in odom begin 0.05 s later') as early:
        tree.find('odom', 'base_link', T - 50_000_000)
    assert not early.value.is_late


def test_a_gap_is_not_bridged():
    tree = tree_of(*(moving('odom', 'base_link', T + k) for k in (0, GAP_NS, 2 * GAP_NS + 1)))
    tree.find('odom', 'base_link', T + 1)
    with pytest.raises(NoTransform, match='base_link in odom are 0.2 s apart, limit 0.2 s'):
        tree.find('odom', 'base_link', T + GAP_NS + 1)


def test_late_transforms_are_sorted_in_and_a_second_one_of_a_stamp_is_left_out():
    tree = tree_of(
        moving('odom', 'base_link', T, 0.0),
        moving('odom', 'base_link', T + STEP, 8.0),
        moving('odom', 'base_link', T + STEP // 2, 1.0),
        moving('odom', 'base_link', T + STEP // 2, 7.0),
    )
    assert flat(tree.find('odom', 'base_link', T + STEP // 4))[0] == 0.5


def test_a_link_whose_clock_jumps_back_begins_anew():
    tree = tree_of(moving('odom', 'base_link', T), moving('odom', 'base_link', T - 10**10, 3.0))
    assert flat(tree.find('odom', 'base_link', T - 10**10))[0] == 3.0
    with pytest.raises(NoTransform, match='end 10 s before'):
        tree.find('odom', 'base_link', T)


def test_old_transforms_are_let_go():
    tree = tree_of(*(moving('odom', 'base_link', T + k * STEP) for k in range(1000)))
    (links,) = tree._moving['base_link'].values()
    assert len(links) <= 2 * KEPT_NS // STEP + 2
    tree.find('odom', 'base_link', T + 999 * STEP - KEPT_NS)


@pytest.mark.parametrize(
    ('links', 'parent', 'child', 'text'),
    [
        (VEHICLE[1:], 'map', 'base_link', 'from base_link to map: odom and map have no parent'),
        (VEHICLE[:-3], 'base_link', 'camera', 'from camera to base_link: camera and map have no'),
        (
            VEHICLE[:3] + VEHICLE[4:],
            'base_link',
            'camera',
            'from camera to base_link: sensor_kit and map have no parent',
        ),
    ],
)
def test_the_link_that_is_missing_is_named(links, parent, child, text):
    for pair in ((parent, child), (child, parent)):
        with pytest.raises(NoTransform, match='no transforms lead from') as found:
            tree_of(*links).find(*pair, T)
        assert found.value.is_late
    with pytest.raises(NoTransform, match=text):
        tree_of(*links).find(parent, child, T)


def test_a_moving_link_is_none_of_the_static_ones():
    with pytest.raises(NoTransform, match='base_footprint in odom is not static'):
        tree_of(*VEHICLE).find('odom', 'base_link')


def test_a_ring_is_refused():
    tree = tree_of(static('a', 'b'), static('b', 'c'), static('c', 'a'))
    with pytest.raises(NoTransform, match='a ring: b -> a -> c -> b'):
        tree.find('map', 'b')
    assert flat(tree.find('a', 'b')) == [0.0, 0.0, 0.0]  # which needs no way around


def test_of_two_parents_the_one_that_is_asked_for_counts():
    links = moving('map', 'base_link', T, 1.0), moving('odom', 'base_link', T, 2.0)
    tree = tree_of(*links, static('base_link', 'imu'))
    assert flat(tree.find('odom', 'base_link', T))[0] == 2.0
    assert flat(tree.find('map', 'imu', T))[0] == 1.0
    with pytest.raises(NoTransform, match='base_link has several parents: map, odom'):
        tree.find('earth', 'base_link', T)
    # one that is no longer published is none
    tree.add(moving('odom', 'base_link', T + KEPT_NS + 1, 3.0))
    with pytest.raises(NoTransform, match='from base_link to earth: odom and earth'):
        tree.find('earth', 'base_link', T)


def test_of_static_links_the_newest_holds_also_beside_a_moving_one():
    tree = tree_of(static('base_link', 'imu', 1.0), static('base_link', 'imu', 2.0))
    assert flat(tree.find('base_link', 'imu'))[0] == 2.0
    tree.add(moving('base_link', 'imu', T, 5.0))
    assert flat(tree.find('base_link', 'imu', T))[0] == 2.0
    assert tree.static_count == 2


def test_the_moving_link_nearest_to_the_child_is_found():
    tree = tree_of(*VEHICLE)
    assert tree.find_moving('map', 'camera') == ('base_footprint', 'odom')
    assert tree.find_moving('camera', 'map') == ('odom', 'map')
    with pytest.raises(NoTransform, match='all transforms from camera to imu are static'):
        tree.find_moving('imu', 'camera')


@pytest.mark.parametrize(
    ('position', 'quaternion'),
    [((math.nan, 0.0, 0.0), turn(0)), ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))],
)
def test_a_broken_link_is_refused_where_it_is_used(position, quaternion):
    tree = tree_of(*VEHICLE, Link('base_link', 'wheel', 0, position, quaternion, True))
    assert flat(tree.find('base_link', 'camera'))[0] == 2.5
    with pytest.raises(NoTransform, match='the transform of wheel in base_link is none'):
        tree.find('base_link', 'wheel')


def test_a_moving_link_without_a_stamp_is_left_out():
    with pytest.raises(NoTransform, match='no transforms lead'):
        tree_of(moving('odom', 'base_link', 0)).find('odom', 'base_link', 0)
