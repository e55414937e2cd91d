"""The makers' data set: contexts and truth against a plain reading, a reason for each fault."""

from itertools import pairwise
import json
import re

import av
from clip_folder import (
    CAMERAS,
    CLIPS,
    FPS,
    GOOD,
    INVALID,
    LATE,
    NO_TELE,
    break_video,
    drive,
    frame_stamps,
    shade,
    write_clip_folder,
)
import numpy as np
import pytest

from alpamayo_ros import images
from alpamayo_ros.cli.replay import main
from alpamayo_ros.clips.clip import read_frames
from alpamayo_ros.clips.context import T0_US, make_clip_rig, read_context
from alpamayo_ros.clips.dataset import ClipError, ClipFolder
from alpamayo_ros.errors import BadInput

RIG = make_clip_rig()


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    return write_clip_folder(tmp_path_factory.mktemp('data') / 'clips')


@pytest.fixture
def own_clips(tmp_path):
    """A folder that a test may break."""
    return write_clip_folder(tmp_path / 'clips')


def local_pose(t_s):
    """Pose at t0 + t_s in the frame of t0, by hand: xyz m and yaw rad."""
    origin, turn = drive(T0_US * 1e-6)
    position, quaternion = drive(T0_US * 1e-6 + t_s)
    yaw0, yaw = (2 * np.arctan2(q[2], q[3]) for q in (turn, quaternion))
    x, y, z = position - origin
    cos, sin = np.cos(yaw0), np.sin(yaw0)
    return np.array([cos * x + sin * y, cos * y - sin * x, z]), yaw - yaw0


def reason_of(folder, clip, t0_us=T0_US):
    with pytest.raises(ClipError) as error:
        read_context(ClipFolder(folder), clip, RIG, t0_us)
    return error.value.reason, str(error.value)


def test_history_and_future_are_those_of_the_vehicle(clips):
    context, truth = read_context(ClipFolder(clips), GOOD, RIG)
    for row, xyz in enumerate(context.history_xyz_m):
        np.testing.assert_allclose(xyz, local_pose((row - 15) * 0.1)[0], atol=1e-6)
    for row in range(64):
        xyz, yaw = local_pose((row + 1) * 0.1)
        np.testing.assert_allclose(truth.future_xyz[row], xyz, atol=1e-6)
        np.testing.assert_allclose(truth.future[row], [*xyz[:2], yaw], atol=1e-6)
    assert context.v0_mps == pytest.approx(10.0, abs=0.01)
    assert context.odom_from_t0.position_m == pytest.approx(drive(5.1)[0], abs=1e-6)


def test_a_frame_is_the_last_one_at_or_before_its_time(clips):
    context, _ = read_context(ClipFolder(clips), GOOD, RIG)
    assert context.camera_indices == (0, 1, 2, 6)
    for camera, feature in zip(context.frames, CAMERAS, strict=True):
        stamps = frame_stamps(feature)
        for frame, age_us in zip(
            context.frames[camera], (300_000, 200_000, 100_000, 0), strict=True
        ):
            number = max(k for k, stamp in enumerate(stamps) if stamp <= T0_US - age_us)
            assert frame.stamp_ns == stamps[number] * 1000
            assert abs(int(images.decode(frame).mean()) - shade(number)) <= 3


def test_frames_of_a_seek_equal_those_of_a_whole_decoding(clips, tmp_path):
    folder = ClipFolder(clips)
    video = tmp_path / 'video.mp4'
    video.write_bytes(folder.read_member(GOOD, CAMERAS[1], 'video'))
    with av.open(str(video)) as container:
        every = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
    assert len(every) == 20 * FPS
    stamps = frame_stamps(CAMERAS[1])
    wanted = [0, 31, 32, 311, 599]
    frames = read_frames(folder, GOOD, 'front_wide', [int(stamps[k]) for k in wanted])
    for number, frame in zip(wanted, frames, strict=True):
        np.testing.assert_array_equal(frame.data.reshape(every[number].shape), every[number])
    assert all(a.stamp_ns < b.stamp_ns for a, b in pairwise(frames))


def test_each_fault_has_its_reason(clips):
    assert reason_of(clips, INVALID)[0] == 'clip_invalid'
    reason, text = reason_of(clips, LATE)
    assert reason == 'egomotion_short'
    assert 'covers 4.500 to 20.100 s, needed 3.600 to 11.500 s' in text
    reason, text = reason_of(clips, NO_TELE)
    assert reason == 'member_missing' and f'{NO_TELE}.camera_front_tele_30fov' in text
    assert reason_of(clips, GOOD, 14_000_000)[0] == 'egomotion_short'


def test_a_cut_video_is_a_reason_and_not_a_frame(own_clips):
    break_video(own_clips, CAMERAS[1], GOOD, keep=0.5)
    reason, text = reason_of(own_clips, GOOD)
    assert reason == 'video_broken' and 'front_wide' in text


def test_a_chunk_that_is_not_there_or_no_zip_is_a_reason(own_clips):
    path = own_clips / f'camera/{CAMERAS[0]}/{CAMERAS[0]}.chunk_0007.zip'
    path.write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
    assert reason_of(own_clips, GOOD)[0] == 'chunk_broken'
    path.unlink()
    assert reason_of(own_clips, GOOD)[0] == 'camera_missing'


def test_a_path_out_of_the_folder_is_refused(own_clips):
    table = own_clips / 'features.csv'
    table.write_text(table.read_text().replace('labels/egomotion/', '../secret/'))
    with pytest.raises(BadInput, match='leads out of the folder'):
        ClipFolder(own_clips).select(None, None)


