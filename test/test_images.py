"""Decoding of frames to RGB pixels, and the size in a file's header."""

from dataclasses import replace
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from alpamayo_ros import images
from alpamayo_ros.data_types import Frame
from alpamayo_ros.images import ImageError, check_brightness, decode, is_dark, read_header_size

RED_GREEN = np.array([[[250, 10, 20], [30, 240, 50]]], np.uint8)  # RGB, 1 x 2


@pytest.fixture(scope='module')
def picture():
    """A smooth RGB image of 48 x 64 with three different channels."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([3 * x + 20, 4 * y + 10, 200 - x - y], -1).astype(np.uint8)


def compressed(suffix, rgb, *flags):
    return cv2.imencode(suffix, rgb[..., ::-1], list(flags))[1].ravel()


def raw(encoding, rows):
    rows = np.asarray(rows, np.uint8)
    height, width = rows.shape[:2]
    return Frame(1, encoding, rows.ravel(), height, width, rows.size // height)


def test_png_comes_back_exactly_as_rgb_planes(picture):
    data = compressed('.png', picture)
    np.testing.assert_array_equal(decode(Frame(1, 'png', data)), picture.transpose(2, 0, 1))


def test_jpeg_keeps_the_order_of_the_channels(picture):
    decoded = decode(Frame(1, 'jpeg', compressed('.jpg', picture, cv2.IMWRITE_JPEG_QUALITY, 98)))
    assert np.abs(decoded.astype(int) - picture.transpose(2, 0, 1)).max() <= 8


def test_grey_jpeg_gets_three_equal_channels(picture):
    data = cv2.imencode('.jpg', picture[..., 0])[1].ravel()
    decoded = decode(Frame(1, 'jpeg', data))
    assert decoded.shape == (3, 48, 64)
    np.testing.assert_array_equal(decoded[0], decoded[1])
    np.testing.assert_array_equal(decoded[0], decoded[2])


@pytest.mark.parametrize(
    ('encoding', 'rows'),
    [
        ('rgb8', RED_GREEN),
        ('bgr8', RED_GREEN[..., ::-1]),
        ('rgba8', np.insert(RED_GREEN, 3, 255, axis=-1)),
        ('bgra8', np.insert(RED_GREEN[..., ::-1], 3, 255, axis=-1)),
    ],
)
def test_raw_colours_come_back_as_rgb(encoding, rows):
    decoded = decode(raw(encoding, rows))
    assert decoded[:, 0, 0].tolist() == [250, 10, 20]
    assert decoded[:, 0, 1].tolist() == [30, 240, 50]


def test_colours_of_16_bits_are_scaled_to_8():
    rows = (RED_GREEN[..., ::-1].astype(np.uint16) * 257 + 100).view(np.uint8)
    decoded = decode(raw('bgr16', rows))
    assert decoded[:, 0, 0].tolist() == [250, 10, 20]
    assert decoded[:, 0, 1].tolist() == [30, 240, 50]


def test_mono_gets_three_equal_channels():
    decoded = decode(raw('mono8', [[7, 9]]))
    assert decoded.tolist() == [[[7, 9]]] * 3


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_bayer_mosaic_of_one_colour_gives_that_colour(pattern):
    colour = {'r': 200, 'g': 90, 'b': 30}
    cell = np.array([colour[letter] for letter in pattern]).reshape(2, 2)
    decoded = decode(raw(f'bayer_{pattern}8', np.tile(cell, (4, 4))))
    assert decoded[:, 4, 4].tolist() == [200, 90, 30]


@pytest.mark.parametrize(
    ('encoding', 'order'),
    [('yuv422', 'uyvy'), ('uyvy', 'uyvy'), ('yuv422_yuy2', 'yuyv'), ('yuyv', 'yuyv')],
)
def test_yuv_gives_the_colour_of_bt601(encoding, order):
    value = {'y': 81, 'u': 90, 'v': 240}  # red in BT.601 video range
    pixels = np.array([value[letter] for letter in order] * 2).reshape(1, 4, 2)
    red, green, blue = decode(raw(encoding, pixels))[:, 0, 0].astype(int)
    assert red >= 250
    assert green <= 5
    assert blue <= 5


def semi_planar(encoding, y, uv, step):
    """Frame of luma (H, W) and chroma pairs (H / 2, W / 2, 2), with rows of `step` bytes."""
    height, width = y.shape
    if encoding == 'nv21':
        uv = uv[..., ::-1]
    if encoding == 'nv24':
        uv = uv.repeat(2, 0).repeat(2, 1)
    row = step * (2 if encoding == 'nv24' else 1)
    chroma = np.pad(uv.reshape(len(uv), -1), ((0, 0), (0, row - uv[0].size)), constant_values=99)
    data = np.concatenate([np.pad(y, ((0, 0), (0, step - width))).ravel(), chroma.ravel()])
    return Frame(1, encoding, data, height, width, step)


@pytest.mark.parametrize('encoding', ['nv12', 'nv21', 'nv24'])
def test_semi_planar_yuv_gives_the_colours_of_its_packed_twin(encoding):
    rng = np.random.default_rng(0)
    y, uv = (rng.integers(0, 256, size, np.uint8) for size in ((8, 12), (4, 6, 2)))
    packed = np.empty((8, 6, 4), np.uint8)  # u y v y: one pair of chroma for two pixels
    packed[..., 1::2], packed[..., ::2] = y.reshape(8, 6, 2), uv.repeat(2, 0)
    expected = decode(Frame(1, 'uyvy', packed.ravel(), 8, 12, 24)).astype(int)
    for step in (12, 16):
        found = decode(semi_planar(encoding, y, uv, step)).astype(int)
        assert found.shape == (3, 8, 12)
        assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(
    ('encoding', 'size', 'count', 'text'),
    [
        ('nv12', (8, 12), 143, 'has 143 bytes, expected 12 rows of at least 12$'),
        ('nv21', (7, 12), 120, 'expected 10 rows of at least 12 and an even size'),
        ('nv12', (8, 11), 144, 'expected 12 rows of at least 11 and an even size'),
        ('nv24', (7, 12), 252, ''),
        ('nv24', (8, 12), 192, 'has 192 bytes, expected 24 rows of at least 12$'),
        ('nv24', (8, 13), 288, 'with step 12 has 288 bytes'),
    ],
)
def test_semi_planar_images_of_a_wrong_size_are_refused(encoding, size, count, text):
    frame = Frame(1, encoding, np.zeros(count, np.uint8), *size, 12)
    if text:
        with pytest.raises(ImageError, match=text):
            decode(frame)
    else:
        assert decode(frame).shape == (3, *size)


def test_padding_at_the_end_of_rows_is_skipped():
    rows = np.array([[1, 2, 99, 99], [3, 4, 99, 99]], np.uint8)
    decoded = decode(Frame(1, 'mono8', rows.ravel(), height=2, width=2, step=4))
    assert decoded[0].tolist() == [[1, 2], [3, 4]]


def test_wrong_number_of_bytes_is_an_error_with_the_numbers():
    frame = Frame(1, 'rgb8', np.zeros(100, np.uint8), height=4, width=10, step=30)
    with pytest.raises(ImageError, match=r'10x4 with step 30 has 100 bytes'):
        decode(frame)


def test_step_smaller_than_a_row_is_an_error():
    with pytest.raises(ImageError, match='rows of at least 30'):
        decode(Frame(1, 'rgb8', np.zeros(80, np.uint8), height=4, width=10, step=20))


@pytest.mark.parametrize('encoding', ['RGB8', 'UC3', 'jpeg ', ''])
def test_unknown_encoding_is_named(encoding):
    with pytest.raises(ImageError, match=f"'{encoding}' is not one of rgb8, bgr8"):
        decode(Frame(1, encoding, np.zeros(12, np.uint8), 2, 2, 6))


@pytest.mark.parametrize(
    ('encoding', 'hint'),
    [
        ('8UC3', 'publish a camera image as rgb8 or bgr8'),
        ('8UC', 'publish a camera image as mono8'),
        ('8UC1', 'publish a camera image as mono8'),
        ('16UC4', 'publish a camera image as rgba16 or bgra16'),
        ('8UC2', 'it holds no camera image'),
        ('32FC1', 'it holds no camera image'),
        ('64FC3', 'it holds no camera image'),
    ],
)
def test_type_of_number_is_no_encoding_of_colours(encoding, hint):
    with pytest.raises(ImageError) as refusal:
        decode(Frame(1, encoding, np.zeros(12, np.uint8), 2, 2, 6))
    expected = f"image encoding '{encoding}' does not state the colours: {hint}"
    assert str(refusal.value) == expected


@pytest.mark.parametrize(('suffix', 'encoding'), [('.jpg', 'jpeg'), ('.png', 'png')])
def test_truncated_file_is_an_error_at_every_length(picture, suffix, encoding):
    data = compressed(suffix, picture)
    for length in (0, 1, 30, len(data) // 2, len(data) - 5, len(data) - 1):
        with pytest.raises(ImageError, match=f'{encoding} of {length} bytes'):
            decode(Frame(1, encoding, data[:length]))


def test_end_of_a_thumbnail_in_the_header_is_not_that_of_the_image(picture):
    data = compressed('.jpg', picture).tobytes()
    thumbnail = b'\xff\xe1\x00\x10Exif\0\0thumb\xff\xd9\0'
    data = np.frombuffer(data[:2] + thumbnail + data[2:], np.uint8)
    assert decode(Frame(1, 'jpeg', data)).shape == (3, 48, 64)
    with pytest.raises(ImageError, match='is truncated'):
        decode(Frame(1, 'jpeg', data[:700]))


def test_what_a_driver_leaves_behind_the_end_is_no_truncation(picture):
    data = compressed('.jpg', picture)
    stale = np.random.default_rng(0).integers(0, 255, 4000, dtype=np.uint8)
    whole = decode(Frame(1, 'jpeg', data))
    assert np.array_equal(decode(Frame(1, 'jpeg', np.concatenate([data, stale]))), whole)


@pytest.mark.parametrize('encoding', ['jpeg', 'png'])
def test_garbage_is_an_error(encoding):
    data = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)
    with pytest.raises(ImageError):
        decode(Frame(1, encoding, data))


def test_zeros_behind_the_end_of_a_file_are_harmless(picture):
    data = compressed('.jpg', picture)
    padded = np.concatenate([data, np.zeros(4096, np.uint8)])
    expected = decode(Frame(1, 'jpeg', data))
    np.testing.assert_array_equal(decode(Frame(1, 'jpeg', padded)), expected)


def test_png_that_states_more_than_its_bytes_can_hold_takes_no_memory(picture, monkeypatch):
    black = cv2.imencode('.png', np.zeros((1500, 2000, 3), np.uint8))[1].ravel()
    assert decode(Frame(1, 'png', black)).shape == (3, 1500, 2000)  # nothing is shorter
    monkeypatch.setattr(images.cv2, 'imdecode', None)
    for at, numbers in ((16, [5000, 4000]), (33, [4_000_000_000])):  # size; length of a chunk
        data = compressed('.png', picture)
        stated = np.array(numbers, '>u4').tobytes()
        data[at : at + len(stated)] = np.frombuffer(stated, np.uint8)
        with pytest.raises(ImageError, match='bytes cannot hold the size that it states'):
            decode(Frame(1, 'png', data))


def test_header_states_the_size_without_decoding(picture):
    progressive = compressed('.jpg', picture, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert read_header_size('jpeg', compressed('.jpg', picture)[:700]) == (48, 64)
    assert read_header_size('jpeg', progressive) == (48, 64)
    assert read_header_size('png', compressed('.png', picture)[:24]) == (48, 64)


def test_header_size_skips_a_segment_that_looks_like_a_size(picture):
    data = compressed('.jpg', picture).tobytes()
    comment = b'\xff\xfe\x00\x0b\xff\xc0\x00\x11\x08\x00\x01\x00\x01'
    with_comment = np.frombuffer(data[:2] + comment + data[2:], np.uint8)
    assert read_header_size('jpeg', with_comment) == (48, 64)


@pytest.mark.parametrize('encoding', ['jpeg', 'png'])
def test_header_without_size_gives_zeros(encoding):
    for data in (b'', b'\xff\xd8', b'\xff\xd8\xff\xe0\xff\xff', b'\xff' * 20, bytes(100)):
        assert read_header_size(encoding, np.frombuffer(data, np.uint8)) == (0, 0)


@pytest.mark.parametrize(
    'header', [b'\xff\xd8' + b'\xff' * 6_000_000, b'\xff\xd8' + b'\xff\xe0\0\2' * 1_500_000]
)
def test_header_that_never_ends_costs_no_time(header):
    """6 MB of 0xFF held up the callbacks of the node for 5 s."""
    data = np.frombuffer(header, np.uint8)
    start = time.perf_counter()
    assert read_header_size('jpeg', data) == (0, 0)
    assert time.perf_counter() - start < 0.2


def test_fill_bytes_before_a_marker_are_skipped():
    data = compressed('.jpg', np.zeros((48, 64, 3), np.uint8)).tobytes()
    filled = np.frombuffer(data[:2] + b'\xff' * 500 + data[2:], np.uint8)
    assert read_header_size('jpeg', filled) == (48, 64)


@pytest.mark.parametrize('encoding', ['mono16', 'bayer_rggb16', 'png'])
def test_twelve_bits_in_sixteen_are_dark_until_the_depth_is_known(encoding):
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 4096, (36, 64), np.uint16)
    if encoding == 'png':
        frame = Frame(1, 'png', cv2.imencode('.png', numbers)[1].ravel())
    else:
        frame = Frame(1, encoding, numbers.view(np.uint8).ravel(), 36, 64, 128)
    assert decode(frame).max() in (15, 16)
    assert is_dark(decode(frame))
    deep = decode(replace(frame, bit_depth=12))
    assert (deep.min(), deep.max(), deep.dtype) == (0, 255, np.uint8)
    assert not is_dark(deep)
    if encoding != 'bayer_rggb16':
        np.testing.assert_array_equal(deep[1], np.round(numbers * (255 / 4095)))


def test_numbers_above_the_bit_depth_are_white():
    frame = Frame(1, 'mono16', np.array([[4096, 1023]], '<u2').view(np.uint8).ravel(), 1, 2, 4)
    assert decode(replace(frame, bit_depth=10))[0].tolist() == [[255, 255]]


def test_bit_depth_changes_no_image_of_8_bits():
    frame = Frame(1, 'mono8', np.array([7, 200], np.uint8), 1, 2, 2)
    assert decode(replace(frame, bit_depth=12))[0].tolist() == [[7, 200]]


@pytest.mark.parametrize(('bits', 'expected'), [(10, True), (12, True), (14, True), (16, False)])
def test_images_of_fewer_bits_than_their_encoding_are_dark(bits, expected):
    numbers = np.random.default_rng(0).integers(0, 1 << bits, (360, 640), np.uint16)
    frame = Frame(1, 'mono16', numbers.view(np.uint8).ravel(), 360, 640, 1280)
    assert is_dark(decode(frame)) is expected


def test_night_with_lamps_is_not_dark():
    night = np.full((3, 360, 640), 8, np.uint8)
    assert is_dark(night)
    night[:, 100:116, 200:240] = 230  # a third of a percent of the image
    assert not is_dark(night)


def test_file_in_a_raw_image_is_refused():
    """JPEG bytes sent as rgb8 with zeros behind them were a picture of noise."""
    data = np.zeros(36 * 64 * 3, np.uint8)
    for suffix, codec in (('.jpg', 'jpeg'), ('.png', 'png')):
        file = compressed(suffix, np.zeros((36, 64, 3), np.uint8))
        data[: file.size] = file
        with pytest.raises(ImageError, match=f'rgb8 image holds a {codec} file'):
            decode(Frame(1, 'rgb8', data, 36, 64, 192))


def test_raw_pixels_that_begin_like_a_jpeg_are_pixels():
    data = np.zeros(36 * 64 * 3, np.uint8)
    data[:3] = 0xFF, 0xD8, 0xFF
    assert decode(Frame(1, 'rgb8', data, 36, 64, 192))[:, 0, 0].tolist() == [255, 216, 255]


def test_dark_newest_frame_of_a_context_is_a_check_once_it_is_decoded():
    bright, dark = (
        [Frame(k, 'mono8', np.full(4, value, np.uint8), 2, 2, 2) for k in range(4)]
        for value in (200, 9)
    )
    context = SimpleNamespace(frames={'front_wide': bright, 'front_tele': [*dark[:3], bright[3]]})
    for frame in (*bright, *dark):
        decode(frame)
    assert check_brightness(context) == ()
    context.frames['front_tele'] = dark
    assert check_brightness(context) == ('dark_image',)
    new = [replace(frame, data=frame.data.copy()) for frame in dark]
    context.frames['front_tele'] = new
    assert check_brightness(context) == ()  # nothing has decoded it


def test_memory_of_brightness_is_bounded():
    for k in range(1000):
        decode(Frame(k, 'mono8', np.zeros(4, np.uint8), 2, 2, 2))
    assert len(images._is_dark) == images.REMEMBERED_FRAMES
