"""The node without ROS: messages of a small drive through buffer, worker and publication."""

from collections import Counter
from dataclasses import replace
import os
import queue
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from small_bag import (
    CAMERAS,
    ODOMETRY,
    PICTURE,
    START_NS,
    compressed,
    drive,
    header,
    image_topic,
    jpeg,
    make,
    odometry,
    write_rig,
)
from test_lanelet_map import write_map
from test_policy import Listener
import toy_engines

from alpamayo_ros.bags.messages import TYPESTORE
from alpamayo_ros.bags.reader import Bag
from alpamayo_ros.data_types import Rejection, derive_seed
from alpamayo_ros.errors import BadInput
from alpamayo_ros.replay.replay import Replay, Schedule
from alpamayo_ros.rig import load_rig
from alpamayo_ros.ros.anchors import FATES
from alpamayo_ros.ros.inputs import to_lanelets
from alpamayo_ros.ros.parameters import NodeParameters
from alpamayo_ros.ros.pipeline import Pipeline
from alpamayo_ros.ros.publishing import questions
from alpamayo_ros.ros.publishing.outputs import OUTPUTS, read_samples
from alpamayo_ros.runtime.constant_velocity import ConstantVelocityEngine

LIMIT_S = 10.0
NOISE = np.arange(200, dtype=np.uint8)
NAMES = {image_topic(camera): camera for camera in CAMERAS} | {ODOMETRY: 'odometry'}


class Bench:
    """A pipeline with a clock that follows the messages, and a listener on every topic."""

    def __init__(self, rig, engine=None, **parameters):
        self.now_ns, self.posted, self.log = 0, queue.Queue(), []
        self.listeners = {output: Listener() for output in OUTPUTS}
        self.reports = Reports()
        engine = engine or ConstantVelocityEngine()

        def start(choice, rig):
            if isinstance(engine, BaseException):
                raise engine
            return engine

        values = {'rig': 'small', 'engine': 'constant_velocity', 'max_rate_hz': 100.0}
        values['engine_process'] = False  # the engines here are objects of this process
        is_function = callable(engine)
        self.pipeline = Pipeline(
            NodeParameters(**{**values, **parameters}),
            rig,
            self.listeners,
            make,
            now_ns=lambda: self.now_ns,
            post=lambda *call: self.posted.put(call),
            start_engine=engine if is_function else start,
            log=lambda severity, text: self.log.append((severity, text)),
            status=self.reports,
        )
        self.pipeline.load()
        self.pipeline.activate()
        self.run_one()

    def run_one(self):
        """Run what the engine's thread has posted; wait for it."""
        function, *arguments = self.posted.get(timeout=LIMIT_S)
        function(*arguments)

    def feed(self, messages, wait=True):
        """Receive messages at their log times, with every inference finished before the next."""
        for log_ns, topic, message in messages:
            self.now_ns = log_ns
            if topic == ODOMETRY:
                message = bytes(TYPESTORE.serialize_cdr(message, 'nav_msgs/msg/Odometry'))
            self.pipeline.receive(NAMES[topic], message)
            while wait and self.pipeline.worker.pending:
                self.run_one()

    def sent(self, topic):
        """Messages of a topic."""
        return next(x.messages for output, x in self.listeners.items() if output.topic == topic)

    def status(self, name):
        """Diagnostics of a name."""
        return next(s for s in self.pipeline.describe_all({}, False) if s.name == name)

    def fates(self):
        """Anchor frames by fate, after a check that they add up."""
        anchors = self.pipeline.anchors
        counts = {fate: anchors.total(fate) for fate in FATES if anchors.total(fate)}
        pending = anchors.waiting + self.pipeline.worker.pending
        assert anchors.seen == sum(counts.values()) + pending
        assert self.status('inference').values['pending'] == pending
        return counts


class Reports:
    """Takes the place of a T0StatusPublisher."""

    def __init__(self):
        self.all, self.beats = [], []

    def publish(self, report):
        """Keep a report."""
        self.all.append(report)

    def beat(self, report):
        """Keep a heartbeat."""
        self.beats.append(report)

    def fates(self):
        """Fate and reason of each t0, which has one report only."""
        found = {report.t0_ns: (report.fate, report.reason) for report in self.all}
        assert len(found) == len(self.all)
        return found


class Sick(ConstantVelocityEngine):
    """Fails as it is told, then recovers."""

    def __init__(self, *errors):
        super().__init__()
        self.errors = list(errors)

    def infer(self, context, seed):
        """Raise or predict."""
        if self.errors:
            raise self.errors.pop(0)
        return super().infer(context, seed)


