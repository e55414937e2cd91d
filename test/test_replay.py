"""alpamayo_replay on small bags: the record, what is rebuilt from it, faults in the bag."""

import json
import shutil

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
import small_bag
from small_bag import ODOMETRY, START_NS, compressed, image_topic, odometry
from test_calibrations import info, tf

from alpamayo_ros.bags.messages import TYPESTORE
from alpamayo_ros.cli.ask import main as ask_main
from alpamayo_ros.cli.replay import main


@pytest.fixture(scope='module')
def rig(tmp_path_factory):
    return small_bag.write_rig(tmp_path_factory.mktemp('rig'))


def replay(bag, rig, out, *more):
    """Exit code of a run with the constant-velocity engine."""
    arguments = [str(bag), '--rig', str(rig), '--out', str(out), '--engine', 'constant_velocity']
    return main([*arguments, *more])


def lines(out):
    return [json.loads(line) for line in (out / 'results.jsonl').read_text().splitlines()]


def summary(out):
    return json.loads((out / 'summary.json').read_text())


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    messages = small_bag.drive(10)
    messages += [(START_NS, *tf()), (START_NS, '/camera/front_tele/camera_info', info())]
    return small_bag.write(tmp_path_factory.mktemp('straight') / 'bag', messages)


@pytest.fixture(scope='module')
def done(straight, rig, tmp_path_factory):
    out = tmp_path_factory.mktemp('done') / 'out'
    assert replay(straight, rig, out, '--samples', '2', '--period', '0') == 0
    return out


def test_every_anchor_behind_the_warm_up_has_a_line(done):
    found = lines(done)
    assert [line['t0_ns'] for line in found] == [
        START_NS + k * 100_000_000 for k in range(16, 101)
    ]
    assert {line['status'] for line in found} == {'ok'}


def test_calibrations_of_the_bag_are_compared_with_the_names_of_their_cameras(done):
    text = 'front_tele: its calibration sees 120 degrees, the model knows front_tele with 30'
    assert text in summary(done)['bag_notes']
    assert 'front_wide: its calibration sees 77 degrees' in str(summary(done)['bag_notes'])


def test_a_line_holds_what_the_contract_names(done):
    line = lines(done)[0]
    assert line['k'] == 2
    assert line['end'] == 'marker'
    assert line['v0_mps'] == pytest.approx(10, abs=0.01)
    assert line['twist_mps'] == 10
    assert np.array(line['samples']).shape == (2, 64, 4)
    assert set(line['horizons']) == {'0.5', '1.0', '3.0', '5.0', '6.4'}
    assert line['ms']['total'] > 0


def test_constant_velocity_on_a_straight_drive_has_no_error(done):
    full = lines(done)[0]['horizons']['6.4']
    assert full['ade_m'] < 0.01
    assert full['fde_m'] < 0.02


def test_horizons_behind_the_end_of_the_drive_are_null(done):
    by_t0 = {line['t0_ns']: line['horizons'] for line in lines(done)}
    late = by_t0[START_NS + 80 * 100_000_000]  # 2 s are left
    assert late['1.0'] is not None
    assert late['3.0'] is None and late['6.4'] is None


def test_the_output_bag_holds_paths_at_their_stamps(done):
    with AnyReader([done / 'prediction'], default_typestore=TYPESTORE) as reader:
        topics = {c.topic: c.msgtype for c in reader.connections}
        assert 'nav_msgs/msg/Path' in topics.values()
        assert 'std_msgs/msg/String' in topics.values()
        assert 'visualization_msgs/msg/MarkerArray' in topics.values()
        (paths,) = [c for c in reader.connections if c.msgtype == 'nav_msgs/msg/Path']
        _, _, raw = next(reader.messages([paths]))
        path = reader.deserialize(raw, paths.msgtype)
    t0 = path.header.stamp.sec * 10**9 + path.header.stamp.nanosec
    stamps = [p.header.stamp.sec * 10**9 + p.header.stamp.nanosec for p in path.poses]
    assert t0 == START_NS + 1_600_000_000
    assert stamps == [t0 + (k + 1) * 100_000_000 for k in range(64)]
    # 10 m/s along 0.6 rad from far away, in the odometry frame
    point = path.poses[0].pose.position
    want = small_bag.ORIGIN_M[:2] + 17 * np.array([np.cos(0.6), np.sin(0.6)])
    assert [point.x, point.y] == pytest.approx(list(want), abs=0.01)
    assert path.header.frame_id == 'odom'


