"""Faults of the soak test: each takes five seconds of a drive and spoils them.

A drive is a list of (log time ns, topic, message), and a fault returns another one. A message may
be replaced by an action: (log time ns, None, function of the Soak).
"""

from functools import partial

import numpy as np
from small_bag import CAMERAS, ODOMETRY, ORIGIN_M, PICTURE, compressed, image_topic, jpeg, odometry

MS = 1_000_000
SECOND = 1000 * MS
RADIUS_M, SPEED_MPS = 50.0, 10.0
ANCHOR = image_topic('front_wide')
OTHER_ODOMETRY = 'odometry of a second publisher'
IMAGES = tuple(map(image_topic, CAMERAS))
SMALL_PICTURE = jpeg(32, 24)
FAR_M = 1000.0  # where the engine moves paths that must not be published
# act to the value of max_tokens that asks for it
ACTS = {
    'good': 256,
    'raise': 1001,
    'out_of_memory': 1002,
    'endless': 1003,
    'backward': 1004,
    'not_finite': 1005,
    'slow': 1006,
    'late': 1007,
    'hang': 1008,
    'die': 1009,
}
CAMERA_DELAY_NS, ODOMETRY_DELAY_NS = 20 * MS, 3 * MS


def true_pose(time_ns):
    """Position (3,) and yaw of the vehicle on its endless circle."""
    turned = (time_ns % (10**6 * SECOND)) / SECOND * SPEED_MPS / RADIUS_M
    position = ORIGIN_M + RADIUS_M * np.array([np.sin(turned), 1 - np.cos(turned), 0.0])
    return position, turned


def pose(stamp_ns, time_ns=None, left_m=0.0, ahead_m=0.0, **changes):
    """Odometry at a time, by default that of the stamp; displaced, or with fields changed."""
    position, yaw = true_pose(stamp_ns if time_ns is None else time_ns)
    ahead, left = (
        np.array([np.cos(yaw), np.sin(yaw), 0.0]),
        np.array([-np.sin(yaw), np.cos(yaw), 0]),
    )
    position = position + ahead_m * ahead + left_m * left
    values = {'position': position, 'yaw': yaw, 'speed': SPEED_MPS, **changes}
    return odometry(stamp_ns, **values)


def drive(start_ns, seconds):
    """Four cameras at 10 Hz and odometry at 50 Hz from a time on, by log time."""
    found = []
    for stamp in range(start_ns, start_ns + round(seconds * SECOND), 100 * MS):
        message = compressed(stamp)
        found += [(stamp + CAMERA_DELAY_NS, topic, message) for topic in IMAGES]
    for stamp in range(start_ns, start_ns + round(seconds * SECOND), 20 * MS):
        found.append((stamp + ODOMETRY_DELAY_NS, ODOMETRY, pose(stamp)))
    return by_time(found)


def by_time(items):
    """Items in the order of their log times."""
    return sorted(items, key=lambda item: item[0])


def stamp_of(message):
    """Header stamp of a message in ns."""
    return message.header.stamp.sec * SECOND + message.header.stamp.nanosec


class Span:
    """A random topic and span of time of a drive; what faults are written with."""

    def __init__(self, items, rng, low_s=0.2, high_s=1.5):
        self.items, self.rng = items, rng
        first = items[0][0]
        self.begin = first + round(rng.uniform(0.5, 3.0) * SECOND)
        self.end = self.begin + round(rng.uniform(low_s, high_s) * SECOND)
        self.image = IMAGES[rng.integers(len(IMAGES))]

    def holds(self, item, *topics):
        """Whether an item is of these topics and inside the span."""
        return item[1] in topics and self.begin <= item[0] < self.end

    def changed(self, change, *topics):
        """Items with the messages of topics in the span replaced by change(stamp)."""
        return [
            (log, topic, change(stamp_of(message)))
            if self.holds((log, topic), *topics)
            else (log, topic, message)
            for log, topic, message in self.items
        ]

    def without(self, *topics):
        """Items without those of topics in the span."""
        return [item for item in self.items if not self.holds(item, *topics)]

    def moved(self, shift_ns, *topics):
        """Items of topics in the span arrive later."""
        return by_time(
            [(x[0] + shift_ns, *x[1:]) if self.holds(x, *topics) else x for x in self.items]
        )

    def doing(self, first, last):
        """Items with an action at the begin of the span and one at its end."""
        return by_time([*self.items, (self.begin, None, first), (self.end, None, last)])


