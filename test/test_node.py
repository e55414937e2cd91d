"""The node over the wire, in its own process; another process feeds and hears it."""

from contextlib import suppress
import os
import signal
import socket

import numpy as np
from process_table import wait_for_end
import pytest
from small_bag import PICTURE, START_NS, compressed, drive, jpeg, make, odometry, write_rig
from test_calibrations import info, tf
from test_lanelet_map import write_map
import torch
from wire import (
    ATTEMPTS,
    BEST_EFFORT,
    LATCHED,
    LIMIT_S,
    NODE,
    TOPICS,
    Peer,
    Process,
    arguments,
    running,
    stamp_ns,
)

from alpamayo_ros.bags.messages import TYPESTORE
from alpamayo_ros.context.buffer import ContextBuffer
from alpamayo_ros.data_types import SamplingOptions, derive_seed
from alpamayo_ros.limits import ContextLimits
from alpamayo_ros.model.small.untrained import write_small_checkpoint
from alpamayo_ros.rig import load_rig
from alpamayo_ros.ros.inputs import to_image, to_pose
from alpamayo_ros.ros.messages import import_interface
from alpamayo_ros.ros.messages import make as make_live
from alpamayo_ros.ros.publishing import outputs
from alpamayo_ros.ros.publishing.outputs import AUTOWARE, OUTPUTS
from alpamayo_ros.ros.publishing.stamped_prediction import StampedPrediction
from alpamayo_ros.runtime.engine import AlpamayoEngine

SECOND = 10**9
NOISE = np.arange(200, dtype=np.uint8)


@pytest.fixture(scope='module')
def rig_file(tmp_path_factory):
    return write_rig(tmp_path_factory.mktemp('rig'))


@pytest.fixture(scope='module')
def peer(rig_file):
    """Return a node of this process that feeds and hears."""
    peer = Peer(load_rig(rig_file))
    yield peer
    peer.close()


@pytest.fixture
def start(peer, rig_file):
    """Return a function that starts the node, or a program around it, and waits for it."""
    started = []

    def begin(program=NODE, state='ready', environment=None, **parameters):
        values = {'rig': rig_file, 'engine': 'constant_velocity', 'use_sim_time': True}
        values['engine_process'] = False  # programs change engines of their own process
        process = Process(program, *arguments(**{**values, **parameters}), **(environment or {}))
        started.append(process)
        peer.wait_for_node(state)
        peer.forget()
        return process

    yield begin
    for process in started:
        process.kill()


def without(messages, topic, after_s, before_s):
    """Messages but for those of a topic whose log time lies between."""
    begin = START_NS + round(after_s * SECOND)
    end = START_NS + round(before_s * SECOND)
    return [m for m in messages if m[1] != TOPICS[topic] or not begin < m[0] < end]


def spoiled(messages, topic, at_s, change):
    """Messages with those of a topic at a stamp replaced by `change(stamp_ns)`."""
    at_ns = START_NS + round(at_s * SECOND)
    return [
        (log, where, change(at_ns))
        if where == TOPICS[topic] and stamp_ns(message) == at_ns
        else (log, where, message)
        for log, where, message in messages
    ]


def test_every_output_arrives_stamped_with_t0_and_the_path_is_where_the_vehicle_goes(peer, start):
    start()

    def enough(counts):
        return counts['inferred'] >= 5

    counts = peer.play_until(enough, drive(seconds=3.0, curvature=0.02), rate=2.0, seen=25)
    assert enough(counts) and counts['failed'] == 0
    assert [o.topic for o in OUTPUTS if not peer.heard[o.topic]] == []
    paths = peer.heard['output/path']
    for path in paths:
        t0_s = (stamp_ns(path) - START_NS) / SECOND
        assert t0_s * 10 == round(t0_s * 10)
        assert [stamp_ns(pose) - stamp_ns(path) for pose in path.poses] == [
            (k + 1) * 10**8 for k in range(64)
        ]
        turned = 0.02 * 10 * t0_s
        local = np.array([np.sin(turned), 1 - np.cos(turned)]) / 0.02
        cos, sin = np.cos(0.6), np.sin(0.6)
        at = np.array([[cos, -sin], [sin, cos]]) @ local
        ahead = at + 1.0 * np.array([np.cos(0.6 + turned), np.sin(0.6 + turned)])
        first = path.poses[0].pose.position
        assert (first.x - 4.5e5, first.y - 5.4e6) == pytest.approx(tuple(ahead), abs=0.01)
    # depth 1: a busy machine may lose a path that the next one has replaced
    assert abs(len(peer.heard['debug/path']) - len(paths)) <= 3
    assert all(0 <= x.data < 1000 for x in peer.heard['debug/path_age_ms'])


