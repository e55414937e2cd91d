"""Routes to texts by the documented rule, and which text a context gets."""

from dataclasses import replace
import math

import golden_scene
import numpy as np
import pytest

from alpamayo_ros.context.navigation import NavigationInput
from alpamayo_ros.context.route_text import describe_route
from alpamayo_ros.data_types import NANOSECONDS, Context, Rejection

STRAIGHT = [(0, 0), (1000, 0)]
LEFT = [(0, 0), (100, 0), (100, 300)]
RIGHT = [(0, 0), (100, 0), (100, -300)]
TWO = [(0, 0), (100, 0), (100, 60), (200, 60)]  # left, then right 60 m later
CLOSE = [(0, 0), (100, 0), (100, 12), (300, 12)]  # left and right within one window


def arc(radius_m, degrees, before_m=50.0, after_m=100.0):
    """A straight, an arc to the left and a straight."""
    turn = math.radians(degrees)
    angles = np.linspace(0, turn, 40)
    x, y = before_m + radius_m * np.sin(angles), radius_m * (1 - np.cos(angles))
    end = x[-1] + after_m * math.cos(turn), y[-1] + after_m * math.sin(turn)
    return [(0.0, 0.0), *zip(x, y, strict=True), end]


@pytest.mark.parametrize(
    ('route', 'position', 'yaw', 'text'),
    [
        (LEFT, (60, 0), 0.0, 'Turn left in 40m'),
        (RIGHT, (60, 3), 0.1, 'Turn right in 40m'),
        (LEFT, (99.8, 0), 0.0, 'Turn left in 1m'),
        (LEFT, (100, 5), math.pi / 2, 'Continue straight'),
        (STRAIGHT, (10, 0), 0.0, 'Continue straight'),
        (TWO, (20, 0), 0.0, 'Turn left in 80m'),
        (TWO, (100, 10), math.pi / 2, 'Turn right in 50m'),
        (CLOSE, (90, 0), 0.0, 'Turn left in 10m'),
        (CLOSE, (100, 4), math.pi / 2, 'Turn right in 8m'),
        ([(0, 0), (700, 0), (700, 100)], (0, 0), 0.0, 'Continue straight'),
        ([(0, 0), (700, 0), (700, 100)], (110, 0), 0.0, 'Turn left in 590m'),
        (arc(100, 90), (0, 0), 0.0, 'Continue straight'),  # a bend of the road
        (arc(12.5, 40), (0, 0), 0.0, 'Continue straight'),
        # half way through a right angle: 50 m and an eighth of a circle, to a metre
        (arc(12.5, 90), (0, 0), 0.0, 'Turn left in 61m'),
        (arc(12.5, 90), (52, 0.2), 0.1, 'Turn left in 9m'),
        (arc(12.5, 90), (62.5, 20), math.pi / 2, 'Continue straight'),
    ],
)
def test_a_route_gives_side_and_distance_of_the_next_turn(route, position, yaw, text):
    assert describe_route(route, position, yaw) == (text, '')


@pytest.mark.parametrize(
    ('route', 'position', 'yaw', 'reason'),
    [
        (STRAIGHT, (500, 30), 0.0, 'the vehicle is 30 m off the route'),
        (STRAIGHT, (500, 0), math.pi, 'the vehicle is inf m off the route'),
        (STRAIGHT, (1005, 0), 0.0, 'the route ends here'),
        (STRAIGHT, (1050, 0), 0.0, 'the vehicle is 50 m off the route'),
        ([(5, 5)], (0, 0), 0.0, 'the route has fewer than two points'),
        ([(5, 5), (5, 5)], (0, 0), 0.0, 'the route has fewer than two points'),
        ([(0, 0), (math.nan, 1)], (0, 0), 0.0, 'the route has points that are not finite'),
    ],
)
def test_a_route_without_a_text_says_why(route, position, yaw, reason):
    assert describe_route(route, position, yaw) == ('', reason)