def truncated_jpeg(items, rng):
    span = Span(items, rng)
    return span.changed(lambda ns: compressed(ns, PICTURE[: len(PICTURE) // 2]), span.image)


def noise_for_jpeg(items, rng):
    span = Span(items, rng)
    noise = rng.integers(0, 256, 700).astype(np.uint8)
    return span.changed(lambda ns: compressed(ns, noise), span.image)


def empty_image(items, rng):
    span = Span(items, rng)
    return span.changed(lambda ns: compressed(ns, PICTURE[:0]), span.image)


def changed_size(items, rng):
    span = Span(items, rng)
    return span.changed(lambda ns: compressed(ns, SMALL_PICTURE), span.image)


def wrong_encoding(items, rng):
    span = Span(items, rng)
    return span.changed(lambda ns: compressed(ns, codec='webp'), span.image)


def nan_odometry(items, rng):
    return Span(items, rng).changed(partial(pose, position=(np.nan, 0.0, 0.0)), ODOMETRY)


def infinite_speed(items, rng):
    return Span(items, rng).changed(partial(pose, speed=np.inf), ODOMETRY)


def vehicle_elsewhere(items, rng):
    """The localisation jumps, and stays away for a while."""
    return Span(items, rng).changed(partial(pose, position=ORIGIN_M + 90.0), ODOMETRY)


def localisation_jumps(items, rng):
    """The odometry jumps to the side or ahead, and back after a while."""
    shift = ({'left_m': 0.5}, {'left_m': 3.0}, {'ahead_m': 90.0})[rng.integers(3)]
    return Span(items, rng).changed(partial(pose, **shift), ODOMETRY)


def clock_steps(items, rng):
    """The clock that stamps all inputs is set by a time service, and back after a while."""
    step_ns = round(rng.choice([-0.3, -0.05, 0.15]) * SECOND)
    span = Span(items, rng, 1.0, 2.0)

    def restamp(item):
        stamp_ns = stamp_of(item[2]) + step_ns
        if item[1] == ODOMETRY:
            return pose(stamp_ns, time_ns=stamp_ns - step_ns)
        return compressed(stamp_ns)

    stepped = [
        (*item[:2], restamp(item)) if span.holds(item, *IMAGES, ODOMETRY) else item
        for item in items
    ]

    def set_clock(shift_ns):
        return lambda soak: soak.rules.set_clock(shift_ns)

    span.items = stepped
    return span.doing(set_clock(step_ns), set_clock(0))


def two_publishers(items, rng):
    """A second node publishes the odometry, 1 m to the side."""
    span = Span(items, rng)
    others = [
        (log + MS, OTHER_ODOMETRY, pose(stamp_of(message) + MS, left_m=1.0))
        for log, topic, message in items
        if span.holds((log, topic), ODOMETRY)
    ]
    span.items = [*items, *others]
    return span.doing(lambda soak: None, lambda soak: None)


def another_frame(items, rng):
    return Span(items, rng).changed(partial(pose, frame_id='map'), ODOMETRY)


def zero_stamps(items, rng):
    span = Span(items, rng)
    topic = ODOMETRY if rng.random() < 0.3 else span.image
    make = pose if topic == ODOMETRY else compressed
    return span.changed(lambda ns: make(0), topic)


def future_stamps(items, rng):
    span, ahead = Span(items, rng), round(rng.choice([0.04, 0.3, 5.0, 3600.0]) * SECOND)
    return span.changed(lambda ns: compressed(ns + ahead), span.image)


def past_odometry(items, rng):
    span, behind = Span(items, rng), round(rng.choice([0.1, 1.0, 1000.0]) * SECOND)
    return span.changed(lambda ns: pose(ns - behind), ODOMETRY)


def duplicates(items, rng):
    span = Span(items, rng)
    return by_time(items + [x for x in items if span.holds(x, span.image, ANCHOR, ODOMETRY)])


def out_of_order(items, rng):
    """Messages overtake one another: log times are shuffled by up to 0.15 s."""
    span = Span(items, rng)
    late = [
        (log + int(rng.integers(0, 150 * MS)), topic, message)
        if span.holds((log, topic), *IMAGES, ODOMETRY)
        else (log, topic, message)
        for log, topic, message in items
    ]
    return by_time(late)


def late_camera(items, rng):
    span = Span(items, rng)
    return span.moved(round(rng.uniform(0.1, 0.9) * SECOND), span.image)


def camera_dies(items, rng):
    span = Span(items, rng, 0.5, 2.0)
    return span.without(span.image)


def odometry_gap(items, rng):
    return Span(items, rng).without(ODOMETRY)


def silence(items, rng):
    return Span(items, rng).without(*IMAGES, ODOMETRY)


def clock_stops(items, rng):
    def stop(soak):
        soak.clock_runs = False

    def go_on(soak):
        soak.clock_runs = True

    return Span(items, rng, 0.5, 2.0).doing(stop, go_on)


def publisher_restarts(items, rng):
    span = Span(items, rng)
    topic = ODOMETRY if rng.random() < 0.3 else span.image
    items = [x for x in items if not span.begin <= x[0] < span.begin + 100 * MS or x[1] != topic]
    return by_time([*items, (span.begin, None, lambda soak: soak.restart_publisher(topic))])


def parameters_change(items, rng):
    values = {'num_samples': int(rng.integers(1, 4)), 'seed': int(rng.integers(1000))}
    values['temperature'] = float(rng.uniform(0.1, 2.0))

    def change(soak):
        for name, value in values.items():
            soak.set_parameter(name, value)

    return Span(items, rng).doing(change, lambda soak: soak.set_parameter('num_samples', 1))


def parameters_refused(items, rng):
    wrong = [('rig', 'r1'), ('num_samples', 0), ('temperature', 'warm'), ('top_p', 7.0)]

    def change(soak):
        for name, value in wrong:
            soak.set_parameter(name, value, accepted=False)

    return Span(items, rng).doing(change, lambda soak: None)


def reset(items, rng):
    return Span(items, rng).doing(lambda soak: soak.call('reset'), lambda soak: soak.call('reset'))


def pause(items, rng):
    """Nothing is published while paused."""
    return Span(items, rng, 1.0, 2.0).doing(
        lambda soak: soak.call('enable', False, done=soak.silencing()),
        lambda soak: soak.reopen('enable'),
    )


def pause_without_a_camera(items, rng):
    """A path from before the pause is not held either."""
    span = Span(items, rng, 1.0, 2.0)
    span.items = span.without(span.image)
    return span.doing(
        lambda soak: soak.call('enable', False, done=soak.silencing()),
        lambda soak: soak.reopen('enable'),
    )


def infer_once(items, rng):
    """While paused, one path."""
    span = Span(items, rng, 1.0, 2.0)
    middle = (span.begin + span.end) // 2
    items = span.doing(
        lambda soak: soak.call('enable', False, done=soak.silencing()),
        lambda soak: soak.reopen('enable'),
    )
    return by_time([*items, (middle, None, lambda soak: soak.infer_once())])


def unload(items, rng):
    """Nothing is published without a model."""
    return Span(items, rng, 1.0, 2.0).doing(
        lambda soak: soak.call('load', False, done=soak.silencing()),
        lambda soak: soak.reopen('load'),
    )


def reload(items, rng):
    """The model is loaded again, and is asked for three times."""

    def load(soak):
        for _ in range(3):
            soak.call('load', True)

    return Span(items, rng).doing(load, lambda soak: soak.call('load', True))


def deactivate(items, rng):
    """A lifecycle manager pauses the node."""

    def go_on(soak):
        soak.reopen(None)
        soak.change_state('activate')

    return Span(items, rng, 1.0, 2.0).doing(
        lambda soak: soak.change_state('deactivate', done=soak.silencing()), go_on
    )


def clean_up(items, rng):
    """A lifecycle manager takes the node down and up again."""

    def down(soak):
        soak.change_state('deactivate')
        soak.change_state('cleanup', done=soak.silencing())

    def up(soak):
        soak.reopen(None)
        soak.change_state('configure')
        soak.change_state('activate')

    return Span(items, rng, 1.0, 2.0).doing(down, up)


def impossible_transitions(items, rng):
    """Transitions that no state of a running node has are refused, and change nothing."""

    def ask(soak):
        def refused(response):
            if response.success:
                soak.rules.breach('an impossible transition succeeded')

        soak.change_state(number=99, done=refused)
        soak.change_state('rest', done=refused)

    return Span(items, rng).doing(ask, ask)


def acting(act):
    """Fault in which the engine acts; what must not be published is not."""

    def fault(items, rng):
        def begin(soak):
            done = None if act in ('slow', 'late') else soak.closing()
            soak.set_parameter('max_tokens', ACTS[act], done=done)

        def end(soak):
            soak.set_parameter('max_tokens', ACTS['good'])
            soak.reopen('load' if act in ('raise', 'out_of_memory') else None)

        return Span(items, rng, 0.5, 2.0).doing(begin, end)

    fault.__name__ = act
    return fault


def burst(items, rng):
    """Twenty times real time: the Soak plays it so."""
    return items


def clock_begins_again(items, rng):
    """The bag is played again from its start: the Soak sets the time back."""
    return items


def clock_leaps(items, rng):
    """A minute is left out: the Soak does it."""
    return items


FAULTS = (
    truncated_jpeg,
    noise_for_jpeg,
    empty_image,
    changed_size,
    wrong_encoding,
    nan_odometry,
    infinite_speed,
    vehicle_elsewhere,
    localisation_jumps,
    clock_steps,
    two_publishers,
    another_frame,
    zero_stamps,
    future_stamps,
    past_odometry,
    duplicates,
    out_of_order,
    late_camera,
    camera_dies,
    odometry_gap,
    silence,
    clock_stops,
    publisher_restarts,
    parameters_change,
    parameters_refused,
    reset,
    pause,
    pause_without_a_camera,
    infer_once,
    unload,
    reload,
    deactivate,
    clean_up,
    impossible_transitions,
    *(acting(act) for act in ACTS if act != 'good'),
    burst,
    clock_begins_again,
    clock_leaps,
)