def test_live_and_offline_give_bit_equal_poses_on_a_cpu(peer, start, rig_file, tmp_path):
    write_small_checkpoint(tmp_path / 'small', seed=0)
    (tmp_path / 'small/card.json').write_text('{"limits": ["Not for a vehicle."]}')
    threads = torch.get_num_threads()
    process = start(
        engine='alpamayo',
        checkpoint=tmp_path / 'small',
        device='cpu',
        bits=16,
        seed=5,
        num_samples=2,
        on_invalid='publish_invalid',
        on_unhealthy_reasoning='keep',
        environment={'OMP_NUM_THREADS': str(threads)},
    )
    process.wait_for_line('Not for a vehicle.')
    messages = drive(seconds=2.5, curvature=0.02)
    paths = peer.heard['output/path']
    peer.play_until(lambda _: len(paths) >= 2, messages, rate=1.0, seen=20)
    live = {stamp_ns(path): path for path in paths}
    assert len(live) >= 2
    options = SamplingOptions(num_samples=2)
    engine = AlpamayoEngine(tmp_path / 'small', 'cpu', options)
    rig = load_rig(rig_file)
    buffer = ContextBuffer(rig, ContextLimits(max_input_age_s=5.0))
    names = {camera.topic: camera.name for camera in rig.cameras}
    for _, topic, message in messages:
        if topic in names:
            buffer.add_frame(names[topic], to_image(message))
        else:
            buffer.add_pose(to_pose(message))
    for t0_ns, path in live.items():
        context = buffer.context_at(t0_ns)
        prediction = engine.infer(context, derive_seed(5, t0_ns))
        offline = outputs.build_path(
            StampedPrediction(prediction, context.odom_from_t0, t0_ns), make
        )
        assert poses_of(path) == poses_of(offline)


def poses_of(path):
    return [
        [getattr(pose.pose.position, c) for c in 'xyz']
        + [getattr(pose.pose.orientation, c) for c in 'xyzw']
        for pose in path.poses
    ]


def test_inputs_that_cannot_be_used_are_refused_by_reason_and_service_goes_on(peer, start):
    start('wire_engines:decoding')
    good = drive(seconds=3.0)
    nan = odometry(START_NS + 2 * SECOND + 5_000_000, (np.nan, 0.0, 0.0), 0.0, 10.0)
    faults = {
        'bad_image': spoiled(good, 'tele', 2.0, lambda ns: compressed(ns, PICTURE[:300])),
        'image_size': spoiled(good, 'tele', 2.0, lambda ns: compressed(ns, jpeg(32, 24))),
        'bad_message': [*good[:180], (good[180][0], TOPICS['odometry'], nan), *good[180:]],
        'bad_message again': spoiled(
            good, 'tele', 2.0, lambda ns: compressed(ns, NOISE, codec='webp')
        ),
        'frame_missing': without(good, 'tele', 2.0, 2.05),
        'duplicate_stamp': sorted(good + good[:200:20], key=lambda m: m[0]),
        'irregular_stamp': spoiled(good, 'wide', 2.0, lambda ns: compressed(ns - 7 * 10**7)),
        'odometry_gap': without(good, 'odometry', 1.6, 2.0),
        'v0_mismatch': [
            (
                log,
                topic,
                odometry(stamp_ns(m), (0, 0, 0), 0.0, 10.0) if topic == TOPICS['odometry'] else m,
            )
            for log, topic, m in good
        ],
    }
    seen, before = 0, {}
    for fault, messages in faults.items():
        reason = f'rejected: {fault.split()[0]}'
        for _ in range(ATTEMPTS):
            peer.forget()
            peer.play(messages, rate=2.0)
            seen += 24
            peer.settled(seen)
            values = peer.statuses['context'][2]
            if int(values.get(reason, 0)) > int(before.get(reason, 0)):
                break
        else:
            pytest.fail(f'{fault}: {values}')
        before = values
        if fault not in ('v0_mismatch', 'odometry_gap'):  # those last as long as the history
            assert stamp_ns(peer.heard['output/path'][-1]) >= START_NS + 2 * SECOND, fault
    paths, last_ns = peer.heard['output/path'], START_NS + 3 * SECOND
    peer.play_until(lambda _: stamp_ns(paths[-1]) == last_ns, good, seen=seen + 24)
    assert stamp_ns(paths[-1]) == last_ns
    assert peer.status('output')[0] == 0


