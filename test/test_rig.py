"""Rig files: every one that is shipped loads, and every mistake is one line that names the key."""

import copy
from dataclasses import fields

import pytest
import yaml

from alpamayo_ros import rig
from alpamayo_ros.errors import BadInput
from alpamayo_ros.limits import ContextLimits

GOOD = {
    'anchor': 'front_wide',
    'odometry_topic': '/odometry',
    'cameras': [
        {'name': 'front_tele', 'index': 6, 'topic': '/tele', 'tolerance_s': 0.02},
        {
            'name': 'front_wide',
            'index': 1,
            'topic': '/wide',
            'calibration': {
                'width': 1920,
                'height': 1080,
                'fx': 1000,
                'fy': 1001.5,
                'cx': 960.0,
                'cy': 540.0,
                'distortion': [0.1, -0.2, 0, 0, 0.01],
                'base_from_camera': {
                    'position_m': [1.5, 0, 1.4],
                    'quaternion_xyzw': [-0.5, 0.5, -0.5, 0.5],
                },
            },
        },
        {'name': 'cross_left', 'index': 0, 'topic': '/left'},
    ],
    'absent': ['cross_right'],
}


@pytest.fixture
def load(tmp_path):
    """Return a function that loads GOOD after a change to it."""

    def write_and_load(change=lambda document: None):
        document = copy.deepcopy(GOOD)
        change(document)
        path = tmp_path / 'car.yaml'
        path.write_text(yaml.safe_dump(document))
        return rig.load_rig(path)

    return write_and_load


def put(*keys, value):
    """Return a change: the value at a path of keys."""

    def change(document):
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


def drop(*keys):
    def change(document):
        for key in keys[:-1]:
            document = document[key]
        del document[keys[-1]]

    return change


@pytest.mark.parametrize('name', rig.list_rigs())
def test_every_shipped_rig_loads(name):
    loaded = rig.load_rig(name)
    assert loaded.name == name
    assert set(rig.R1_CAMERAS) == {camera.name for camera in loaded.cameras} | set(loaded.absent)


def test_the_two_documented_rigs_are_known():
    assert {'r1', 'kitti_odom_03'} <= set(rig.list_rigs())


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(BadInput, match=r"rig 'r2' is not one of .*kitti_odom_03.*r1"):
        rig.load_rig('r2')


def test_missing_file_is_named():
    with pytest.raises(BadInput, match=r'nowhere/car\.yaml: No such file'):
        rig.load_rig('nowhere/car.yaml')


def test_cameras_are_sorted_by_index_and_values_kept(load):
    loaded = load()
    assert [camera.index for camera in loaded.cameras] == [0, 1, 6]
    assert [camera.tolerance_s for camera in loaded.cameras] == [0.05, 0.05, 0.02]
    assert (loaded.name, loaded.anchor, loaded.absent) == ('car', 'front_wide', ('cross_right',))
    wide = loaded.cameras[1]
    assert wide.topic == '/wide'
    assert (wide.calibration.width, wide.calibration.fy) == (1920, 1001.5)
    assert wide.calibration.distortion == (0.1, -0.2, 0.0, 0.0, 0.01)
    assert wide.calibration.position_m == (1.5, 0.0, 1.4)
    assert loaded.cameras[0].calibration is None


def test_tolerance_of_the_rig_is_the_default_of_its_cameras(load):
    loaded = load(put('tolerance_s', value=0.03))
    assert [camera.tolerance_s for camera in loaded.cameras] == [0.03, 0.03, 0.02]


def test_wider_tolerance_up_to_the_grid_step_is_allowed(load):
    assert load(put('tolerance_s', value=0.1)).tolerance_s == 0.1


def test_rig_sets_any_limit_of_the_buffer(load):
    assert load().limits == ContextLimits()
    values = {
        'max_input_age_s': 1,
        'odometry_max_gap_s': 0.3,
        'max_skew_s': 0.1,
        'frame_lead_s': 0.05,
    }
    assert values.keys() == {row.name for row in fields(ContextLimits)}
    assert load(lambda document: document.update(values)).limits == ContextLimits(**values)
    assert load(put('max_skew_s', value=0.07)).limits == ContextLimits(max_skew_s=0.07)


