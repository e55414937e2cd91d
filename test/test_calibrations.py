"""Calibrations from CameraInfo and TF of a bag, and fields of view that do not fit a name."""

from dataclasses import replace
import math

import cv2
import numpy as np
import pytest
from small_bag import ODOMETRY, START_NS, drive, header, image_topic, make, write, write_rig

from alpamayo_ros import geometry
from alpamayo_ros.bags.calibrations import complete_calibrations
from alpamayo_ros.bags.reader import Bag
from alpamayo_ros.rig import CameraCalibration, RigCamera, load_rig
from alpamayo_ros.ros.diagnostics.status import OK, WARN
from alpamayo_ros.ros.inputs import to_links
from alpamayo_ros.ros.receiving.calibrations import LiveCalibrations
from alpamayo_ros.ros.receiving.field_of_view import (
    NOMINAL_DEGREES,
    describe_wrong_views,
    measure_view,
)
from alpamayo_ros.transform_tree import TransformTree

OPTICAL = (-0.5, 0.5, -0.5, 0.5)
WIDE = 32 / math.tan(math.radians(60))  # focal length of 64 pixels for 120 degrees


def transform(parent, child, xyz, xyzw):
    return make(
        'geometry_msgs/msg/TransformStamped',
        header=header(START_NS, parent),
        child_frame_id=child,
        transform=make(
            'geometry_msgs/msg/Transform',
            translation=make('geometry_msgs/msg/Vector3', **dict(zip('xyz', xyz, strict=True))),
            rotation=make('geometry_msgs/msg/Quaternion', **dict(zip('xyzw', xyzw, strict=True))),
        ),
    )


def info(fx=WIDE, frame='front_optical', model='plumb_bob', d=(), p_fx=50.0):
    k = [fx, 0, 31.5, 0, fx, 23.5, 0, 0, 1]
    p = [p_fx, 0, 30.5, 0, 0, p_fx, 22.5, 0, 0, 0, 1, 0]
    return make(
        'sensor_msgs/msg/CameraInfo',
        header=header(START_NS, frame),
        height=48,
        width=64,
        distortion_model=model,
        d=np.array(d, float),
        k=np.array(k, float),
        p=np.array(p, float),
    )


# the mast is turned to the left, the camera on it back to the front
HALF = math.sin(math.radians(45))
STATIC = [
    transform('chassis', '/base_link', (0.0, 0.0, 0.5), (0.0, 0.0, 0.0, 1.0)),
    transform('chassis', 'mast', (1.0, 0.0, 1.0), (0.0, 0.0, HALF, HALF)),
    transform('mast', 'camera', (0.2, 0.0, 1.0), (0.0, 0.0, -HALF, HALF)),
    transform('camera', 'front_optical', (0.0, 0.0, 0.0), OPTICAL),
]


def complete(folder, *messages, topic='/front/image_raw/compressed', calibrated=False):
    """What a bag with these messages besides a drive makes of a rig."""
    found = [m for m in drive(seconds=0.2) if m[1] == ODOMETRY]
    found += [(START_NS, name, message) for name, message in messages]
    path = write_rig(folder)
    text = path.read_text().replace(image_topic('front_wide'), topic)
    if not calibrated:
        start = text.index('    calibration:')
        text = text[:start] + text[text.index('  - name', start) :]
    path.write_text(text)
    with Bag(write(folder / 'bag', found)) as bag:
        rig, notes = complete_calibrations(bag, load_rig(path))
    return next(x for x in rig.cameras if x.name == 'front_wide').calibration, notes


def tf(transforms=STATIC):
    return '/tf_static', make('tf2_msgs/msg/TFMessage', transforms=transforms)


INFO_TOPIC = '/front/camera_info'