def test_a_camera_that_dies_is_named_and_served_when_it_comes_back(peer, start):
    start()
    messages = without(drive(seconds=5.0), 'tele', 1.9, 3.5)
    split = next(i for i, m in enumerate(messages) if m[0] > START_NS + 3.4 * SECOND)
    peer.play(messages[:split])
    level, text, _ = peer.status('input/front_tele')
    assert level == 2 and text.startswith('front_tele: 1.') and text.endswith('s old')
    level, text, _ = peer.statuses['context']
    assert level == 2 and 'front_tele: no frame within 50 ms' in text
    peer.play(messages[split:])
    peer.settled(40)
    assert stamp_ns(peer.heard['output/path'][-1]) == START_NS + 5 * SECOND


def test_odometry_is_taken_while_no_frame_comes(peer, start):
    start()
    sent = [m for m in drive(seconds=1.5) if m[1] == TOPICS['odometry']]
    peer.play(sent, rate=1.0)
    taken = int(peer.status('input/odometry')[2]['received'])
    assert 0.9 * len(sent) <= taken <= len(sent)  # best effort


def test_odometry_that_comes_after_its_frames_is_waited_for(peer, start):
    start()
    late = [(m[0] + 60_000_000 * (m[1] == TOPICS['odometry']), *m[1:]) for m in drive(seconds=3.0)]
    messages = sorted(late, key=lambda m: m[0])
    ages = peer.heard['debug/path_age_ms']
    counts = peer.play_until(lambda c: c['inferred'] >= 14, messages, rate=1.0, seen=24)
    assert counts['inferred'] >= 14
    assert 60 <= np.median([age.data for age in ages]) < 95  # not fetched with the next frames


def test_the_player_can_begin_again_and_gives_the_same_paths(peer, start):
    start()
    messages = drive(seconds=2.5)
    peer.play(messages, rate=2.0)
    first = {stamp_ns(path): path for path in peer.heard['output/path']}
    peer.forget()
    peer.play(messages, rate=2.0)
    again = {stamp_ns(path): path for path in peer.heard['output/path']}
    both = set(first) & set(again)
    assert len(both) >= 4
    assert all(first[t0_ns] == again[t0_ns] for t0_ns in both)
    assert peer.status('context')[2]['epoch'] != '0'
    assert any(x.markers[0].action == 3 for x in peer.heard['output/markers'])
    peer.settled(40)


def test_a_burst_at_twenty_times_the_rate_adds_up(peer, start):
    start()
    peer.play(drive(seconds=6.0), rate=20.0)
    counts = peer.settled(seen=20)
    assert counts['inferred'] > 0


@pytest.mark.parametrize(
    'program, parameters, published, problem',
    [
        ('not_finite', {'on_invalid': 'publish_invalid'}, (0, 0), 'held back: non_finite'),
        ('endless', {}, (0, 0), 'held back: marker_missing, budget'),
        (
            'endless',
            {'on_unhealthy_reasoning': 'keep'},
            (1, 1),
            'published: marker_missing, budget',
        ),
        ('backward', {}, (0.4, 0.6), None),
        ('backward', {'on_invalid': 'publish_invalid'}, (1, 1), None),
        ('backward', {'on_invalid': 'flag'}, (0.4, 0.6), None),
        ('backward', {'on_invalid': 'hold'}, (1, 2), None),
    ],
)
def test_the_policies_decide_what_goes_out(peer, start, program, parameters, published, problem):
    start(f'wire_engines:{program}', **parameters)
    every, out = peer.heard['debug/path'], peer.heard['output/path']
    peer.play_until(lambda _: len(every) >= 5, drive(seconds=3.0), rate=3.0, seen=24)
    assert len(every) >= 5
    low, high = published
    assert low * len(every) - 1 <= len(out) <= high * len(every) + 1
    if parameters.get('on_invalid') == 'hold':
        stamps = [stamp_ns(path) for path in out]
        assert max(stamps.count(x) for x in set(stamps)) >= 2  # its old stamp
    if problem:
        assert peer.statuses['output'][:2] == (2, problem)
    if program == 'endless':
        level, text, values = peer.statuses['reasoning']
        assert (level, text, values['partial text']) == (1, 'marker_missing, budget', 'Keep the')


