"""Pixels of a Frame: compressed or raw bytes to RGB, and what the header of a file states.

All image decoding is here. Knows no ROS and no torch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
import re
from typing import Any

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
# Luma in `height` rows of `step` bytes, then pairs of chroma: those of 2x2 pixels in half as many
# rows, with OpenCV's conversion, or one pair for each pixel in rows of 2 * `step` bytes.
SEMI_PLANAR_ENCODINGS: dict[str, int | None] = {
    'nv12': cv2.COLOR_YUV2RGB_NV12,
    'nv21': cv2.COLOR_YUV2RGB_NV21,
    'nv24': None,
}
NUMBER_TYPE = re.compile(r'(8|16|32|64)[USF]C([1-4]?)')  # of OpenCV, such as 16UC1
# Luma 16 to 235, chroma 16 to 240 to RGB: ITU-R BT.601, as in OpenCV's conversions of YUV.
BLACK = 16
RGB_FROM_YUV = np.array(
    [
        [1.164383, 0.0, 1.596027, -222.921566],
        [1.164383, -0.391762, -0.812968, 135.575293],
        [1.164383, 2.017232, 0.0, -276.835824],
    ]
)
COMPRESSED = ('jpeg', 'png')
JPEG_END, PNG_END = b'\xff\xd9', b'IEND'
JPEG_START, PNG_SIGNATURE = b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n'
JPEG_NAMES = (b'JFIF', b'Exif')  # at byte 6 of most files
MAX_PIXELS = 24_000_000  # a header that asks for more is damaged: memory is taken before decoding
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
DEFLATE_FACTOR = 1032
MAX_SEGMENTS, MAX_FILL_BYTES = 256, 1024  # of a JPEG's header; a file may hold nothing else
# An image in which less than a thousandth of the samples is brighter is dark. 14 bits in 16 end at
# 64 of 255; a street at night has lamps.
DARK_LEVEL, DARK_SHARE, DARK_STRIDE = 64, 0.001, 16
REMEMBERED_FRAMES = 256  # more than an engine keeps between two contexts
# Markers that carry the size: SOF0..SOF15 without the tables DHT, JPG and DAC among them.
JPEG_SCAN = frozenset([0xDA])
JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class ImageError(ValueError):
    """An image that cannot be decoded; the text says why."""


def decode(frame: Frame) -> NDArray[np.uint8]:
    """Pixels of a frame, uint8 (3, H, W) in RGB order; grey images get three equal channels.

    The result is a view: in memory the three channels of a pixel lie side by side. Channels of 16
    bits are scaled to 8: from the frame's bit_depth where it states one. Raises ImageError for an
    unknown encoding, a truncated or unreadable file and a wrong number of bytes (bit errors inside
    the scan of a JPEG cannot be seen). The orientation that a JPEG may ask for is not applied,
    because a camera on a vehicle does not turn.
    """
    pixels = _decompress(frame) if frame.encoding in COMPRESSED else _convert(frame)
    pixels = np.require(pixels, requirements='W')  # torch takes no array that it may not write
    planes: NDArray[np.uint8] = pixels.transpose(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    _remember_brightness(frame, planes)
    return planes


def require_encoding(encoding: str) -> None:
    """Raise ImageError unless `encoding` is one of a sensor_msgs/Image that `decode` knows.

    OpenCV's names of a number type and a count of channels, such as 8UC3, state no colours.
    """
    if encoding in RAW_ENCODINGS or encoding in SEMI_PLANAR_ENCODINGS:
        return
    if number := NUMBER_TYPE.fullmatch(encoding):
        wide, channels = number[1] in ('8', '16'), int(number[2] or 1)
        names = {1: ('mono',), 3: ('rgb', 'bgr'), 4: ('rgba', 'bgra')}.get(channels, ())
        names = tuple(f'{name}{number[1]}' for name in names) if wide else ()
        hint = (
            f'publish a camera image as {" or ".join(names)}'
            if names
            else 'it holds no camera image'
        )
        raise ImageError(f"image encoding '{encoding}' does not state the colours: {hint}")
    known = ', '.join((*RAW_ENCODINGS, *SEMI_PLANAR_ENCODINGS))
    raise ImageError(f"image encoding '{encoding}' is not one of {known}")


def convert_raw_with(
    convert: Callable[[Frame], NDArray[np.uint8]], encodings: Iterable[str]
) -> None:
    """Let another function turn raw frames of some encodings into pixels (H, W, 3) RGB.

    It raises ImageError for a frame that it cannot convert. Channels of 16 bits whose depth is
    known, and what has a wrong number of bytes, never reach it. Holds for this process.
    """
    _converters.update(dict.fromkeys(encodings, convert))


def is_dark(pixels: NDArray[np.uint8]) -> bool:
    """Whether decoded pixels (3, H, W) are nearly black, as 12 bits in 16 or a lens cap are."""
    sample = pixels[:, ::DARK_STRIDE, ::DARK_STRIDE]
    return bool((sample > DARK_LEVEL).mean() < DARK_SHARE)


def check_brightness(context: Context) -> tuple[str, ...]:
    """('dark_image',) when the newest frame of a camera was dark when it was last decoded.

    An engine keeps what it made of older frames, so nothing is decoded again for this.
    """
    newest = [frames[-1] for frames in context.frames.values()]
    return ('dark_image',) if any(_is_dark.get(_identify(frame)) for frame in newest) else ()


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


_converters: dict[str, Callable[[Frame], NDArray[np.uint8]]] = {}
_is_dark: OrderedDict[tuple[int, int, int], bool] = OrderedDict()


def _remember_brightness(frame: Frame, pixels: NDArray[np.uint8]) -> None:
    _is_dark[_identify(frame)] = is_dark(pixels)
    while len(_is_dark) > REMEMBERED_FRAMES:
        _is_dark.popitem(last=False)


def _identify(frame: Frame) -> tuple[int, int, int]:
    """Stamp and place in memory: cameras of one trigger share their stamps."""
    return frame.stamp_ns, frame.data.ctypes.data, frame.data.size


def detect_codec(data: NDArray[np.uint8]) -> str:
    """'jpeg' or 'png' by the first bytes of a file, '' for anything else."""
    head = data[:8].tobytes()
    if head == PNG_SIGNATURE:
        return 'png'
    return 'jpeg' if head.startswith(JPEG_START) else ''


def read_header_size(encoding: str, data: NDArray[np.uint8]) -> tuple[int, int]:
    """(height, width) that the header of a JPEG or PNG states, without decoding it.

    (0, 0) when the bytes hold none: such a file fails in `decode`.
    """
    if encoding == 'png':
        head = data[:24].tobytes()
        if len(head) < 24 or not head.startswith(PNG_SIGNATURE):
            return 0, 0
        return int.from_bytes(head[20:24], 'big'), int.from_bytes(head[16:20], 'big')
    segment = data[_find_segment(data, JPEG_SIZE_MARKERS) :][:9].tobytes()
    return int.from_bytes(segment[5:7], 'big'), int.from_bytes(segment[7:9], 'big')


def _find_segment(data: NDArray[np.uint8], markers: frozenset[int]) -> int:
    """Place of the first segment of a JPEG with one of some markers; its size without one."""
    at = 2  # behind the start marker
    for _ in range(MAX_SEGMENTS):
        is_fill = data[at : at + MAX_FILL_BYTES] == 0xFF  # fill bytes precede a marker
        if at + 9 > data.size or not is_fill[0] or is_fill.all():
            break
        at += int(np.argmin(is_fill)) - 1
        segment = data[at : at + 9].tobytes()
        if segment[1] in markers and len(segment) == 9:
            return at
        at += 2 + int.from_bytes(segment[2:4], 'big')
    return int(data.size)


def _require_sound_png(data: NDArray[np.uint8]) -> None:
    """Raise ImageError for a PNG whose decoder would take far more memory than it can fill.

    It takes what a chunk states as its length, and several pictures of the size that the header
    states. Deflate shortens at most 1032 times (zlib, Technical Details: Maximum Compression
    Factor).
    """
    height, width = read_header_size('png', data)
    depth, colour = data[24:26].tolist() if data.size > 25 else (8, 0)
    needed = height * width * depth * PNG_CHANNELS.get(colour, 1) // 8
    at, end = len(PNG_SIGNATURE), data.size
    while at + 12 <= end:  # length, name, content, checksum
        at += 12 + int.from_bytes(data[at : at + 4].tobytes(), 'big')
    if at > end or needed > DEFLATE_FACTOR * end:
        raise ImageError(f'png of {end} bytes cannot hold the size that it states')


def _decompress(frame: Frame) -> NDArray[np.uint8]:
    # A truncated JPEG decodes to an image with a grey lower part, so its end is looked for: behind
    # the start of the scan, as a thumbnail has one too. Drivers may leave other bytes behind it.
    data = frame.data.tobytes()
    if detect_codec(frame.data) != frame.encoding:
        raise ImageError(f'{frame.encoding} of {len(data)} bytes begins with {data[:4].hex(" ")}')
    if frame.encoding == 'jpeg':
        is_whole = data.rfind(JPEG_END, _find_segment(frame.data, JPEG_SCAN)) >= 0
    else:
        is_whole = PNG_END in data.rstrip(b'\0')[-1024:]
    if not is_whole:
        raise ImageError(f'{frame.encoding} of {frame.data.size} bytes is truncated')
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    if frame.bit_depth:
        flags |= cv2.IMREAD_ANYDEPTH
    if frame.encoding == 'png':
        _require_sound_png(frame.data)
    try:
        pixels = cv2.imdecode(frame.data, flags)
    except cv2.error as error:
        raise ImageError(f'{frame.encoding} of {frame.data.size} bytes: {error.err}') from error
    if pixels is None:
        raise ImageError(f'{frame.encoding} of {frame.data.size} bytes is corrupt')
    if pixels.dtype == np.uint16:
        pixels = _scale_to_8_bits(pixels, frame.bit_depth)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _convert(frame: Frame) -> NDArray[np.uint8]:
    require_encoding(frame.encoding)
    if codec := _detect_file(frame.data):
        raise ImageError(f'{frame.encoding} image holds a {codec} file, expected raw pixels')
    if frame.encoding in SEMI_PLANAR_ENCODINGS:
        return _convert_semi_planar(frame)
    pixel_bytes, conversion = RAW_ENCODINGS[frame.encoding]
    row_bytes = frame.width * pixel_bytes
    if not row_bytes or frame.step < row_bytes or frame.data.size != frame.height * frame.step:
        raise ImageError(
            f'{frame.encoding} image of {frame.width}x{frame.height} with step {frame.step} has '
            f'{frame.data.size} bytes, expected {frame.height} rows of at least {row_bytes}'
        )
    if (convert := _converters.get(frame.encoding)) and not frame.bit_depth:
        return convert(frame)
    rows = frame.data.reshape(frame.height, frame.step)[:, :row_bytes]
    wide = frame.encoding.endswith('16')
    numbers = np.ascontiguousarray(rows).view('<u2' if wide else np.uint8)
    pixels = numbers.reshape(frame.height, frame.width, -1)
    try:
        if conversion is not None:
            pixels = cv2.cvtColor(pixels, conversion)
    except cv2.error as error:  # a Bayer or YUV image of odd size
        raise ImageError(f'{frame.encoding} {frame.width}x{frame.height}: {error.err}') from error
    return np.asarray(_scale_to_8_bits(pixels, frame.bit_depth) if wide else pixels, np.uint8)


def _convert_semi_planar(frame: Frame) -> NDArray[np.uint8]:
    height, width, step = frame.height, frame.width, frame.step
    conversion = SEMI_PLANAR_ENCODINGS[frame.encoding]
    rows = height * 3 if conversion is None else height * 3 // 2
    is_odd = conversion is not None and (height % 2 or width % 2)
    if not width or is_odd or step < width or frame.data.size != rows * step:
        raise ImageError(
            f'{frame.encoding} image of {width}x{height} with step {step} has {frame.data.size} '
            f'bytes, expected {rows} rows of at least {width}{" and an even size" * bool(is_odd)}'
        )
    if conversion is not None:
        planes = np.ascontiguousarray(frame.data.reshape(rows, step)[:, :width])
        return np.asarray(cv2.cvtColor(planes, conversion), np.uint8)
    luma = np.maximum(frame.data[: height * step].reshape(height, step, 1)[:, :width], BLACK)
    chroma = frame.data[height * step :].reshape(height, step, 2)[:, :width]
    return np.asarray(cv2.transform(np.concatenate([luma, chroma], -1), RGB_FROM_YUV), np.uint8)


def _scale_to_8_bits(pixels: NDArray[Any], bit_depth: int) -> NDArray[np.uint8]:
    """Scale channels of 16 bits; numbers above the bit depth become white."""
    return np.asarray(
        cv2.convertScaleAbs(pixels, alpha=255 / ((1 << (bit_depth or 16)) - 1)), np.uint8
    )


def _detect_file(data: NDArray[np.uint8]) -> str:
    """Codec of a file in place of raw pixels; a JPEG needs its name: three bytes may be pixels."""
    codec = detect_codec(data)
    return codec if codec != 'jpeg' or data[6:10].tobytes() in JPEG_NAMES else ''