def test_a_calibration_is_made_of_camera_info_and_static_transforms(tmp_path):
    found, notes = complete(
        tmp_path, tf(STATIC[2:]), tf(STATIC[:2]), (INFO_TOPIC, info(d=(0.1, 0.02, 0, 0, 0)))
    )
    assert notes == []
    assert (found.width, found.height, found.cx, found.cy) == (64, 48, 31.5, 23.5)
    assert found.fx == found.fy == WIDE
    assert found.distortion == (0.1, 0.02, 0, 0, 0)
    np.testing.assert_allclose(found.position_m, (1.0, 0.2, 1.5), atol=1e-12)
    turned = geometry.rotation_matrix(found.quaternion_xyzw)
    np.testing.assert_allclose(turned, geometry.rotation_matrix(OPTICAL), atol=1e-12)


def test_rectified_images_have_the_matrix_p_and_no_distortion(tmp_path):
    found, _ = complete(
        tmp_path,
        tf(),
        (INFO_TOPIC, info(d=(0.1, 0.02, 0, 0, 0))),
        topic='/front/image_rect/compressed',
    )
    assert (found.fx, found.cx, found.cy, found.distortion) == (50.0, 30.5, 22.5, ())


def test_a_calibration_of_the_rig_is_kept(tmp_path):
    found, notes = complete(tmp_path, tf(), (INFO_TOPIC, info()), calibrated=True)
    assert (found.fx, notes) == (40.0, [])


def test_without_camera_info_nothing_is_said(tmp_path):
    assert complete(tmp_path, tf()) == (None, [])


@pytest.mark.parametrize(
    ('transforms', 'message', 'text'),
    [
        (
            STATIC[1:],
            info(),
            '/tf_static: no transforms lead from front_optical to base_link: chassis and',
        ),
        (STATIC, info(frame=''), 'its CameraInfo has no frame_id'),
        (STATIC, info(fx=0.0), 'its CameraInfo is that of a camera without calibration'),
        (STATIC, info(model='equidistant', d=(0.1,) * 4), "distortion model 'equidistant' with 4"),
        (STATIC, info(d=(0.1,) * 6), "distortion model 'plumb_bob' with 6 coefficients"),
    ],
)
def test_what_cannot_be_used_is_a_note(tmp_path, transforms, message, text):
    found, (note,) = complete(tmp_path, tf(transforms), (INFO_TOPIC, message))
    assert found is None
    assert note.startswith(f'front_wide: no calibration from the bag: {text}')


def test_camera_info_beside_several_cameras_is_of_none(tmp_path):
    shared = complete(
        tmp_path, tf(), ('/camera/camera_info', info()), topic=image_topic('front_wide')
    )
    assert shared == (None, [])


def test_camera_info_may_be_below_the_image(tmp_path):
    found, _ = complete(
        tmp_path, tf(), ('/camera/front/camera_info', info()), topic='/camera/front/ffmpeg'
    )
    assert found.fx == WIDE


def test_transforms_in_a_ring_end(tmp_path):
    ring = [*STATIC, transform('front_optical', 'chassis', (0, 0, 0), (0, 0, 0, 1))]
    _, notes = complete(tmp_path, tf(ring), (INFO_TOPIC, info()))
    assert len(notes) <= 1


def camera(name, fx, distortion=(), width=64, cx=31.5):
    place = (0.0, 0.0, 0.0), OPTICAL
    calibration = CameraCalibration(width, 48, fx, fx, cx, 23.5, distortion, *place)
    return RigCamera(name, 0, f'/{name}', 0.05, calibration)


def test_a_pinhole_without_distortion_has_its_width():
    assert measure_view(camera('front_wide', WIDE).calibration) == pytest.approx(120, abs=0.01)
    aside = camera('front_wide', 100.0, width=200, cx=-0.5).calibration
    assert measure_view(aside) == pytest.approx(math.degrees(math.atan(2)), abs=0.01)