@pytest.mark.parametrize('policy, poses', [('drop', None), ('trim', 44), ('publish', 64)])
def test_age_is_measured_by_the_nodes_clock_and_follows_its_policy(peer, start, policy, poses):
    """The clock runs 2 s (7 s) ahead of the stamps while max_input_age_s allows it."""
    start(expired_path=policy, max_input_age_s=10.0, min_remaining_s=1.0)
    ahead_s = 7.0 if policy == 'drop' else 2.0
    late = [(log + round(ahead_s * SECOND), topic, m) for log, topic, m in drive(seconds=2.0)]
    peer.play(late)
    peer.until(lambda: peer.heard['debug/path'], 'no path')
    if poses is None:
        assert peer.heard['output/path'] == []
        assert peer.status('output')[:2] == (2, 'held back: expired')
    else:
        count = len(peer.heard['output/path'][0].poses)
        assert count in (poses, poses - 1)  # the clock moves on by up to 10 ms


def test_an_engine_that_fails_is_an_error_and_the_next_context_is_served(peer, start):
    start('wire_engines:failing')

    def enough(counts):
        return counts['failed'] >= 5 and counts['inferred'] >= 5

    assert enough(peer.play_until(enough, drive(seconds=3.0), seen=24))
    assert peer.statuses['model'][1] == 'ready'


def test_memory_that_runs_out_stops_inference_until_the_model_is_loaded_again(peer, start):
    start('wire_engines:out_of_memory', max_failures=2)
    peer.play(drive(seconds=2.5))
    level, text, _ = peer.status('model')
    assert level == 2 and text.startswith('2 failures in a row: RuntimeError: NVML_SUCCESS == r')
    counts = peer.settled(seen=20)
    assert counts['failed'] == 2 and counts['discarded'] > 0
    assert peer.call('std_srvs/srv/SetBool', 'load', data=True).success
    peer.until(lambda: peer.statuses['model'][1] == 'ready', 'not loaded again')


def test_a_failed_load_is_told_and_the_node_goes_on_serving(peer, start):
    start('wire_engines:unloadable', state='the checkpoint is gone')
    assert peer.status('model')[0] == 2
    state = peer.call('lifecycle_msgs/srv/GetState', 'get_state').current_state
    assert state.label == 'unconfigured'
    peer.play(drive(seconds=2.0))
    assert peer.settled(seen=15)['discarded'] > 0
    assert peer.call('std_srvs/srv/SetBool', 'load', data=True).message == 'loading'
    peer.wait_for_node('ready')
    paths = peer.heard['output/path']
    peer.play_until(lambda _: len(paths) >= 4, drive(seconds=2.0))
    assert len(paths) >= 4


def test_services_load_pause_ask_for_one_reset_and_unload(peer, start):
    start(state='unloaded', autostart=False)
    assert peer.call('std_srvs/srv/SetBool', 'load', data=True).message == 'loading'
    peer.wait_for_node('ready')
    assert peer.call('std_srvs/srv/SetBool', 'enable', data=False).message == 'paused'
    peer.play(drive(seconds=2.0))
    assert peer.heard['output/path'] == []
    assert peer.status('output')[:2] == (1, 'paused')
    assert peer.call('std_srvs/srv/Trigger', 'infer_once').message == 'accepted'
    peer.play(drive(seconds=2.0))
    peer.settled(seen=25)
    assert len(peer.heard['output/path']) == 1
    assert peer.call('std_srvs/srv/Trigger', 'reset').success
    assert peer.call('std_srvs/srv/SetBool', 'load', data=False).message == 'unloaded'
    answer = peer.call('std_srvs/srv/Trigger', 'infer_once')
    assert (answer.success, answer.message) == (False, 'the model is unloaded')
    peer.settled(seen=30)


def change(peer, **transition):
    """Whether a transition succeeded, and the state after it."""
    asked = make_live('lifecycle_msgs/msg/Transition', **transition)
    done = peer.call('lifecycle_msgs/srv/ChangeState', 'change_state', transition=asked)
    state = peer.call('lifecycle_msgs/srv/GetState', 'get_state').current_state
    return done.success, state.label


