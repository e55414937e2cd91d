"""Pixels of a Frame: compressed or raw bytes to RGB, and the size that a file's header states.

Knows no ROS and no torch; the only home of image decoding.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .data_types import NANOSECONDS, Context, Frame

# Raw encodings of sensor_msgs/Image: bytes per pixel and OpenCV's conversion to RGB (None: as is).
# A Bayer pattern has OpenCV's name of the pixel one down and one right, as in cv_bridge.
RAW_ENCODINGS: dict[str, tuple[int, int | None]] = {
    'rgb8': (3, None),
    'bgr8': (3, cv2.COLOR_BGR2RGB),
    'rgba8': (4, cv2.COLOR_RGBA2RGB),
    'bgra8': (4, cv2.COLOR_BGRA2RGB),
    'mono8': (1, cv2.COLOR_GRAY2RGB),
    'bayer_rggb8': (1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': (1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': (1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': (1, cv2.COLOR_BayerGB2RGB),
    'yuv422': (2, cv2.COLOR_YUV2RGB_UYVY),
    'uyvy': (2, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422_yuy2': (2, cv2.COLOR_YUV2RGB_YUYV),
    'yuyv': (2, cv2.COLOR_YUV2RGB_YUYV),
}
# those of 16 bits a channel, little-endian, are converted in the same way and then scaled
RAW_ENCODINGS |= {
    f'{name[:-1]}16': (2 * size, conversion)
    for name, (size, conversion) in RAW_ENCODINGS.items()
    if name.endswith('8')
}
COMPRESSED = ('jpeg', 'png')
JPEG_END, PNG_END = b'\xff\xd9', b'IEND'
PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
# Markers that carry the size: SOF0..SOF15 without the tables DHT, JPG and DAC among them.
JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class ImageError(ValueError):
    """An image that cannot be decoded; the text says why."""


def decode(frame: Frame) -> NDArray[np.uint8]:
    """Pixels of a frame, uint8 (3, H, W) in RGB order; grey images get three equal channels.

    Raises ImageError for an unknown encoding, truncated or unreadable files and a wrong number of
    bytes (bit errors inside the scan of a JPEG are not detectable). The orientation that a JPEG
    may ask for is not applied: cameras do not turn.
    """
    pixels = _decompress(frame) if frame.encoding in COMPRESSED else _convert(frame)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))  # (H, W, 3) -> (3, H, W)


def find_broken_frame(context: Context) -> str:
    """Which camera and frame of a context cannot be decoded, and why; '' when all can."""
    for camera, frames in context.frames.items():
        for frame in frames:
            try:
                decode(frame)
            except ImageError as error:
                age_s = (context.t0_ns - frame.stamp_ns) / NANOSECONDS
                return f'{camera}: frame at t0-{age_s:.2f} s: {error}'
    return ''


def _decompress(frame: Frame) -> NDArray[np.uint8]:
    end = JPEG_END if frame.encoding == 'jpeg' else PNG_END
    # A truncated JPEG decodes to an image with a grey lower part, so its end is looked for;
    # drivers may pad with zeros behind it.
    if end not in frame.data.tobytes().rstrip(b'\0')[-1024:]:
        raise ImageError(f'{frame.encoding} of {frame.data.size} bytes is truncated')
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(frame.data, flags)
    except cv2.error as error:
        raise ImageError(f'{frame.encoding} of {frame.data.size} bytes: {error.err}') from error
    if pixels is None:
        raise ImageError(f'{frame.encoding} of {frame.data.size} bytes is corrupt')
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _convert(frame: Frame) -> NDArray[np.uint8]:
    if frame.encoding not in RAW_ENCODINGS:
        known = ', '.join((*COMPRESSED, *RAW_ENCODINGS))
        raise ImageError(f"image encoding '{frame.encoding}' is not one of {known}")
    pixel_bytes, conversion = RAW_ENCODINGS[frame.encoding]
    row_bytes = frame.width * pixel_bytes
    if not row_bytes or frame.step < row_bytes or frame.data.size != frame.height * frame.step:
        raise ImageError(
            f'{frame.encoding} image of {frame.width}x{frame.height} with step {frame.step} has '
            f'{frame.data.size} bytes, expected {frame.height} rows of at least {row_bytes}'
        )
    rows = frame.data.reshape(frame.height, frame.step)[:, :row_bytes]
    wide = frame.encoding.endswith('16')
    numbers = np.ascontiguousarray(rows).view('<u2' if wide else np.uint8)
    pixels = numbers.reshape(frame.height, frame.width, -1)
    try:
        if conversion is not None:
            pixels = cv2.cvtColor(pixels, conversion)
    except cv2.error as error:  # a Bayer or YUV image of odd size
        raise ImageError(f'{frame.encoding} {frame.width}x{frame.height}: {error.err}') from error
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=1 / 257) if wide else pixels, np.uint8)


def read_header_size(encoding: str, data: NDArray[np.uint8]) -> tuple[int, int]:
    """(height, width) that the header of a JPEG or PNG states, without decoding it.

    (0, 0) when the bytes hold none: such a file fails in `decode`.
    """
    if encoding == 'png':
        head = data[:24].tobytes()
        if len(head) < 24 or not head.startswith(PNG_SIGNATURE):
            return 0, 0
        return int.from_bytes(head[20:24], 'big'), int.from_bytes(head[16:20], 'big')
    view = data.data
    at = 2  # behind the start marker
    while at + 9 <= len(view) and view[at] == 0xFF:
        marker, length = view[at + 1], int.from_bytes(view[at + 2 : at + 4], 'big')
        if marker in JPEG_SIZE_MARKERS:
            height, width = view[at + 5 : at + 7], view[at + 7 : at + 9]
            return int.from_bytes(height, 'big'), int.from_bytes(width, 'big')
        at += 1 if marker == 0xFF else 2 + length  # fill bytes may stand before a marker
    return 0, 0