def test_the_report_needs_nothing_else(done):
    page = (done / 'report.html').read_text()
    assert 'data:image/' in page
    assert 'src="http' not in page and 'href="http' not in page and '<script src' not in page


def test_the_summary_says_how_many_and_from_what(done):
    found = summary(done)
    assert (found['anchors'], found['ok'], found['rejected']) == (85, 85, 0)
    # truth reaches 6.3 s behind the anchors of 1.6 ... 3.7 s
    assert found['horizons']['6.4']['ade_m']['n'] == 22
    assert (done / 'results.csv').read_text().count('\n') == 86


@pytest.mark.parametrize(
    ('storage', 'compression'),
    [('sqlite3', 'none'), ('mcap', 'file'), ('mcap', 'message'), ('sqlite3', 'message')],
)
def test_other_storages_and_compressions_give_the_same_lines(
    rig, tmp_path, done, storage, compression
):
    if (storage, compression) == ('mcap', 'message'):
        compression = 'storage'  # mcap compresses its own chunks
    bag = small_bag.write(tmp_path / 'bag', small_bag.drive(3), storage, compression)
    assert replay(bag, rig, tmp_path / 'out', '--t0', str(START_NS + 2_000_000_000)) == 0
    (line,) = lines(tmp_path / 'out')
    twin = next(x for x in lines(done) if x['t0_ns'] == line['t0_ns'])
    assert line['samples'][0] == twin['samples'][0]


def test_one_t0_per_period(straight, rig, tmp_path):
    assert replay(straight, rig, tmp_path / 'out', '--period', '2') == 0
    stamps = [line['t0_ns'] - START_NS for line in lines(tmp_path / 'out')]
    assert stamps == [1_600_000_000 + k * 2_000_000_000 for k in range(5)]


def test_a_t0_at_which_no_frame_is_stamped_is_no_anchor(straight, rig, tmp_path):
    t0_ns = START_NS + 2_050_000_000
    assert replay(straight, rig, tmp_path / 'out', '--t0', str(t0_ns)) == 1
    (line,) = lines(tmp_path / 'out')
    assert (line['t0_ns'], line['status'], line['reason']) == (t0_ns, 'rejected', 'no_anchor')
    assert line['detail'] == f'front_wide: no frame at {t0_ns}'


def test_resume_continues_and_ends_like_a_whole_run(straight, rig, tmp_path, done):
    out = tmp_path / 'out'
    shutil.copytree(done, out)
    record = out / 'results.jsonl'
    whole = record.read_text().splitlines(keepends=True)
    record.write_text(''.join(whole[:30]) + whole[30][:100])  # a torn last line
    for name in ('summary.json', 'report.html'):
        (out / name).unlink()
    assert replay(straight, rig, out, '--samples', '2', '--period', '0', '--resume') == 0
    again = lines(out)
    assert [x['t0_ns'] for x in again] == [x['t0_ns'] for x in lines(done)]
    assert [x['samples'] for x in again] == [x['samples'] for x in lines(done)]
    assert summary(out)['ok'] == 85


def test_resume_with_other_parameters_is_refused(straight, rig, tmp_path, done, capsys):
    out = tmp_path / 'out'
    shutil.copytree(done, out)
    before = (out / 'results.jsonl').read_text()
    assert replay(straight, rig, out, '--samples', '3', '--period', '0', '--resume') == 2
    assert 'samples' in capsys.readouterr().err.splitlines()[-1]
    assert (out / 'results.jsonl').read_text() == before