def test_the_lifecycle_decides_what_is_served(peer, start):
    start(state='unloaded', autostart=False)
    assert change(peer, id=3) == (False, 'unconfigured')  # activate; the node goes on
    assert change(peer, label='configure') == (True, 'inactive')
    peer.wait_for_node('paused')
    peer.play(drive(seconds=2.0))
    assert peer.heard['output/path'] == []
    assert change(peer, label='activate') == (True, 'active')
    paths = peer.heard['output/path']
    peer.play_until(lambda _: len(paths) >= 2, drive(seconds=2.0))
    assert len(paths) >= 2
    assert peer.call('std_srvs/srv/SetBool', 'enable', data=False).success
    assert change(peer, label='cleanup') == (True, 'unconfigured')
    assert peer.status('model')[1] == 'unloaded'
    assert change(peer, label='shutdown') == (True, 'finalized')
    answer = peer.call('std_srvs/srv/SetBool', 'load', data=True)
    assert (answer.success, answer.message) == (False, 'unloaded')


def test_a_question_is_refused_while_active_and_answered_while_paused(peer, start):
    start('wire_engines:talking')
    kind, question = 'diagnostic_msgs/srv/AddDiagnostics', {'load_namespace': 'What is ahead?'}
    refused = peer.call(kind, 'ask', **question)
    assert (refused.success, 'deactivate it' in refused.message) == (False, True)
    assert change(peer, label='deactivate') == (True, 'inactive')
    service = import_interface(kind)
    client = peer.node.create_client(service, '/alpamayo/ask')
    peer.until(client.service_is_ready, 'no service ask')
    for _ in range(ATTEMPTS):
        answer = client.call_async(service.Request(**question))
        peer.play(drive(seconds=2.0))
        assert peer.call('std_srvs/srv/SetBool', 'enable', data=False).success  # meanwhile
        peer.until(answer.done, 'no answer')
        if answer.result().success:
            break
    assert answer.result().message == 'What is ahead? A car.'
    assert peer.heard['output/path'] == []
    peer.node.destroy_client(client)


def test_a_node_that_loads_is_active_and_tells_that_it_loads(peer, start):
    start('wire_engines:slow_load', state='loading')
    state = peer.call('lifecycle_msgs/srv/GetState', 'get_state').current_state
    assert (state.id, state.label) == (3, 'active')
    assert change(peer, label='deactivate') == (True, 'inactive')
    assert change(peer, label='activate') == (True, 'active')
    assert peer.status('model')[:2] == (1, 'loading')


@pytest.mark.parametrize('service', ['enable', 'load'])
def test_nothing_is_published_from_a_pause_on_a_held_path_neither(peer, start, service):
    start(on_invalid='hold')
    messages = without(drive(seconds=5.0), 'tele', 2.5, 5.0)
    split = next(i for i, m in enumerate(messages) if m[0] > START_NS + 2.8 * SECOND)
    peer.play(messages[:split])
    assert peer.heard['output/path']
    assert peer.call('std_srvs/srv/SetBool', service, data=False).success
    peer.spin(0.2)
    peer.forget()
    peer.play(messages[split:])
    peer.settled(seen=30)
    assert {
        topic: len(x) for topic, x in peer.heard.items() if topic != 'output/status' and x
    } == {}
    states = {values_of(status)['state'] for status in peer.heard['output/status']}
    assert states == {'inactive' if service == 'enable' else 'unloaded'}


def values_of(message):
    """Key-value pairs of a status."""
    return {pair.key: pair.value for pair in message.status[0].values}


def test_every_t0_has_one_status_to_which_path_and_samples_are_joined_by_stamp(peer, start):
    start()
    peer.play(without(drive(seconds=4.0), 'tele', 3.0, 3.2), rate=2.0)
    peer.settled(30)
    stamped = [message for message in peer.heard['output/status'] if stamp_ns(message)]
    statuses = {stamp_ns(message): values_of(message) for message in stamped}
    assert len(statuses) == len(stamped) >= 30
    fates = {values['fate'] for values in statuses.values()}
    assert {'inferred', 'rejected'} <= fates <= {'inferred', 'rejected', 'dropped'}
    for path in peer.heard['output/path']:
        values = statuses[stamp_ns(path)]
        assert (values['decision'], values['path stamp ns']) == ('publish', str(stamp_ns(path)))
    for samples in peer.heard['debug/samples']:
        values = statuses[stamp_ns(samples)]
        assert (values['fate'], int(values['samples'])) == ('inferred', samples.height)
        assert float(values['age ms']) < 1000
    reasons = {x['reason'] for x in statuses.values() if x['fate'] == 'rejected'}
    assert 'frame_missing' in reasons


