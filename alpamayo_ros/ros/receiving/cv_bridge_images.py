"""Sends raw images through cv_bridge where a ROS 2 with it is sourced; else images.py serves.

The choice is made once in a process, when its engine starts.
"""

from __future__ import annotations

from functools import partial
import importlib
import importlib.util
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import images
from ...data_types import Frame
from ...rig import CameraRig
from ...runtime import start
from ...runtime.serving.jobs import Engine

NEWER_NAMES = ('uyvy', 'yuyv')  # of yuv422 and yuv422_yuy2, which releases before Jazzy lack
ENCODINGS = tuple(name for name in images.RAW_ENCODINGS if name not in NEWER_NAMES)
PROBE_S = 20.0
# In a process of its own: one that was compiled for another numpy ends it.
PROBE = """
import sys, types, cv_bridge
image = dict(height=1, width=2, encoding='bgr8', step=6, is_bigendian=0, data=bytes(range(6)))
found = cv_bridge.CvBridge().imgmsg_to_cv2(types.SimpleNamespace(**image), 'rgb8')
sys.exit(found.tolist() != [[[2, 1, 0], [5, 4, 3]]])
"""


def start_engine(choice: start.EngineChoice, rig: CameraRig) -> Engine:
    """As runtime.start.start_engine, with the converter of raw images chosen before."""
    use_cv_bridge()
    return start.start_engine(choice, rig)


def use_cv_bridge() -> bool:
    """Convert raw images with cv_bridge in this process; False where there is none that works."""
    if importlib.util.find_spec('cv_bridge') is None:
        return False
    try:
        probe = [sys.executable, '-c', PROBE]
        if subprocess.run(probe, capture_output=True, timeout=PROBE_S, check=False).returncode:
            return False
    except subprocess.TimeoutExpired:
        return False
    cv_bridge = importlib.import_module('cv_bridge')
    convert = partial(_convert, cv_bridge.CvBridge(), cv_bridge.CvBridgeError)
    images.convert_raw_with(convert, ENCODINGS)
    return True


def _convert(bridge: Any, error_type: type[Exception], frame: Frame) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) RGB of a raw frame."""
    message = SimpleNamespace(
        height=frame.height,
        width=frame.width,
        encoding=frame.encoding,
        step=frame.step,
        is_bigendian=0,
        data=frame.data,
    )
    try:
        return np.asarray(bridge.imgmsg_to_cv2(message, 'rgb8'), np.uint8)
    except error_type as error:
        size = f'{frame.encoding} {frame.width}x{frame.height}'
        raise images.ImageError(f'{size}: {" ".join(str(error).split())}') from error