@pytest.fixture
def rig(tmp_path):
    return load_rig(write_rig(tmp_path))


@pytest.fixture
def bench(rig):
    return Bench(rig)


def stamp_ns(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def start_of(messages):
    return messages[0][0] // 10**9 * 10**9


@pytest.mark.parametrize('curvature', [0.0, 0.02])
def test_a_drive_gives_a_path_for_every_anchor_with_a_whole_history(bench, curvature):
    bench.feed(drive(seconds=3.0, curvature=curvature))
    assert bench.fates() == {'inferred': 16, 'rejected': 15}
    stamps = [stamp_ns(path) for path in bench.sent('output/path')]
    assert np.array_equal(np.diff(stamps), np.full(15, 10**8))
    last = bench.sent('output/path')[-1].poses[9].pose.position
    heading = 0.6 + curvature * 10 * 3.0
    t = 3.0 * 10
    local = [t, 0] if not curvature else [np.sin(curvature * t), 1 - np.cos(curvature * t)]
    offset = np.array(local) / (curvature or 1)
    at = np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]]) @ offset
    ahead = at + 10.0 * np.array([np.cos(heading), np.sin(heading)])
    assert (last.x - 4.5e5, last.y - 5.4e6) == pytest.approx(tuple(ahead), abs=0.01)


def text_message(text):
    return make('std_msgs/msg/String', data=text)


def route_message(points, frame_id='odom'):
    poses = [
        make(
            'geometry_msgs/msg/PoseStamped',
            pose=make(
                'geometry_msgs/msg/Pose', position=make('geometry_msgs/msg/Point', x=x, y=y)
            ),
        )
        for x, y in points
    ]
    return make('nav_msgs/msg/Path', header=header(0, frame_id), poses=poses)