def test_without_input_a_heartbeat_comes_every_second_for_systemd_too(peer, start, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / 'notify'))
        supervisor.setblocking(False)
        start(environment={'NOTIFY_SOCKET': str(tmp_path / 'notify')})
        peer.forget()
        peer.spin(3.5)
        notes = []
        with suppress(BlockingIOError):
            while True:
                notes.append(supervisor.recv(100).decode())
    assert notes.count('READY=1') == 1
    assert 'STATUS=model ready' in notes and notes.count('WATCHDOG=1') >= 3
    beats = peer.heard['output/status']
    assert 2 <= len(beats) <= 5
    assert {stamp_ns(beat) for beat in beats} == {0}
    assert values_of(beats[0]) == {'state': 'active', 'detail': 'no frame of front_wide'}


def test_two_publishers_of_an_input_are_a_warning_that_names_them(peer, start):
    process = start()
    other = peer.node.create_publisher(
        import_interface('nav_msgs/msg/Odometry'), TOPICS['odometry'], BEST_EFFORT
    )
    expected = f'odometry: 2 publishers on {TOPICS["odometry"]}, expected one: /vehicle, /vehicle'
    process.wait_for_line(expected)
    peer.play(drive(seconds=2.0))
    assert peer.status('input/odometry')[:2] == (1, expected)
    peer.node.destroy_publisher(other)


def test_a_publisher_whose_qos_does_not_fit_is_named(peer, rig_file):
    topic = TOPICS['tele']
    override = f'qos_overrides.{topic}.subscription.reliability'
    values = {'rig': rig_file, 'engine': 'constant_velocity', override: 'reliable'}
    text = (
        f'front_tele: /vehicle publishes {topic} with a QoS that does not fit the subscription, '
        'change qos_overrides: ERROR: Best effort publisher and reliable subscription'
    )
    with running(NODE, *arguments(**values)) as process:
        process.wait_for_line(text)
        shown = text.removeprefix('front_tele: ')
        peer.until(lambda: shown in peer.status('input/front_tele')[1], 'not in the status')


def test_a_clock_that_goes_back_is_a_reset_before_any_input_says_so(peer, start):
    start()
    messages = drive(seconds=2.0)
    peer.play(messages, rate=2.0)
    epoch = int(peer.status('context')[2]['epoch'])
    peer.tell_time(START_NS)
    peer.until(lambda: int(peer.status('context')[2]['epoch']) > epoch, 'no reset')


def test_calibrations_of_cameras_come_from_camera_info_and_static_transforms(
    peer, start, tmp_path
):
    text = write_rig(tmp_path).read_text()
    begin = text.index('    calibration:')
    rig = tmp_path / 'bare.yaml'
    rig.write_text(text[:begin] + text[text.index('  - name', begin) :])
    latched = peer.node.create_publisher(
        import_interface('tf2_msgs/msg/TFMessage'), '/tf_static', LATCHED
    )
    topic = '/camera/front_wide/camera_info'
    infos = peer.node.create_publisher(
        import_interface('sensor_msgs/msg/CameraInfo'), topic, BEST_EFFORT
    )
    latched.publish(bytes(TYPESTORE.serialize_cdr(tf()[1], 'tf2_msgs/msg/TFMessage')))
    process = start(rig=rig)
    level, _, values = peer.status('calibration')
    assert (level, values['front_wide']) == (1, f'no sensor_msgs/msg/CameraInfo on {topic}')
    message = bytes(TYPESTORE.serialize_cdr(info(fx=50.0), 'sensor_msgs/msg/CameraInfo'))

    wrong = 'front_wide: its calibration sees 65 degrees, the model knows front_wide with 120'

    def is_known():
        infos.publish(message)
        peer.spin(0.2)
        return wrong in str(process.lines)

    peer.play(drive(seconds=0.5))  # whose odometry names the frame of the axle
    peer.until(is_known, 'no calibration')
    assert peer.status('calibration')[2]['front_wide'] == '65 degrees'
    peer.until(lambda: infos.get_subscription_count() == 0, 'the node still listens')
    peer.node.destroy_publisher(latched)
    peer.node.destroy_publisher(infos)