def test_a_folder_with_results_is_not_overwritten(straight, rig, tmp_path, done, capsys):
    before = (done / 'results.jsonl').read_text()
    assert replay(straight, rig, done) == 2
    assert '--resume' in capsys.readouterr().err
    assert (done / 'results.jsonl').read_text() == before


def test_a_missed_threshold_gives_one(rig, tmp_path):
    curve = small_bag.write(tmp_path / 'bag', small_bag.drive(9, curvature=0.02))
    assert replay(curve, rig, tmp_path / 'a', '--max-ade-m', '0.5') == 1
    assert summary(tmp_path / 'a')['pass'] is False
    assert replay(curve, rig, tmp_path / 'b', '--max-ade-m', '50') == 0


def changed(messages, change):
    """Messages with `change(log_ns, topic, message)` applied; None leaves one out."""
    found = [change(*message) for message in messages]
    return [message for message in found if message is not None]


def run_changed(tmp_path, rig, change, seconds=4):
    bag = small_bag.write(tmp_path / 'bag', changed(small_bag.drive(seconds), change))
    code = replay(bag, rig, tmp_path / 'out', '--period', '0')
    return code, lines(tmp_path / 'out')


def rejected(found):
    return [line for line in found if line['status'] == 'rejected']


def at(log_ns):
    """Tenths of a second since the start."""
    return (log_ns - START_NS) // 100_000_000


def test_an_unknown_encoding_is_a_line_and_the_run_goes_on(tmp_path, rig):
    def change(log_ns, topic, message):
        if topic == image_topic('front_tele') and at(log_ns) == 25:
            message.format, message.data = 'av1', np.arange(1, 99, dtype=np.uint8)
        return log_ns, topic, message

    code, found = run_changed(tmp_path, rig, change)
    assert code == 0
    refused = rejected(found)
    assert any("format 'av1' is neither" in line.get('detail', '') for line in refused)
    assert sum(line['status'] == 'ok' for line in found) == 25 - 4


def test_images_that_change_size_are_rejected(tmp_path, rig):
    other = small_bag.jpeg(96, 48)

    def change(log_ns, topic, message):
        if topic == image_topic('cross_left') and at(log_ns) >= 30:
            message.data = other
        return log_ns, topic, message

    code, found = run_changed(tmp_path, rig, change)
    assert code == 0
    refused = rejected(found)
    assert {line['t0_ns'] for line in refused} == {
        START_NS + k * 100_000_000 for k in (30, 31, 32)
    }
    assert all('cross_left' in json.dumps(line) for line in refused)


@pytest.mark.parametrize('field', ['nan', 'zero quaternion'])
def test_a_broken_pose_is_refused_and_the_run_goes_on(tmp_path, rig, field):
    def change(log_ns, topic, message):
        if topic == ODOMETRY and log_ns - 3_000_000 == START_NS + 2_500_000_000:
            if field == 'nan':
                message.pose.pose.position.x = float('nan')
            else:
                message.pose.pose.orientation.w = message.pose.pose.orientation.z = 0.0
        return log_ns, topic, message

    code, found = run_changed(tmp_path, rig, change)
    assert code == 0
    assert [line['topic'] for line in rejected(found)] == [ODOMETRY]
    assert sum(line['status'] == 'ok' for line in found) == 25


def test_an_odometry_gap_rejects_what_spans_it(tmp_path, rig):
    def change(log_ns, topic, message):
        gone = topic == ODOMETRY and 25 <= at(log_ns) < 28
        return None if gone else (log_ns, topic, message)

    code, found = run_changed(tmp_path, rig, change, seconds=6)
    assert code == 0
    assert 'odometry' in rejected(found)[0]['reason']
    assert found[-1]['status'] == 'ok'


def test_a_changed_odometry_frame_is_rejected(tmp_path, rig):
    def change(log_ns, topic, message):
        if topic == ODOMETRY and at(log_ns) >= 25:
            message.header.frame_id = 'map'
        return log_ns, topic, message

    code, found = run_changed(tmp_path, rig, change, seconds=6)
    assert code == 0
    assert {line['reason'].split(':')[0] for line in rejected(found)} == {'odometry_frame'}
    assert found[-1]['status'] == 'ok'