@pytest.mark.parametrize('name', ['features.csv', 'clip_index.parquet'])
def test_a_folder_of_something_else_is_one_line(own_clips, name, capsys):
    (own_clips / name).write_text('nothing of this kind')
    assert main(['--clips', str(own_clips), '--engine', 'constant_velocity', '--out', 'x']) == 2
    assert name in capsys.readouterr().err


def test_clips_are_chosen_by_split_and_list(clips):
    folder = ClipFolder(clips)
    assert folder.select(None, None) == sorted(CLIPS)
    assert folder.select('train', None) == [LATE]
    assert folder.select(None, [NO_TELE, GOOD]) == [GOOD, NO_TELE]
    with pytest.raises(BadInput, match='no clip nobody'):
        folder.select(None, ['nobody'])
    with pytest.raises(BadInput, match='no clip of split val'):
        folder.select('val', None)


def test_a_replay_of_clips_writes_record_summary_bags_and_report(clips, tmp_path, capsys):
    out = tmp_path / 'out'
    arguments = ['--clips', str(clips), '--engine', 'constant_velocity', '--out', str(out)]
    assert main([*arguments, '--json']) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = [json.loads(line) for line in (out / 'results.jsonl').read_text().splitlines()]
    assert [(line['clip'], line['reason']) for line in lines] == [
        (GOOD, ''),
        (INVALID, 'clip_invalid'),
        (NO_TELE, 'member_missing'),
        (LATE, 'egomotion_short'),
    ]
    assert lines[0]['seed'] == 42 and lines[0]['k'] == 6
    summary = json.loads((out / 'summary.json').read_text())
    assert json.loads(printed[-1]) == summary
    straight = np.array([[k + 1.0, 0.0] for k in range(64)])
    driven = np.array([local_pose((k + 1) * 0.1)[0][:2] for k in range(64)])
    error = np.linalg.norm(straight - driven, axis=-1)
    metrics = summary['clips']
    assert (metrics['clips'], metrics['measured']) == (4, 1)
    assert metrics['min_ade_m']['6.4']['mean'] == pytest.approx(error.mean(), abs=0.01)
    assert metrics['min_ade_m']['1.0']['mean'] == pytest.approx(error[:10].mean(), abs=0.01)
    assert metrics['corner_distance_m']['mean'] > metrics['min_ade_m']['6.4']['mean']
    assert (out / 'prediction' / GOOD / 'metadata.yaml').is_file()
    page = (out / 'report.html').read_text()
    table = json.loads(re.search(r'rows = (\[.*\]), sortColumn = 1;', page)[1])
    assert [(row[1], row[-1]) for row in table] == [(x['clip'], x['reason']) for x in lines]
    assert table[0][2] == lines[0]['horizons']['6.4']['min_ade_m'] and table[1][2] is None
    assert [row[0] for row in table] == [f'#{GOOD}', '', '', '']
    assert f'id="{GOOD}"' in page and 'Errors of the clips' in page and 'Change of' not in page
    before = (out / 'results.jsonl').read_bytes()
    earlier = tmp_path / 'earlier'
    earlier.mkdir()
    lines[0]['horizons']['6.4']['min_ade_m'] -= 0.25
    (earlier / 'results.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines))
    assert main([*arguments, '--resume', '--against', str(earlier)]) == 0
    change = json.loads((out / 'summary.json').read_text())['against']
    assert (change['pairs'], change['worse'], change['mean_change_m']) == (1, 1, 0.25)
    page = (out / 'report.html').read_text()
    assert 'Against earlier: 1 in both, mean minADE +0.250 m, 1 worse.' in page
    assert '0.25' in re.search(r'rows = (\[.*\]), sortColumn = 6;', page)[1]
    assert (out / 'results.jsonl').read_bytes() == before
    assert 'Change of minADE' in page


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (['--out', 'x'], 'expected BAG with --rig, or --clips FOLDER'),
        (['bag', '--out', 'x', '--engine', 'constant_velocity'], '--rig: expected'),
        (
            ['bag', '--rig', 'r1', '--split', 'test', '--out', 'x'],
            '--split and --to-bag go with --clips',
        ),
    ],
)
def test_options_that_do_not_go_together_are_one_line(arguments, text, capsys):
    assert main(arguments) == 2
    assert text in capsys.readouterr().err


def test_a_clip_as_a_bag_gives_the_live_buffer_the_same_history(clips, tmp_path, capsys):
    chosen = tmp_path / 'list'
    chosen.write_text(f'{GOOD}\n{NO_TELE}\n')
    arguments = ['--clips', str(clips), '--list', str(chosen), '--to-bag']
    assert main([*arguments, '--out', str(tmp_path / 'bags')]) == 1
    assert f'{NO_TELE}: no bag: ' in capsys.readouterr().err
    assert [path.name for path in (tmp_path / 'bags').iterdir()] == [GOOD]
    out = tmp_path / 'replay'
    arguments = ['--rig', 'r1', '--engine', 'constant_velocity', '--period', '5']
    assert main([str(tmp_path / 'bags' / GOOD), *arguments, '--out', str(out)]) == 0
    lines = [json.loads(line) for line in (out / 'results.jsonl').read_text().splitlines()]
    assert {line['status'] for line in lines} == {'ok'}
    assert all(line['v0_mps'] == pytest.approx(10.0, abs=0.02) for line in lines)
    assert all(line['twist_mps'] == pytest.approx(10.0, abs=0.02) for line in lines)
