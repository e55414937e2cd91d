"""Which code converts raw images: cv_bridge where it works, else images.py; never a pretender."""

from dataclasses import replace

import numpy as np
import pytest

from alpamayo_ros import images
from alpamayo_ros.data_types import Frame
from alpamayo_ros.images import ImageError, decode
from alpamayo_ros.ros.receiving import cv_bridge_images
from alpamayo_ros.ros.receiving.cv_bridge_images import use_cv_bridge

FRAME = Frame(1, 'bgr8', np.arange(6, dtype=np.uint8), 1, 2, 6)
STUB = """
class CvBridgeError(TypeError):
    pass


class CvBridge:
    def imgmsg_to_cv2(self, message, encoding):
        {body}
"""


@pytest.fixture(autouse=True)
def _own_converters(monkeypatch):
    monkeypatch.setattr(images, '_converters', {})


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that puts a cv_bridge with a body on the path, for the probe too."""

    def write(body):
        (tmp_path / 'cv_bridge.py').write_text(STUB.format(body=body))
        monkeypatch.setenv('PYTHONPATH', str(tmp_path))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(cv_bridge_images.sys.modules, 'cv_bridge', raising=False)

    yield write
    cv_bridge_images.sys.modules.pop('cv_bridge', None)


@pytest.mark.parametrize(
    'body',
    ['return None', 'import os; os.abort()', 'raise CvBridgeError', 'import time; time.sleep(9)'],
)
def test_a_cv_bridge_that_does_not_convert_is_not_used(install, monkeypatch, body):
    monkeypatch.setattr(cv_bridge_images, 'PROBE_S', 1.0)
    install(body)
    assert use_cv_bridge() is False
    assert decode(FRAME)[:, 0, 0].tolist() == [2, 1, 0]


def test_without_cv_bridge_nothing_changes(monkeypatch):
    monkeypatch.setattr(cv_bridge_images.importlib.util, 'find_spec', lambda name: None)
    assert use_cv_bridge() is False


def test_raw_images_go_through_one_that_does_and_others_do_not(install):
    body = 'import numpy; return numpy.array([[[2, 1, 0], [5, 4, 3]]]) + 10 * (message.height - 1)'
    install(body)
    assert use_cv_bridge() is True
    tall = replace(FRAME, height=2, data=np.arange(12, dtype=np.uint8))
    assert decode(tall)[:, 0, 0].tolist() == [12, 11, 10]
    for name in ('uyvy', 'yuyv', 'nv12'):
        assert name not in images._converters
    deep = Frame(
        1, 'mono16', np.array([[4095]], '<u2').view(np.uint8).ravel(), 1, 1, 2, bit_depth=12
    )
    assert decode(deep)[:, 0, 0].tolist() == [255, 255, 255]
    with pytest.raises(ImageError, match='has 5 bytes'):
        decode(replace(FRAME, data=FRAME.data[:5]))


def test_what_cv_bridge_refuses_is_a_bad_image(install):
    install(
        'import numpy\n'
        '        if message.width == 3: raise CvBridgeError("odd")\n'
        '        return numpy.array([[[2, 1, 0], [5, 4, 3]]])'
    )
    assert use_cv_bridge() is True
    wide = replace(FRAME, width=3, step=9, data=np.arange(9, dtype=np.uint8))
    with pytest.raises(ImageError, match='bgr8 3x1: odd'):
        decode(wide)