def test_an_exception_in_a_callback_ends_the_node_at_once_with_1(peer, start):
    process = start('wire_engines:broken_callback')
    peer.play(drive(seconds=2.0))
    assert process.wait(10.0) == 1
    assert any('Traceback' in line for line in process.lines)
    assert any('KeyError: ' in line and 'callback' in line for line in process.lines)


def test_whole_numbers_are_taken_and_a_misspelt_parameter_is_named(peer, start):
    process = start(max_rate_hz=5, temperature=1, min_remaining_s=2, on_invald='hold')
    process.wait_for_line(
        'on_invald: the node has no such parameter, its value is ignored; did you mean on_invalid?'
    )
    assert peer.set_parameter('temperature', 2).successful


@pytest.mark.parametrize('is_latched', [True, False])
def test_route_texts_of_latched_and_of_other_publishers_are_heard(peer, start, is_latched):
    kind, topic = import_interface('std_msgs/msg/String'), '/alpamayo/input/navigation'
    publisher = peer.node.create_publisher(kind, topic, LATCHED if is_latched else BEST_EFFORT)
    try:
        if is_latched:
            publisher.publish(kind(data='Turn left in 30m'))
        start(on_missing_navigation='reject', navigation_max_age_s=3600.0)
        if not is_latched:
            peer.until(lambda: publisher.get_subscription_count() == 1, 'a subscription')
            publisher.publish(kind(data='Turn left in 30m'))

        def enough(counts):
            return counts['inferred'] >= 2

        assert enough(peer.play_until(enough, drive(seconds=3.0), rate=2.0))
    finally:
        peer.node.destroy_publisher(publisher)


def test_sampling_can_be_changed_live_and_what_defines_the_model_cannot(peer, start):
    start()
    assert peer.set_parameter('num_samples', 3).successful
    peer.play(drive(seconds=2.0))
    assert peer.heard['debug/samples'][-1].height == 3
    for name, value, reason in (
        ('num_samples', 0, 'out of range'),
        ('temperature', 99.0, 'out of range'),
        ('top_p', 'warm', "top_p: 'warm' is not a number"),
        ('rig', 'r1', 'read-only'),
        ('device', 'cpu', 'read-only'),
    ):
        result = peer.set_parameter(name, value)
        assert not result.successful and reason in result.reason, result.reason
    peer.forget()
    peer.play(drive(seconds=2.0))
    assert peer.heard['debug/samples'][-1].height == 3


def test_simulated_time_without_a_clock_is_said(peer, start):
    start()
    peer.statuses.clear()
    level, text, _ = peer.status('context')
    assert (level, text) == (2, 'use_sim_time is set, but there is no /clock')
    assert 'no sensor_msgs/msg/CompressedImage on' in peer.status('input/front_wide')[1]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('program', [NODE, 'wire_engines:sleeping', 'wire_engines:slow_load'])
def test_a_signal_ends_the_node_within_two_seconds_with_0(peer, start, program, number):
    state = 'loading' if program.endswith('slow_load') else 'ready'
    process = start(program, state=state)
    if program.endswith('sleeping'):
        peer.play(drive(seconds=2.0))
        peer.until(lambda: peer.statuses['inference'][1] == 'running', 'nothing runs')
    status, seconds = process.end(number)
    assert (status, seconds < 2.0) == (0, True), process.lines