@pytest.mark.parametrize(
    'distortion', [(-0.15, 0.01, 0.0, 0.0, 0.0), (0.9, 0.2, 0.0, 0.0, 0.01, 1.2, 0.5, 0.06)]
)
def test_distortion_widens_the_view_as_opencv_says(distortion):
    calibration = camera('front_wide', 30.0, distortion).calibration
    matrix = np.array([[30.0, 0, 31.5], [0, 30.0, 23.5], [0, 0, 1]])
    edges = np.array([[[-0.5, 23.5], [63.5, 23.5]]])
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 500, 1e-10)
    rays = cv2.undistortPointsIter(
        edges, matrix, np.array(distortion), np.eye(3), np.eye(3), criteria
    )
    expected = np.degrees(np.arctan(np.abs(rays[..., 0])).sum())
    assert measure_view(calibration) == pytest.approx(expected, abs=0.1)


def test_a_view_that_is_not_that_of_its_name_is_named():
    cameras = [camera('front_wide', WIDE), camera('front_tele', WIDE), camera('rear_left', 45.0)]
    assert describe_wrong_views(cameras) == [
        'front_tele: its calibration sees 120 degrees, the model knows front_tele with 30'
    ]
    near = camera('front_tele', 32 / math.tan(math.radians(36.0 / 2)))
    far = camera('front_tele', 32 / math.tan(math.radians(39.0 / 2)))
    assert len(describe_wrong_views([near, far])) == 1
    assert set(NOMINAL_DEGREES.values()) == {30, 70, 120}


def test_rigs_of_the_package_have_the_views_of_their_names():
    assert describe_wrong_views(load_rig('synthetic').cameras) == []


def live_calibrations(*static):
    """Calibrations of a rig whose two cameras have none, as the node keeps them."""
    tree = TransformTree()
    for message in static:
        for link in to_links(message, is_static=True):
            tree.add(link)
    cameras = [
        replace(camera(name, WIDE), calibration=None) for name in ('front_wide', 'rear_left')
    ]
    topics = {'front_wide': '/front/image_raw/compressed', 'rear_left': '/left/image'}
    return LiveCalibrations([*cameras, camera('front_tele', 120.0)], topics, tree)


def test_a_live_calibration_is_that_of_the_recording(tmp_path):
    recorded, _ = complete(tmp_path, tf(), (INFO_TOPIC, info()))
    live = live_calibrations(tf()[1])
    assert live.add_info('front_wide', info(), 'base_link') == ''
    assert live._cameras['front_wide'].calibration == recorded
    assert list(live.wanted) == ['rear_left']
    values = live.describe().values
    assert (values['front_wide'], values['front_tele']) == ('120 degrees', '30 degrees')


def test_the_topics_that_have_brought_nothing_are_named():
    status = live_calibrations().describe()
    text = 'no sensor_msgs/msg/CameraInfo on /left/image/camera_info or /left/camera_info'
    assert status.level == WARN
    assert status.values['rear_left'] == text
    assert f'rear_left: {text}' in status.message
    assert live_calibrations().wanted['front_wide'] == (
        '/front/image_raw/camera_info',
        '/front/camera_info',
    )


@pytest.mark.parametrize(
    ('base', 'static', 'text'),
    [
        ('', (tf()[1],), 'no odometry has named the frame of the rear axle'),
        ('base_link', (), '/tf_static: no transforms lead from front_optical to base_link'),
    ],
)
def test_a_live_calibration_waits_for_all_that_it_needs(base, static, text):
    live = live_calibrations(*static)
    assert live.add_info('front_wide', info(), base) == ''
    assert live.describe().values['front_wide'].startswith(text)
    assert 'front_wide' in live.wanted


def test_a_live_view_that_is_not_that_of_its_name_is_a_warning():
    live = live_calibrations(tf()[1])
    text = 'front_wide: its calibration sees 65 degrees, the model knows front_wide with 120'
    assert live.add_info('front_wide', info(fx=50.0), 'base_link') == text
    assert live.add_info('rear_left', info(fx=WIDE, frame='camera'), 'base_link') != ''
    status = live.describe()
    assert status.level == WARN and text in status.message
    known = LiveCalibrations([camera('front_wide', WIDE)], {'front_wide': '/front/image'}, None)
    assert known.describe().level == OK