def test_a_bag_shorter_than_the_history_gives_one_and_a_line(tmp_path, rig):
    bag = small_bag.write(tmp_path / 'bag', small_bag.drive(1.0))
    assert replay(bag, rig, tmp_path / 'out') == 1
    (line,) = lines(tmp_path / 'out')
    assert line['status'] == 'rejected'


def test_stamps_that_go_backwards_clear_the_buffer_and_go_on(tmp_path, rig):
    first, second = small_bag.drive(3), small_bag.drive(3)
    messages = first + [(log_ns + 4_000_000_000, topic, m) for log_ns, topic, m in second]
    bag = small_bag.write(tmp_path / 'bag', messages)
    assert replay(bag, rig, tmp_path / 'out', '--period', '0') == 0
    assert sum(line['status'] == 'ok' for line in lines(tmp_path / 'out')) >= 15


@pytest.mark.parametrize(
    ('more', 'said'),
    [
        (['--samples', '0'], '--samples 0'),
        (['--period', '-1'], '--period -1.0'),
        (['--min-valid', '1.5'], '--min-valid 1.5'),
        (['--temperature', '0'], '--temperature 0'),
        (['--engine', 'alpamayo'], '--checkpoint'),
        (['--engine', 'alpamayo', '--checkpoint', '/nowhere'], '/nowhere'),
        (['--rig', 'nope'], "'nope'"),
    ],
)
def test_a_value_that_cannot_be_used_ends_the_run_in_one_line(
    straight, rig, tmp_path, capsys, more, said
):
    assert replay(straight, rig, tmp_path / 'out', *more) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1
    assert error.startswith('alpamayo_replay: error: ')


def test_a_topic_that_is_missing_is_named_with_those_there_are(rig, tmp_path, capsys):
    kept = [m for m in small_bag.drive(2) if m[1] != image_topic('front_tele')]
    assert replay(small_bag.write(tmp_path / 'bag', kept), rig, tmp_path / 'out') == 2
    error = capsys.readouterr().err
    assert image_topic('front_tele') in error and ODOMETRY in error


def test_a_bag_cut_off_keeps_the_lines_before_the_cut(rig, tmp_path, capsys):
    messages = small_bag.drive(6)
    bag = small_bag.write(tmp_path / 'bag', messages, 'sqlite3', 'file')
    (file,) = bag.glob('*.db3*')
    file.write_bytes(file.read_bytes()[:-4000])
    assert replay(bag, rig, tmp_path / 'out') == 0
    assert 'note     ' in capsys.readouterr().out
    found = summary(tmp_path / 'out')
    assert 'damaged' in found['bag_notes'][0]
    assert found['truth']['used'] < 301