def test_rig_may_leave_the_twist_out(load):
    assert load().uses_twist
    assert load(put('twist', value='use')).uses_twist
    assert not load(put('twist', value='ignore')).uses_twist


def test_rig_says_type_and_bit_depth_of_a_topic(load):
    def change(document):
        document['cameras'][0] |= {'type': 'sensor_msgs/msg/CompressedImage', 'bit_depth': 12}

    tele = load(change).cameras[-1]
    assert (tele.type, tele.bit_depth) == ('sensor_msgs/msg/CompressedImage', 12)
    assert (tele.topic, tele.message_type) == ('/tele', 'sensor_msgs/msg/CompressedImage')


@pytest.mark.parametrize(
    'namespace, topic', [('/', '/tele/image'), ('/fleet/car', '/fleet/car/tele/image')]
)
def test_a_topic_without_a_slash_in_front_is_in_the_namespace(load, tmp_path, namespace, topic):
    load(put('cameras', 0, 'topic', value='tele/image'))
    placed = rig.load_rig(tmp_path / 'car.yaml', namespace)
    assert placed.cameras[-1].topic == topic
    assert placed.odometry_topic == '/odometry'


def test_topic_without_a_type_has_that_of_its_name(load):
    tele = load().cameras[-1]
    assert (tele.type, tele.bit_depth, tele.message_type) == ('', 0, 'sensor_msgs/msg/Image')
    tele = load(put('cameras', 0, 'topic', value='/tele/compressed')).cameras[-1]
    assert tele.message_type == 'sensor_msgs/msg/CompressedImage'


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (put('max_skew_s', value=0.2), r'max_skew_s: 0\.2 is not in 0\.0 \.\.\. 0\.1'),
        (put('max_skew_s', value='1'), "max_skew_s: expected a number, got '1'"),
        (put('odometry_max_gap_s', value=float('inf')), 'odometry_max_gap_s: inf is not in'),
        (put('max_rate_hz', value=5), 'max_rate_hz: unknown key'),
        (put('twist', value=False), 'twist: False is not one of use, ignore'),
        (put('cameras', 0, 'type', value='Image'), r"cameras\[0\]\.type: 'Image' is not one of"),
        (
            put('cameras', 0, 'bit_depth', value=7),
            r'bit_depth: expected an integer of 8 \.\.\. 16',
        ),
        (
            put('cameras', 0, 'bit_depth', value=17),
            r'bit_depth: expected an integer of 8 \.\.\. 16',
        ),
        (put('cameras', 0, 'twist', value='use'), r'cameras\[0\]\.twist: unknown key'),
        (put('colour', value='red'), 'colour: unknown key'),
        (put('cameras', 0, 'hz', value=10), r'cameras\[0\]\.hz: unknown key'),
        (drop('anchor'), 'anchor: missing'),
        (drop('odometry_topic'), 'odometry_topic: missing'),
        (drop('cameras'), 'cameras: missing'),
        (drop('cameras', 1, 'topic'), r'cameras\[1\]\.topic: missing'),
        (put('cameras', value=[]), r'cameras: expected a list of mappings, got \[\]'),
        (put('cameras', 2, value='/left'), r"cameras\[2\]: expected a mapping, got '/left'"),
        (put('anchor', value='cross_right'), "anchor: 'cross_right' is not one of front_tele, "),
        (put('cameras', 2, 'name', value='left'), r"cameras\[2\]\.name: 'left' is not one of"),
        (put('cameras', 2, 'index', value=1), r'cameras\[2\]\.index: 1 is there twice'),
        (put('cameras', 2, 'index', value=2), r'index: 2 is not cross_left, which is 0'),
        (put('cameras', 2, 'index', value='0'), r'index: expected an integer of 0 or more'),
        (put('cameras', 2, 'topic', value='/wide'), r'topic: /wide is also front_wide'),
        (put('cameras', 2, 'topic', value='/odometry'), 'topic: /odometry is also odometry_topic'),
        (
            put('cameras', 2, 'topic', value='odometry'),
            'topic: /odometry is also odometry_topic',
        ),
        (put('cameras', 2, 'topic', value='/cam-1/image'), r"expected a topic, .*'/cam-1/image'"),
        (put('cameras', 2, 'topic', value='/cam//image'), r"expected a topic, .*'/cam//image'"),
        (put('cameras', 1, 'calibration', 'fx', value=10**400), r'calibration\.fx: 1'),
        (put('odometry_topic', value='/a b'), r"odometry_topic: expected a topic, .*'/a b'"),
        (put('tolerance_s', value=0), r'tolerance_s: 0 is not in \(0, 0\.1\]'),
        (put('cameras', 0, 'tolerance_s', value=0.11), r'cameras\[0\]\.tolerance_s: 0\.11 is not'),
        (put('tolerance_s', value='50 ms'), "tolerance_s: expected a number, got '50 ms'"),
        (put('tolerance_s', value=float('nan')), 'tolerance_s: nan is not in'),
        (put('absent', value=[]), 'cameras: cross_right is missing'),
        (put('absent', value=['rear']), r"absent: expected camera names, got \['rear'\]"),
        (put('absent', value=[['cross_right']]), 'absent: expected camera names'),
        (put('absent', value=['cross_right', 'cross_left']), 'absent: cross_left is there twice'),
        (put('absent', value=['cross_right'] * 2), 'absent: cross_right is there twice'),
        (put('cameras', 1, 'calibration', 'fx', value=-1), r'calibration\.fx: -1 is not in'),
        (put('cameras', 1, 'calibration', 'fx', value=float('inf')), r'calibration\.fx: inf is'),
        (put('cameras', 1, 'calibration', 'width', value=0.5), r'calibration\.width: expected an'),
        (put('cameras', 1, 'calibration', 'k1', value=0.5), r'calibration\.k1: unknown key'),
        (
            put('cameras', 1, 'calibration', 'distortion', value=[1.0]),
            r'distortion: expected 0 or 4 or 5 or 8 or 12 or 14 finite numbers, got \[1\.0\]',
        ),
        (
            put('cameras', 1, 'calibration', 'base_from_camera', 'quaternion_xyzw', value=[0] * 4),
            r'base_from_camera\.quaternion_xyzw: expected a norm of 1',
        ),
        (
            put(
                'cameras',
                1,
                'calibration',
                'base_from_camera',
                'quaternion_xyzw',
                value=[0, 0, 0, 1],
            ),
            r'base_from_camera\.quaternion_xyzw: its y axis lies flat, expected .* optical frame',
        ),
        (
            put('cameras', 1, 'calibration', 'base_from_camera', 'position_m', value=['a', 0, 0]),
            r'position_m: expected 3 finite numbers',
        ),
    ],
)
def test_mistake_is_one_line_with_file_and_key(load, change, text):
    with pytest.raises(BadInput, match=text) as caught:
        load(change)
    assert 'car.yaml: ' in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('content', 'text'),
    [
        ('', 'file: expected a mapping, got None'),
        ('- 1', r'file: expected a mapping, got \[1\]'),
        ('anchor: [', 'not YAML'),
        ('anchor: front_wide\nanchor: front_tele\n', "key 'anchor' is there twice"),
        ('a: !!python/object/apply:os.getcwd []', 'not YAML: could not determine a constructor'),
        ('? [a]\n: 1\n', 'not YAML'),
        ('\x00', 'not YAML'),
        ('[' * 5000, 'not YAML: nested too deeply'),
    ],
)
def test_file_that_is_no_rig_at_all(tmp_path, content, text):
    path = tmp_path / 'car.yaml'
    path.write_text(content)
    with pytest.raises(BadInput, match=text) as caught:
        rig.load_rig(path)
    assert '\n' not in str(caught.value)


def test_folder_is_no_rig(tmp_path):
    with pytest.raises(BadInput, match='Is a directory'):
        rig.load_rig(tmp_path)