def test_autoware_gets_the_points_of_the_trajectory_and_its_route_is_heard(peer, start, tmp_path):
    pytest.importorskip('autoware_planning_msgs', reason='its messages are not built')
    heard, topic = {}, f'/alpamayo/{AUTOWARE.topic}'
    kind = import_interface(AUTOWARE.type_name)
    subscription = peer.node.create_subscription(
        kind, topic, lambda message: heard.setdefault(stamp_ns(message), message), 10
    )
    process = start(autoware_trajectory=True, lanelet_map=write_map(tmp_path))
    kind = 'autoware_planning_msgs/msg'
    other = make_live(f'{kind}/LaneletPrimitive', id=9, primitive_type='lane')
    segment = make_live(f'{kind}/LaneletSegment', preferred_primitive=other)
    route = make_live(f'{kind}/LaneletRoute', segments=[segment])
    route.header.frame_id = 'map'
    sender = peer.node.create_publisher(
        import_interface(f'{kind}/LaneletRoute'), '/alpamayo/input/route', LATCHED
    )
    sender.publish(route)
    process.wait_for_line('navigation: lanelet 9 is not in')
    peer.node.destroy_publisher(sender)
    messages = drive(seconds=2.5, curvature=0.02)
    peer.play_until(lambda _: heard, messages, rate=2.0, seen=20)
    peer.node.destroy_subscription(subscription)
    pairs = [
        (heard[stamp_ns(message)], message)
        for message in peer.heard['output/trajectory']
        if stamp_ns(message) in heard
    ]
    assert pairs
    for mine, other in pairs:
        assert mine.header == other.header
        for point, expected in zip(mine.points, other.points, strict=True):
            transform, velocity = expected.transforms[0], expected.velocities[0]
            assert point.time_from_start == expected.time_from_start
            assert point.pose.position.x == transform.translation.x
            assert point.pose.orientation == transform.rotation
            assert point.longitudinal_velocity_mps == pytest.approx(velocity.linear.x)
            assert point.heading_rate_rps == pytest.approx(velocity.angular.z)
            assert point.acceleration_mps2 == pytest.approx(expected.accelerations[0].linear.x)


def test_a_long_inference_is_reported_while_it_runs(peer, start):
    start('wire_engines:sleeping', inference_timeout_s=0.5)
    peer.play(drive(seconds=2.0))
    slow = 'inference has been running for'
    peer.until(lambda: peer.statuses['inference'][1].startswith(slow), 'not reported')
    level, _, values = peer.statuses['inference']
    assert level == 2 and int(values['dropped']) >= 1


@pytest.mark.parametrize(
    'parameters, message',
    [
        ({'rig': 'nosuch'}, "rig 'nosuch' is not one of"),
        ({'engine': 'none'}, "engine: 'none' is not one of alpamayo, constant_velocity"),
        ({'bits': 3}, "bits: '3.0' is not one of 1.58, 2.0, 4.0, 8.0, 16.0"),
        ({'temperature': 9.0}, 'temperature'),
        ({'temperature': 'warm'}, "temperature: 'warm' is not a number"),
    ],
)
def test_parameters_that_cannot_be_used_end_the_node_with_2_and_one_line(
    rig_file, parameters, message
):
    values = {'rig': rig_file, 'engine': 'constant_velocity', **parameters}
    check_refused(message, *arguments(**values))


@pytest.mark.parametrize(
    'ros_arguments, message',
    [
        (('--params-file', '/no/such.yaml'), '/no/such.yaml'),
        (('--log-level', 'loud'), 'loud'),
        (('-r', '__ns:=/car-1'), 'car-1'),
        (('-r', '__node:=bad-name'), 'bad-name'),
        (('-r', '~/output/path:=1st/path'), '1st/path'),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_ros_arguments_that_cannot_be_used_end_the_node_the_same_way(
    rig_file, ros_arguments, message
):
    check_refused(message, *arguments(rig=rig_file, engine='constant_velocity'), *ros_arguments)


def check_refused(message, *words):
    """A node ends with 2 and one line."""
    with running(NODE, *words) as process:
        assert process.wait(LIMIT_S) == 2
    errors = [line for line in process.lines if line.startswith('alpamayo_node: error: ')]
    assert len(errors) == 1 and message in errors[0]
    assert not any('Traceback' in line for line in process.lines)


def test_an_engine_that_is_killed_comes_back_and_ends_with_the_node(peer, start):
    process = start('wire_engines:slow_process', engine_process=True)
    pid = int(peer.statuses['model'][2]['process'])
    peer.play(drive(seconds=1.7))
    os.kill(pid, signal.SIGKILL)  # in the middle of an inference
    process.wait_for_line("inference failed: the engine's process ended with SIGKILL")
    peer.wait_for_node('ready')
    values = peer.statuses['model'][2]
    assert (values['restarts'], values['process'] != str(pid)) == ('1', True)
    peer.heard['output/path'].clear()
    peer.play_until(lambda c: c['inferred'] >= 2, drive(seconds=2.5), rate=1.0, seen=20)
    assert peer.heard['output/path']
    status, _ = process.end()
    assert status == 0
    wait_for_end(int(values['process']))