def test_a_corrupt_jpeg_is_a_rejected_line(tmp_path, rig):
    """With the model's engine, which is the one that decodes."""
    from alpamayo_ros.model.small.untrained import write_small_checkpoint

    write_small_checkpoint(tmp_path / 'checkpoint', 0)
    picture = cv2.imencode('.jpg', np.full((90, 160, 3), 120, np.uint8))[1].ravel()

    def message(log_ns, topic, content):
        if topic == ODOMETRY:
            return log_ns, topic, content
        stamp = log_ns - 20_000_000
        broken = topic == image_topic('cross_right') and at(log_ns) == 18
        data = picture[: len(picture) // 3] if broken else picture
        return log_ns, topic, compressed(stamp, data)

    bag = small_bag.write(tmp_path / 'bag', changed(small_bag.drive(2.3), message))
    more = ['--engine', 'alpamayo', '--checkpoint', str(tmp_path / 'checkpoint'), '--period', '0']
    assert replay(bag, rig, tmp_path / 'out', *more) == 0
    found = lines(tmp_path / 'out')
    status = [line['status'] for line in found if 'topic' not in line]
    assert status == ['ok', 'ok', *['rejected'] * 4, 'ok', 'ok']
    assert all('cross_right' in json.dumps(line) for line in rejected(found))
    texts = {json.dumps(line['text']) for line in found if line['status'] == 'ok'}
    assert 'Untrained demo weights' in texts.pop()


def test_odometry_of_a_circle_gives_its_speed(rig, tmp_path):
    pose = odometry(START_NS, small_bag.ORIGIN_M, 0.0, 5.0)
    assert pose.twist.twist.linear.x == 5.0
    bag = small_bag.write(tmp_path / 'bag', small_bag.drive(3, speed=8.0, curvature=0.03))
    assert replay(bag, rig, tmp_path / 'out', '--period', '0') == 0
    assert lines(tmp_path / 'out')[0]['v0_mps'] == pytest.approx(8.0, abs=0.02)


def thinned(period):
    """A drive with every `period`-th pose only."""
    poses = [m for m in small_bag.drive(5) if m[1] == ODOMETRY][::period]
    return sorted([m for m in small_bag.drive(5) if m[1] != ODOMETRY] + poses, key=lambda m: m[0])


def test_a_limit_of_the_node_is_an_option_and_stands_in_the_record(rig, tmp_path, capsys):
    bag = small_bag.write(tmp_path / 'bag', thinned(12))  # every 0.24 s
    assert replay(bag, rig, tmp_path / 'a') == 1
    assert summary(tmp_path / 'a')['reasons'] == {'odometry_gap': 4}
    assert replay(bag, rig, tmp_path / 'b', '--odometry-max-gap-s', '0.3') == 0
    found = summary(tmp_path / 'b')
    assert found['ok'] == 4 and found['horizons']['1.0']
    assert found['provenance']['parameters']['odometry_max_gap_s'] == 0.3
    assert replay(bag, rig, tmp_path / 'c', '--odometry-max-gap-s', '3') == 2
    assert 'odometry_max_gap_s: 3.0 is not in 0.01 ... 0.5' in capsys.readouterr().err


def test_a_run_that_measures_nothing_though_odometry_goes_on_ends_with_one(rig, tmp_path, capsys):
    def change(log_ns, topic, message):
        if topic == ODOMETRY and log_ns >= START_NS + 2_300_000_000:
            message.pose.pose.position.y += 2.0
        return log_ns, topic, message

    bag = small_bag.write(tmp_path / 'bag', changed(small_bag.drive(9), change))
    t0 = ['--t0', str(START_NS + 2_000_000_000)]
    assert replay(bag, rig, tmp_path / 'out', *t0) == 1
    found = summary(tmp_path / 'out')
    assert (found['ok'], found['pass'], found['truth']['without']) == (
        1,
        False,
        {'odometry_jump': 1},
    )
    text = capsys.readouterr().out
    assert 'not measured: odometry goes on behind 1 predictions, but is no truth' in text


def test_the_commonest_refusal_of_a_topic_is_on_the_terminal(rig, tmp_path, capsys):
    def change(log_ns, topic, message):
        if topic == ODOMETRY:
            message.pose.pose.orientation.w = message.pose.pose.orientation.z = 0.0
        return log_ns, topic, message

    bag = small_bag.write(tmp_path / 'bag', changed(small_bag.drive(3), change))
    assert replay(bag, rig, tmp_path / 'out') == 1
    text = capsys.readouterr().out
    assert f'refused  {ODOMETRY}: bad_message 151, for example: quaternion has norm 0' in text
    assert 'truth    0 of 151 recorded poses make the driven path' in text
    assert f'{ODOMETRY}: bad_message' in (tmp_path / 'out/report.html').read_text()


def navigate(folder, rig, *more, messages=()):
    """Lines of a drive of 4 s with more messages, every anchor."""
    bag = small_bag.write(folder / 'bag', [*small_bag.drive(4), *messages])
    assert replay(bag, rig, folder / 'out', '--period', '0', *more) == 0
    return lines(folder / 'out')


def test_route_texts_of_a_topic_hold_from_their_log_time_until_they_are_old(rig, tmp_path):
    texts = [
        (START_NS + round(at_s * 1e9), '/guide', small_bag.make('std_msgs/msg/String', data=text))
        for at_s, text in ((2.05, 'Turn left in 30m'), (2.5, '<i7>'), (3.8, ''))
    ]
    more = ('--navigation-topic', '/guide', '--on-missing-navigation', 'reject')
    found = navigate(
        tmp_path, rig, *more, '--navigation-max-age-s', '1', messages=sorted(texts, key=str)
    )
    (refused,) = [line for line in found if line.get('topic')]
    assert (refused['topic'], refused['reason']) == ('/guide', 'bad_message')
    by_t0 = {(x['t0_ns'] - START_NS) / 1e9: x for x in found if 'topic' not in x}
    served = [t0_s for t0_s, line in by_t0.items() if line['status'] == 'ok']
    assert served == [round(2.1 + 0.1 * k, 1) for k in range(10)]  # log times are 0.02 s later
    assert by_t0[2.0]['detail'] == 'no route text and no route has come'
    assert by_t0[3.5]['detail'] == 'the route text is 1.5 s old, limit 1 s'
    assert by_t0[3.9]['detail'] == 'the route text is empty'


def test_route_texts_of_a_file_are_in_the_run_and_bad_files_are_refused(rig, tmp_path, capsys):
    texts = tmp_path / 'texts.txt'
    texts.write_bytes(  # of another editor: a byte order mark, a tab, line ends of two bytes
        b'\xef\xbb\xbf# SECONDS TEXT\r\n\r\n2.5\tTurn left in 30m\r\n3.5 Continue straight\r\n'
    )
    more = ('--navigation-file', str(texts), '--on-missing-navigation', 'reject')
    found = navigate(tmp_path, rig, *more)
    assert [(x['t0_ns'] - START_NS) / 1e8 for x in found if x['status'] == 'ok'] == [
        *range(25, 41)
    ]
    run = json.loads((tmp_path / 'out/run.json').read_text())['parameters']
    assert run['navigation_file'] == str(texts)
    assert run['on_missing_navigation'] == 'reject'
    for text, line in (('left', 1), ('1 go\nx go', 2), ('2 go\n1 go', 2), ('1 <i7>', 1)):
        texts.write_text(text)
        assert replay(tmp_path / 'bag', rig, tmp_path / 'other', *more) == 2
        assert f'{texts}: line {line}: ' in capsys.readouterr().err


def test_a_topic_of_another_type_is_no_route(straight, rig, tmp_path, capsys):
    more = ('--navigation-topic', ODOMETRY)
    assert replay(straight, rig, tmp_path / 'out', *more) == 2
    assert 'std_msgs/msg/String or nav_msgs/msg/Path' in capsys.readouterr().err
    assert replay(straight, rig, tmp_path / 'out2', '--navigation-topic', '/nothing') == 2
    assert 'no topic /nothing' in capsys.readouterr().err


SEVEN = (*small_bag.CAMERAS[:3], 'rear_left', 'rear_tele', 'rear_right', 'front_tele')


@pytest.fixture(scope='module')
def seven(tmp_path_factory):
    """A drive of 1.5's seven cameras, its rig and an untrained 1.5."""
    from alpamayo_ros.model.small.untrained import write_small_checkpoint

    folder = tmp_path_factory.mktemp('seven')
    messages = small_bag.drive(2)
    messages += [
        (log_ns, image_topic(name), message)
        for log_ns, topic, message in messages
        for name in SEVEN[3:6]
        if topic == image_topic('front_wide')
    ]
    added = '\n'.join(
        f'  - name: {name}\n    index: {index}\n    topic: {image_topic(name)}'
        for index, name in enumerate(SEVEN)
        if name in SEVEN[3:6]
    )
    (folder / 'seven.yaml').write_text(f'{small_bag.RIG}\n{added}\n')
    write_small_checkpoint(folder / 'checkpoint', 0, 'alpamayo1_5')
    small_bag.write(folder / 'bag', sorted(messages, key=lambda message: message[0]))
    return folder


def replay15(folder, out, *more):
    """The line of one t0 of the drive of seven cameras."""
    options = ('--rig', str(folder / 'seven.yaml'), '--checkpoint', str(folder / 'checkpoint'))
    t0 = ('--t0', str(START_NS + 18 * 10**8), '--max-tokens', '12')
    assert main([str(folder / 'bag'), '--out', str(out), *options, *t0, *more]) == 0
    (line,) = lines(out)
    return line


def test_seven_cameras_and_all_choices_of_alpamayo_15_are_reached(seven, tmp_path):
    line = replay15(seven, tmp_path / 'seven')
    assert 'camera_subset' not in line['checks'] and line['navigation'] == ''
    texts = tmp_path / 'texts.txt'
    texts.write_text('0 Turn left in 30m')
    more = ('--navigation-file', str(texts), '--navigation-max-age-s', '60')
    drive = ('--profile', 'drive', '--activations', '16', '--kv-bits', '16')
    guided = (*more, *drive, '--guidance-weight', '1.5', '--noise-temperature', '0.6')
    found = replay15(seven, tmp_path / 'drive', *guided)
    assert (found['end'], found['tokens'], found['text']) == ('none', 0, '')
    assert found['navigation'] == 'Turn left in 30m'
    assert 'camera_subset' in found['checks']
    assert not {'out_of_training', 'unguided'} & set(found['checks'])
    page = (tmp_path / 'drive/report.html').read_text()
    assert 'Route text: Turn left in 30m' in page
    assert 'camera_subset: the rig has no cross_left' in page
    facts = json.loads((tmp_path / 'drive/run.json').read_text())
    assert facts['parameters']['guidance_weight'] == 1.5
    assert facts['engine']['cameras'] == 'front_wide,front_tele'
    short = replay15(seven, tmp_path / 'short', '--reasoning', 'short', '--max-tokens', '4')
    assert (short['end'], short['tokens']) == ('cut', 3)


def test_a_profile_reaches_the_engine(seven, tmp_path):
    replay15(seven, tmp_path / 'out', '--profile', 'fast', '--flow-steps', '2')
    run = json.loads((tmp_path / 'out/run.json').read_text())
    chosen = {key: run['parameters'][key] for key in ('activations', 'kv_bits', 'flow_steps')}
    assert chosen == {'activations': 8, 'kv_bits': 8, 'flow_steps': 2}
    assert (run['engine']['activations'], run['engine']['kv_bits']) == (8, 8)


def ask(folder, *more):
    """Exit code of a question about the drive of seven cameras."""
    options = ('--rig', str(folder / 'seven.yaml'), '--max-tokens', '6')
    return ask_main([str(folder / 'bag'), 'What is ahead?', *options, *more])


def test_a_question_is_answered_in_words_that_may_not_end(seven, capsys):
    t0_ns, checkpoint = START_NS + 18 * 10**8, ('--checkpoint', str(seven / 'checkpoint'))
    assert ask(seven, *checkpoint, '--t0', str(t0_ns), '--json', '--greedy') == 1  # untrained
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert (found['t0_ns'], found['question']) == (t0_ns, 'What is ahead?')
    assert found['has_ended'] is False
    assert shown.err == 'the answer did not end within 6 tokens\n'


@pytest.mark.parametrize(
    ('more', 'text'),
    [
        (('--engine', 'constant_velocity'), 'only alpamayo answers questions'),
        (('--checkpoint', 'small', '--t0', '5'), 'no context at t0 5: front_wide: no frame at 5'),
        (('--checkpoint', 'small'), 'the model is alpamayo_r1, which knows none'),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_in_one_line(seven, capsys, more, text):
    assert ask(seven, *more) == 2
    error = capsys.readouterr().err
    assert text in error and error.count('\n') == 1