class SeesRoutes(ConstantVelocityEngine):
    """Keeps the route text of every context."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def infer(self, context, seed):
        """Predict."""
        self.seen.append(context.navigation)
        return super().infer(context, seed)


def test_route_texts_reach_the_engine_until_they_are_old_and_bad_ones_are_named(rig):
    engine = SeesRoutes()
    bench = Bench(rig, engine, navigation_max_age_s=0.45)
    messages = drive(seconds=3.0)
    begin = START_NS + 2 * 10**9
    bench.feed([m for m in messages if m[0] <= begin])
    assert set(engine.seen) == {None}
    engine.seen.clear()
    bench.pipeline.receive_navigation(text_message('Turn left in 30m'))
    bench.pipeline.receive_navigation(text_message('<|route_end|>'))
    assert 'navigation: route text' in bench.log[-1][1]
    bench.feed([m for m in messages if m[0] > begin])
    found = [(x.text, round(x.age_s, 1)) if x else None for x in engine.seen]
    text = 'Turn left in 30m'
    assert found[:4] == [(text, 0.0), (text, 0.1), (text, 0.2), (text, 0.3)]
    assert set(found[5:]) == {None}
    assert 'navigation_missing' in bench.reports.all[-1].served.prediction.checks
    assert 'no route text that is new enough' in bench.status('context').message


def test_a_route_gives_each_t0_its_text_and_reject_holds_back_what_has_none(rig):
    engine = SeesRoutes()
    bench = Bench(rig, engine, on_missing_navigation='reject')
    messages = drive(seconds=3.0)
    begin = START_NS + 2 * 10**9
    bench.feed([m for m in messages if m[0] <= begin])
    assert bench.fates() == {'rejected': 20}
    assert bench.pipeline.anchors.rejections['no_navigation'] == 5
    x, y = 4.5e5, 5.4e6
    ahead = np.array([np.cos(0.6), np.sin(0.6)])
    corner = (x, y) + 60 * ahead
    points = [(x, y), tuple(corner), (corner[0] - 50 * ahead[1], corner[1] + 50 * ahead[0])]
    bench.pipeline.receive_navigation(route_message(points))
    bench.feed([m for m in messages if m[0] > begin])
    ways = [int(x.text.removeprefix('Turn left in ').removesuffix('m')) for x in engine.seen]
    assert ways == [round(60 - 10 * t) for t in np.arange(2.0, 3.01, 0.1)]
    bench.pipeline.receive_navigation(route_message(points, 'map'))
    bench.feed([(m[0] + 1, *m[1:]) for m in drive(seconds=3.3) if m[0] > messages[-1][0]])
    reports = [report for report in bench.reports.all if report.reason == 'no_navigation']
    assert reports[-1].detail == "the route is in 'map', the odometry in 'odom'"


def test_a_route_of_lanelets_gets_its_points_from_the_map(rig, tmp_path):
    """On the map the vehicle, far from it, is off the route: its frame and points have come."""
    path = str(write_map(tmp_path))
    bench = Bench(rig, lanelet_map=path, on_missing_navigation='reject')

    def make_route(*numbers, frame_id='odom'):
        parts = [SimpleNamespace(preferred_primitive=SimpleNamespace(id=x)) for x in numbers]
        return SimpleNamespace(header=header(0, frame_id), segments=parts)

    bench.pipeline.receive_navigation(make_route(1, 2))
    bench.feed(drive(seconds=1.6))
    details = [x.detail for x in bench.reports.all if x.reason == 'no_navigation']
    assert details and all(x.endswith('m off the route') for x in details)
    bench.pipeline.receive_navigation(make_route(1, 7))
    assert 'navigation: lanelet 7 is not in' in bench.log[-1][1]
    with pytest.raises(ValueError, match='without a frame_id'):
        to_lanelets(make_route(1, frame_id=''))


def test_live_and_offline_publish_the_same_poses_for_the_same_t0(bench, rig, tmp_path):
    from small_bag import write

    messages = drive(seconds=3.0, curvature=0.02)
    bench.feed(messages)
    with Bag(write(tmp_path / 'bag', messages)) as bag:
        replay = Replay(bag, rig, ConstantVelocityEngine(), Schedule(period_ns=0))
        lines = {x['t0_ns']: x for x in replay.lines() if x['status'] == 'ok'}
    paths, samples = bench.sent('output/path'), bench.sent('debug/samples')
    assert [stamp_ns(path) for path in paths][1:] == list(lines)  # a replay begins at 1.6 s
    for message, line in zip(samples[1:], lines.values(), strict=True):
        live = read_samples(message)[0].astype(np.float64).round(6)
        assert np.array_equal(live, np.array(line['samples']))


def test_the_seed_is_a_function_of_the_parameter_and_t0(rig):
    seeds = []

    class Spy(ConstantVelocityEngine):
        def infer(self, context, seed):
            seeds.append((context.t0_ns, seed))
            return super().infer(context, seed)

    Bench(rig, Spy(), seed=7).feed(drive(seconds=2.0))
    assert len(seeds) == 6
    assert all(seed == derive_seed(7, t0_ns) for t0_ns, seed in seeds)


def test_every_anchor_frame_has_one_status_with_its_fate(bench):
    bench.feed(drive(seconds=3.0), wait=False)
    while bench.pipeline.worker.pending:
        bench.run_one()
    fates = bench.reports.fates()
    assert len(fates) == 31
    counts = Counter(fate for fate, _ in fates.values())
    assert dict(counts) == bench.fates()
    served = [report for report in bench.reports.all if report.fate == 'inferred']
    assert [report.path_stamp_ns for report in served] == [report.t0_ns for report in served]
    assert [report.decision.action for report in served] == ['publish'] * len(served)


def test_two_loops_of_a_bag_give_the_same_paths_and_a_new_epoch(bench):
    messages = drive(seconds=3.0)
    bench.feed(messages)
    first = list(bench.sent('output/path'))
    bench.feed(messages)
    assert bench.sent('output/path')[len(first) :] == first
    assert bench.status('context').values['epoch'] == 1
    assert bench.sent('output/markers')[len(first)].markers[0].action == 3
    assert bench.fates()['inferred'] == 32


def test_what_is_in_flight_when_the_clock_jumps_is_discarded(bench):
    messages = drive(seconds=2.5)
    bench.feed(messages, wait=False)
    assert bench.pipeline.worker.pending == 2  # nothing was collected since the first
    bench.feed(messages[:3], wait=False)
    while bench.pipeline.worker.pending:
        bench.run_one()
    counts = bench.fates()
    assert counts.get('inferred', 0) == 0 and counts['discarded'] == 2
    assert bench.sent('output/path') == []


def test_a_slow_engine_gets_the_newest_context_and_the_others_are_dropped(bench):
    bench.feed(drive(seconds=3.0), wait=False)
    while bench.pipeline.worker.pending:
        bench.run_one()
    assert bench.fates() == {'inferred': 2, 'dropped': 14, 'rejected': 15}
    first, last = bench.sent('debug/samples'), bench.sent('output/path')
    assert len(first) == len(last) == 2
    assert stamp_ns(last[1]) - stamp_ns(last[0]) == 15 * 10**8


def test_max_rate_is_an_upper_limit_by_stamps(rig):
    bench = Bench(rig, max_rate_hz=5.0)
    bench.feed(drive(seconds=3.0))
    stamps = [stamp_ns(path) for path in bench.sent('output/path')]
    assert set(np.diff(stamps)) == {2 * 10**8}
    assert bench.pipeline.anchors.fates['dropped', 'rate_limit'] == 8


def test_a_camera_that_dies_and_comes_back_is_named_and_served_again(bench):
    messages = drive(seconds=6.0)
    begin = start_of(messages)
    gone = [
        m for m in messages if m[1] != image_topic('front_tele') or not 2e9 < m[0] - begin < 4e9
    ]
    split = next(i for i, m in enumerate(gone) if m[0] - begin > 3.9e9)
    bench.feed(gone[:split])
    context, camera = bench.status('context'), bench.status('input/front_tele')
    assert (context.level, 'front_tele: no frame within' in context.message) == (2, True)
    assert (camera.level, camera.message) == (2, 'front_tele: 2.0 s old')
    bench.feed(gone[split:])
    counts = bench.fates()
    assert bench.status('context').level == 0
    assert counts['inferred'] == 46 - 23  # 20 without a frame, 3 more without its past


def test_an_odometry_gap_is_a_warning_with_its_length(bench):
    messages = drive(seconds=2.5)
    begin = start_of(messages)
    bench.feed([m for m in messages if m[1] != ODOMETRY or not 2.0e9 < m[0] - begin < 2.3e9])
    status = bench.status('context')
    assert (status.level, 'odometry: gap of 0.320 s' in status.message) == (1, True)
    bench.fates()


@pytest.mark.parametrize(
    'spoil, reason',
    [
        (lambda stamp: compressed(stamp, NOISE, codec='webp'), 'bad_message'),
        (lambda stamp: compressed(stamp, PICTURE[:0]), 'bad_message'),
        (lambda stamp: compressed(0), 'bad_message'),
        (lambda stamp: compressed(stamp, jpeg(32, 24)), 'image_size'),
        (lambda stamp: compressed(stamp - 10**8), 'duplicate_stamp'),
    ],
)
def test_a_bad_image_is_refused_with_its_reason_and_the_next_contexts_are_served(
    bench, spoil, reason
):
    messages = drive(seconds=4.0)
    topic, bad_ns = image_topic('front_wide'), start_of(messages) + 2 * 10**9
    changed = [
        (log, where, spoil(bad_ns) if (where, stamp_ns(m)) == (topic, bad_ns) else m)
        for log, where, m in messages
    ]
    bench.feed(changed)
    assert bench.pipeline.anchors.rejections[reason] >= 1
    counts = bench.fates()
    assert 19 <= counts['inferred'] <= 24  # a bad frame is in four contexts
    assert stamp_ns(bench.sent('output/path')[-1]) == bad_ns + 2 * 10**9


def test_bad_odometry_is_refused_and_the_history_goes_around_it(bench):
    messages = drive(seconds=3.0)
    extra = [
        (log + 1, topic, odometry(stamp_ns(m) + 5_000_000, (np.nan, 0.0, 0.0), 0.0, 10.0))
        for log, topic, m in messages
        if topic == ODOMETRY
    ]
    bench.feed(sorted(messages + extra, key=lambda m: m[0]))
    assert bench.fates()['inferred'] == 16
    assert bench.status('input/odometry').values['refused'] == len(extra)
    assert any('position is not finite' in text for _, text in bench.log)


def test_history_against_twist_beyond_the_limit_is_not_served(bench):
    wrong = [
        (
            log,
            topic,
            m if topic != ODOMETRY else replace(m, twist=odometry(1, (0, 0, 0), 0, 15.0).twist),
        )
        for log, topic, m in drive(seconds=2.0)
    ]
    bench.feed(wrong)
    assert bench.pipeline.anchors.rejections['v0_mismatch'] == 6
    assert bench.sent('output/path') == []


def test_input_that_is_old_or_from_the_future_by_the_clock_is_not_inferred(bench):
    for shift_s, reason in ((2.0, 'stale_input'), (-2.0, 'future_input')):
        messages = drive(seconds=2.0)
        bench.feed([(log + round(shift_s * 1e9), topic, m) for log, topic, m in messages])
        assert bench.pipeline.anchors.rejections[reason] >= 5
        bench.pipeline.reset()
    assert 'inferred' not in bench.fates()


def test_anchors_that_wait_for_input_that_never_comes_are_decided_by_the_clock(bench):
    messages = drive(seconds=2.0)
    begin = start_of(messages)
    bench.feed([m for m in messages if m[1] != ODOMETRY or m[0] - begin < 1.6e9])
    assert bench.pipeline.anchors.waiting > 0
    bench.now_ns += 10**9
    bench.pipeline.tick()
    assert bench.pipeline.anchors.waiting == 0
    assert bench.pipeline.anchors.rejections['odometry_late'] >= 3
    bench.fates()


def test_a_failure_of_the_engine_is_an_error_and_the_next_context_is_served(rig):
    bench = Bench(rig, Sick(RuntimeError('kernel'), KeyError('x')))
    messages = drive(seconds=3.0)
    split = next(i for i, m in enumerate(messages) if m[0] > start_of(messages) + 1.7e9)
    bench.feed(messages[:split])
    status = bench.status('output')
    assert (status.level, status.message) == (2, "inference failed: KeyError: 'x'")
    bench.feed(messages[split:])
    assert bench.status('output').level == 0
    assert bench.fates() == {'failed': 2, 'inferred': 14, 'rejected': 15}


def test_a_corrupt_picture_is_rejected_with_camera_and_slot(rig):
    class Decoding(ConstantVelocityEngine):
        def infer(self, context, seed):
            from alpamayo_ros import images

            for frames in context.frames.values():
                for frame in frames:
                    images.decode(frame)
            return super().infer(context, seed)

    bench = Bench(rig, Decoding())
    messages = drive(seconds=3.0)
    bad_ns = start_of(messages) + 2 * 10**9
    cut = [
        (log, topic, compressed(bad_ns, PICTURE[:300]))
        if (topic, stamp_ns(m)) == (image_topic('cross_left'), bad_ns)
        else (log, topic, m)
        for log, topic, m in messages
    ]
    bench.feed(cut)
    assert bench.fates() == {'inferred': 12, 'rejected': 19}
    assert bench.pipeline.anchors.rejections['bad_image'] == 4
    details = [report.detail for report in bench.reports.all if report.reason == 'bad_image']
    assert len(details) == 4
    assert 'cross_left: frame at t0-0.20 s' in details[2]
    assert bench.pipeline.worker.state == 'ready'


def test_a_failed_load_leaves_a_node_that_says_so_and_can_load_again(rig):
    bench = Bench(rig, BadInput('no such folder'))
    bench.feed(drive(seconds=2.0))
    assert (bench.status('model').level, bench.status('model').message) == (2, 'no such folder')
    assert bench.pipeline.anchors.fates['discarded', 'not_ready'] == 6
    bench.pipeline._start_engine = lambda choice, rig: ConstantVelocityEngine()
    bench.pipeline.load()
    assert bench.status('model').message == 'loading'
    bench.run_one()
    bench.feed(drive(seconds=2.0))
    assert bench.fates()['inferred'] == 6


def split(messages, at_s):
    """Messages before and after a time."""
    at = next(i for i, m in enumerate(messages) if m[0] > start_of(messages) + at_s * 1e9)
    return messages[:at], messages[at:]


def test_paused_contexts_are_discarded_and_one_can_be_asked_for(bench):
    bench.pipeline.deactivate()
    first, second = split(drive(seconds=3.0), 2.0)
    bench.feed(first)
    assert bench.sent('output/path') == []
    bench.pipeline.infer_once()
    bench.feed(second)
    assert len(bench.sent('output/path')) == 1
    assert bench.pipeline.anchors.fates['discarded', 'paused'] == 15
    assert bench.pipeline.state == 'inactive'
    assert bench.status('model').message == bench.status('output').message == 'paused'
    bench.fates()


class Talks(ConstantVelocityEngine):
    """Answers a question with the time that it is about."""

    def answer(self, context, question, seed):
        """Say it, and never end where that is asked for."""
        return f'{question} {(context.t0_ns - START_NS) / 1e9:g} s', question != 'For ever?'


def test_a_question_is_answered_while_paused_and_costs_no_path(rig):
    bench, answers = Bench(rig, Talks()), []
    first, second = split(drive(seconds=3.0), 2.0)
    bench.feed(first)
    bench.pipeline.ask('What?', lambda *found: answers.append(found))
    assert answers == [(False, answers[0][1])] and 'would delay its paths' in answers[0][1]
    bench.pipeline.deactivate()
    bench.pipeline.infer_once()
    for question in (' ', 'What?', 'Who?'):
        bench.pipeline.ask(question, lambda *found: answers.append(found))
    refusals = ['the question is empty', 'another question is being answered']
    assert answers[1:] == [(False, text) for text in refusals]
    sent = len(bench.sent('output/path'))
    bench.feed(second)
    assert answers[-1] == (True, 'What? 2 s')
    assert len(bench.sent('output/path')) == sent + 1  # the one that was asked for
    assert bench.pipeline.anchors.fates['discarded', 'question'] == 1
    bench.fates()


def test_a_question_while_active_delays_paths_only_where_that_is_allowed(rig):
    bench, answers = Bench(rig, Talks(), answer_while_active=True), []
    first, second = split(drive(seconds=3.0), 2.0)
    bench.feed(first)
    bench.pipeline.ask('For ever?', lambda *found: answers.append(found))
    bench.feed(second)
    assert answers == [(False, 'the answer did not end within 256 tokens: For ever? 2 s')]
    assert bench.fates() == {'inferred': 15, 'rejected': 15, 'discarded': 1}


def test_a_question_needs_no_route(rig):
    bench, answers = Bench(rig, Talks(), on_missing_navigation='reject'), []
    bench.pipeline.deactivate()
    bench.pipeline.ask('What?', lambda *found: answers.append(found))
    bench.feed(drive(seconds=2.0))
    assert answers == [(True, 'What? 1.5 s')]


def test_a_question_without_a_context_or_a_model_is_refused_with_the_reason(rig, monkeypatch):
    bench, answers = Bench(rig, Talks()), []
    bench.pipeline.deactivate()
    bench.feed(drive(seconds=1.0))
    bench.pipeline.ask('What?', lambda *found: answers.append(found))
    bench.pipeline.tick()
    assert answers == []
    monkeypatch.setattr(questions, 'CONTEXT_LIMIT_S', 0.0)
    bench.pipeline.tick()
    assert answers[0][0] is False and answers[0][1].startswith('no context within 0 s: ')
    bench.pipeline.ask('What?', lambda *found: answers.append(found))
    bench.pipeline.unload()
    bench.pipeline.ask('What?', lambda *found: answers.append(found))
    assert answers[1:] == [(False, 'the model is unloaded')] * 2


def test_a_pause_drops_what_waits_and_what_runs(bench):
    first, second = split(drive(seconds=3.0), 1.75)
    bench.feed(first, wait=False)
    assert bench.pipeline.worker.pending == 2
    bench.pipeline.deactivate()
    assert bench.pipeline.worker.pending == 1
    bench.pipeline.activate()  # what ran before the pause stays worthless
    bench.run_one()
    assert bench.sent('output/path') == bench.sent('debug/path') == []
    assert bench.pipeline.anchors.fates['discarded', 'paused'] == 2
    bench.feed(second)
    assert len(bench.sent('output/path')) > 10
    bench.fates()


@pytest.mark.parametrize('stop', [lambda x: x.deactivate(), lambda x: x.unload()])
def test_nothing_goes_out_after_a_pause_or_an_unload_a_held_path_neither(rig, stop):
    bench = Bench(rig, on_invalid='hold')
    first, second = split(drive(seconds=3.0), 2.0)
    bench.feed(first)
    stop(bench.pipeline)
    before = {output.topic: len(x.messages) for output, x in bench.listeners.items()}
    bench.feed([m for m in second if m[1] != image_topic('front_tele')], wait=False)
    bench.now_ns += 10**9
    bench.pipeline.tick()
    assert bench.pipeline.results.publication.counts['nothing: stale_input'] == 0
    assert {output.topic: len(x.messages) for output, x in bench.listeners.items()} == before


def test_a_path_from_before_a_pause_is_not_held_after_it(rig):
    bench = Bench(rig, on_invalid='hold')
    first, second = split(drive(seconds=3.0), 2.0)
    bench.feed(first)
    count = len(bench.sent('output/path'))
    bench.pipeline.deactivate()
    bench.pipeline.activate()
    bench.feed([m for m in second if m[1] != image_topic('front_tele')])
    assert len(bench.sent('output/path')) == count
    assert bench.pipeline.results.publication.counts['nothing: frame_missing'] > 0


def test_a_context_that_has_waited_too_long_is_not_begun(bench):
    first, _ = split(drive(seconds=3.0), 1.75)
    bench.feed(first, wait=False)
    bench.now_ns += 5 * 10**9
    while bench.pipeline.worker.pending:
        bench.run_one()
    assert len(bench.sent('debug/path')) == 1  # what had begun in time
    assert bench.pipeline.anchors.fates['rejected', 'stale_input'] == 1
    bench.fates()


def test_twenty_requests_to_load_are_one_load(bench):
    loads = []
    bench.pipeline._start_engine = lambda choice, rig: loads.append(1) or ConstantVelocityEngine()
    for _ in range(20):
        bench.pipeline.load()
    bench.run_one()
    assert (len(loads), bench.posted.empty(), bench.pipeline.state) == (1, True, 'active')


def test_a_vehicle_that_is_elsewhere_when_the_path_is_ready_refuses_it(bench):
    """The localisation jumps by 3 m while an inference runs."""
    first, _ = split(drive(seconds=3.0), 1.61)
    bench.feed(first, wait=False)
    pose = bench.pipeline.receiver.vehicle
    aside = replace(pose, stamp_ns=pose.stamp_ns + 10**7, position_m=pose.position_m + [3, 0, 0])
    bench.pipeline.receiver.vehicle = aside
    bench.run_one()
    assert bench.sent('output/path') == []
    assert bench.status('output').message == 'held back: jump'


def test_a_failed_inference_is_an_error_in_the_log_beside_frequent_warnings(rig):
    bench = Bench(rig, Sick(*[RuntimeError('kernel')] * 30), max_failures=100)
    messages = drive(seconds=3.0)
    wrong = [
        (log, topic, odometry(stamp_ns(m) + 1, (np.nan, 0.0, 0.0), 0.0, 10.0))
        for log, topic, m in messages
        if topic == ODOMETRY
    ]
    bench.feed(sorted(messages + wrong, key=lambda m: m[0]))
    assert ('error', 'inference failed: RuntimeError: kernel') in bench.log
    assert len(bench.log) < 10


def test_the_heartbeat_says_why_there_is_no_t0(bench):
    bench.pipeline.beat()
    bench.pipeline.deactivate()
    bench.pipeline.beat()
    bench.pipeline.unload()
    bench.pipeline.beat()
    assert [(beat.state, beat.detail) for beat in bench.reports.beats] == [
        ('active', 'no frame of front_wide'),
        ('inactive', 'paused'),
        ('unloaded', 'the model is unloaded'),
    ]


def test_the_heartbeat_names_what_was_refused_last(bench):
    bench.pipeline.receive('front_wide', compressed(START_NS, np.zeros(0, np.uint8)))
    bench.pipeline.beat()
    (beat,) = bench.reports.beats
    assert beat.detail == 'no frame of front_wide; last refused: front_wide: image without data'


def test_a_path_that_is_held_without_a_t0_is_in_the_heartbeat(rig):
    bench = Bench(rig, on_invalid='hold')
    bench.feed(drive(seconds=3.0))
    last_ns = stamp_ns(bench.sent('output/path')[-1])
    count = len(bench.sent('output/path'))
    for age_s, action, stamp in (
        (0.2, None, None),
        (1.0, 'hold', last_ns),
        (9.0, 'nothing', None),
    ):
        bench.now_ns = last_ns + round(age_s * 1e9)
        bench.pipeline.tick()
        bench.pipeline.beat()
        beat = bench.reports.beats[-1]
        assert (beat.decision and beat.decision.action, beat.path_stamp_ns) == (action, stamp)
    assert len(bench.sent('output/path')) == count + 1


def test_nothing_of_the_time_before_goes_out_after_a_clock_that_went_back(rig):
    bench = Bench(rig, on_invalid='hold', max_input_age_s=2.0)
    messages = drive(seconds=3.0)
    bench.feed(messages[:-20])
    bench.feed(messages[-20:], wait=False)
    assert bench.pipeline.worker.pending
    count = len(bench.sent('output/path'))
    assert count > 5
    bench.now_ns = START_NS  # a recording begins anew, and its first frame is not there yet
    while bench.pipeline.worker.pending:
        bench.run_one()
    assert len(bench.sent('output/path')) == count
    assert bench.reports.all[-1].fate in ('inferred', 'rejected')
    assert any('future' in str(x.decision.reasons) for x in bench.reports.all)
    bench.pipeline.results.report_missing(Rejection(START_NS, 'odometry_gap', ''), bench.now_ns)
    assert len(bench.sent('output/path')) == count


def test_a_path_that_was_asked_for_is_forgotten_with_the_model(bench):
    bench.pipeline.deactivate()
    bench.pipeline.infer_once()
    bench.pipeline.unload()
    bench.pipeline.load()
    while bench.pipeline.worker.state != 'ready':
        bench.run_one()
    bench.feed(drive(seconds=2.0))
    assert bench.sent('output/path') == []


def test_several_publishers_of_tf_are_none_too_many(tmp_path):
    path = write_rig(tmp_path)
    path.write_text(f'{path.read_text()}\nodometry_type: tf2_msgs/msg/TFMessage')
    bench = Bench(load_rig(path))
    bench.pipeline.note_publishers('odometry', ['/ekf', '/localisation'])
    bench.pipeline.note_publishers('front_wide', ['/a', '/b'], '/a does not fit')
    assert bench.pipeline.monitors['odometry'].publishers == ()
    assert bench.pipeline.monitors['front_wide'].publishers == ['/a', '/b']
    assert ('warning', 'front_wide: /a does not fit') in bench.log


def test_hold_repeats_the_last_path_while_contexts_are_missing(rig):
    bench = Bench(rig, on_invalid='hold')
    messages = drive(seconds=4.0)
    begin = start_of(messages)
    bench.feed([m for m in messages if m[1] != image_topic('front_tele') or m[0] - begin < 2.05e9])
    stamps = [stamp_ns(path) - begin for path in bench.sent('output/path')]
    assert max(stamps) == 2_000_000_000
    assert stamps.count(2_000_000_000) > 10
    assert bench.pipeline.results.publication.counts['hold'] == stamps.count(2_000_000_000) - 1


def test_where_no_anchor_frame_comes_any_more_the_policy_is_followed_too(rig):
    bench = Bench(rig, on_invalid='hold')
    bench.feed(drive(seconds=2.0))
    sent = len(bench.sent('output/path'))
    bench.pipeline.tick()
    assert len(bench.sent('output/path')) == sent
    bench.now_ns += 10**9
    bench.pipeline.tick()
    assert len(bench.sent('output/path')) == sent + 1
    assert bench.pipeline.results.publication.counts['hold: stale_input'] == 1
    status = bench.status('output')
    assert (status.level, status.message) == (2, 'last valid path held: stale_input')
    status = bench.status('context')
    assert status.level == 2 and status.message.startswith('front_wide: 1.')


def test_a_path_that_is_not_finite_never_goes_out(rig):
    class Broken(ConstantVelocityEngine):
        def infer(self, context, seed):
            found = super().infer(context, seed)
            return replace(found, samples=found.samples * np.nan, checks=('non_finite',))

    bench = Bench(rig, Broken(), on_invalid='publish_invalid')
    bench.feed(drive(seconds=2.0))
    assert (len(bench.sent('output/path')), len(bench.sent('debug/samples'))) == (0, 6)
    assert bench.status('output').message == 'held back: non_finite'


def test_an_old_path_is_dropped_and_reported(rig):
    bench = Bench(rig, max_input_age_s=0.5)
    messages, _ = split(drive(seconds=2.0), 1.57)
    bench.feed(messages, wait=False)
    assert bench.pipeline.worker.pending == 1
    bench.now_ns += 7 * 10**9
    bench.run_one()
    assert bench.sent('output/path') == []
    assert len(bench.sent('debug/path')) == 1
    status = bench.status('output')
    assert (status.level, status.message) == (2, 'held back: expired')


def test_a_burst_at_five_times_the_rate_adds_up(bench):
    messages = drive(seconds=3.0)
    begin = start_of(messages)
    squeezed = [(begin + (log - begin) // 5 + 2 * 10**9, topic, m) for log, topic, m in messages]
    bench.feed(squeezed, wait=False)
    while bench.pipeline.worker.pending:
        bench.run_one()
    assert sum(bench.fates().values()) == 31


def test_an_engine_that_is_killed_in_an_inference_is_loaded_again_and_paths_go_on(rig):
    bench = Bench(rig, toy_engines.start_for_node, engine_process=True)
    first, second = split(drive(seconds=4.0), 1.75)
    bench.feed(first, wait=False)
    worker = bench.pipeline.worker
    assert worker.pending == 2 and worker.busy_s > 0
    os.kill(worker.engine_pid, signal.SIGKILL)
    bench.run_one()  # the loss
    status = bench.status('model')
    assert status.message == "loading: the engine's process ended with SIGKILL; restart 1"
    assert bench.sent('output/path') == []
    bench.run_one()  # the load
    assert bench.status('model').values['process'] == worker.engine_pid
    bench.feed(second[: len(second) // 3])
    assert len(bench.sent('output/path')) >= 2
    fates = bench.pipeline.anchors.fates
    assert (fates['failed', 'engine_died'], fates['discarded', 'not_ready']) == (1, 1)
    assert ('error', "inference failed: the engine's process ended with SIGKILL") in bench.log
    bench.fates()
    bench.pipeline.unload()
    bench.run_one()
    assert worker.engine_pid is None