def test_text_does_not_depend_on_the_frame_or_on_how_densely_a_route_is_sampled():
    turned = math.radians(200)
    rotation = np.array(
        [[math.cos(turned), -math.sin(turned)], [math.sin(turned), math.cos(turned)]]
    )
    dense = [(x, 0.0) for x in np.arange(0, 100, 0.5)] + [(100.0, y) for y in range(301)]
    moved = np.array(dense) @ rotation.T + (4e5, 5e6)
    place = rotation @ (60, 1) + (4e5, 5e6)
    assert describe_route(moved, place, turned).text == 'Turn left in 40m'


@pytest.fixture(scope='module')
def context():
    return golden_scene.context()


def seconds(value):
    return round(value * NANOSECONDS)


def test_a_text_holds_until_it_is_too_old(context):
    source = NavigationInput(max_age_s=2.0)
    source.add_text('Turn left in 30m', seconds(100))
    seen = source.apply(context, seconds(101.5))
    assert (seen.navigation.text, seen.navigation.age_s) == ('Turn left in 30m', 1.5)
    old = source.apply(context, seconds(102.5))
    assert old.navigation is None
    assert old.checks == (*context.checks, 'navigation_missing')
    source.add_text('Continue straight', seconds(102))
    assert source.apply(context, seconds(102.5)).navigation.text == 'Continue straight'


def test_a_text_from_before_a_simulated_clock_ages_from_the_first_t0_on(context):
    source = NavigationInput(max_age_s=2.0)
    source.add_text('Turn left in 30m', 0)
    assert source.apply(context, seconds(100)).navigation.age_s == 0
    assert source.apply(context, seconds(101)).navigation.age_s == 1


def test_after_a_jump_of_the_clock_a_text_is_gone_and_a_route_stays(context):
    source = NavigationInput(on_missing='reject')
    source.add_text('Turn left in 30m', seconds(100))
    source.forget_text()
    assert source.apply(context, 0).detail == 'the route text is from before a jump of the clock'
    source.add_route(LEFT, 'odom')
    source.forget_text()
    assert source.apply(context, 0).navigation.text == 'Turn left in 100m'


def test_without_any_text_a_context_stays_as_it_is(context):
    assert NavigationInput().apply(context, 5) == replace(context)


def test_reject_refuses_a_context_and_says_why(context):
    source = NavigationInput(max_age_s=2.0, on_missing='reject')
    nothing = source.apply(context, 0)
    assert nothing == Rejection(
        context.t0_ns, 'no_navigation', 'no route text and no route has come'
    )
    source.add_text('Turn left in 30m', seconds(100))
    assert isinstance(source.apply(context, seconds(101)), Context)
    assert source.apply(context, seconds(110)).detail == (
        'the route text is 10.0 s old, limit 2 s'
    )
    source.add_text('', seconds(110))
    assert source.apply(context, seconds(110)).detail == 'the route text is empty'


def test_a_route_gives_its_text_at_every_t0_and_does_not_age(context):
    source = NavigationInput(max_age_s=2.0, on_missing='reject')
    source.add_route(LEFT, '/odom')
    assert source.apply(context, seconds(1e6)).navigation.text == 'Turn left in 100m'
    pose = replace(context.odom_from_t0, position_m=np.array([70.0, 1.0, 0.0]))
    assert source.apply(replace(context, odom_from_t0=pose), 0).navigation.text == (
        'Turn left in 30m'
    )
    source.add_route(LEFT, 'map')
    assert source.apply(context, 0).detail == "the route is in 'map', the odometry in 'odom'"
    source.add_route([], 'odom')
    assert source.apply(context, 0).detail == 'the route is empty'


def test_the_newer_of_text_and_route_counts(context):
    source = NavigationInput()
    source.add_route(LEFT, 'odom')
    source.add_text('Turn right in 5m', 0)
    assert source.apply(context, 0).navigation.text == 'Turn right in 5m'
    source.add_route(LEFT, 'odom')
    assert source.apply(context, 0).navigation.text == 'Turn left in 100m'
    with pytest.raises(ValueError, match='printable'):
        source.add_text('<|route_end|>', 0)
    assert source.apply(context, 0).navigation.text == 'Turn left in 100m'
