"""Images decode as cv_bridge decodes them, where a ROS 2 installation is sourced."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from alpamayo_ros import images
from alpamayo_ros.images import RAW_ENCODINGS, decode
from alpamayo_ros.ros.inputs import to_image
from alpamayo_ros.ros.receiving.cv_bridge_images import ENCODINGS, use_cv_bridge

cv_bridge = pytest.importorskip('cv_bridge', reason='cv_bridge is not there: no ROS 2 is sourced')
# The one of a distribution ends the process where numpy is not the one it was compiled for.
CONVERT = """
import cv_bridge, numpy
bridge = cv_bridge.CvBridge()
bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(numpy.zeros((2, 2, 3), 'uint8'), 'bgr8'), 'rgb8')
"""
if subprocess.run([sys.executable, '-c', CONVERT], capture_output=True).returncode:
    pytest.skip(f'cv_bridge cannot use numpy {np.__version__}', allow_module_level=True)
HEIGHT, WIDTH = 24, 32


@pytest.fixture
def message():
    """Return a function: interface name and fields to a message of ROS 2, stamped."""
    from alpamayo_ros.ros.messages import import_interface, make

    def filled(name, **fields):
        stamp = make('builtin_interfaces/msg/Time', sec=7)
        return import_interface(name)(header=make('std_msgs/msg/Header', stamp=stamp), **fields)

    return filled


def ours(message):
    return decode(to_image(message)).transpose(1, 2, 0)


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_raw_image(message, encoding):
    step = WIDTH * RAW_ENCODINGS[encoding][0]
    data = np.random.default_rng(0).integers(0, 256, HEIGHT * step, np.uint8)
    image = message(
        'sensor_msgs/msg/Image',
        height=HEIGHT,
        width=WIDTH,
        encoding=encoding,
        step=step,
        data=data.tobytes(),
    )
    theirs = cv_bridge.CvBridge().imgmsg_to_cv2(image, 'rgb8')
    np.testing.assert_array_equal(ours(image), theirs)


@pytest.mark.parametrize('codec', ['jpeg', 'png'])
def test_compressed_image(message, codec):
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    data = cv2.imencode(f'.{codec}', pixels)[1].tobytes()
    image = message('sensor_msgs/msg/CompressedImage', format=codec, data=data)
    theirs = cv_bridge.CvBridge().compressed_imgmsg_to_cv2(image, 'rgb8')
    np.testing.assert_array_equal(ours(image), theirs)


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_the_node_decodes_with_cv_bridge_what_it_decodes_without(message, monkeypatch, encoding):
    monkeypatch.setattr(images, '_converters', {})
    step = (WIDTH + 2) * RAW_ENCODINGS[encoding][0]
    data = np.random.default_rng(1).integers(0, 256, HEIGHT * step, np.uint8)
    size = {'height': HEIGHT, 'width': WIDTH, 'step': step}
    image = message('sensor_msgs/msg/Image', encoding=encoding, data=data.tobytes(), **size)
    expected = ours(image)
    assert use_cv_bridge()
    np.testing.assert_array_equal(ours(image), expected)
