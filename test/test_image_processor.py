"""Images to patches: sizes, the uint8 resize against its plain twin, the order of patches."""

import numpy as np
import pytest
import torch

from alpamayo_ros.model.prompt.image_processor import (
    resize_bicubic,
    resize_bicubic_plain,
    smart_resize,
    to_patches,
)

R1_PIXELS = (163840, 196608)


@pytest.mark.parametrize(
    ('height', 'width'), [(1080, 1920), (720, 1280), (2160, 3840), (360, 640)]
)
def test_usual_cameras_give_180_tokens(height, width):
    h, w = smart_resize(height, width, *R1_PIXELS)
    assert (h, w) == (320, 576)
    assert h * w // 32**2 == 180


def test_sides_round_half_to_even():
    assert smart_resize(80, 48, 1, 10**9) == (64, 64)  # 2.5 and 1.5 multiples of 32


def random_sizes(count):
    """Pairs of an image's size and the size that it is resized to."""
    random = np.random.default_rng(0)
    for _ in range(count):
        yield tuple(random.integers(3, 500, 2)), tuple(32 * random.integers(1, 12, 2))


@pytest.mark.parametrize(
    ('size', 'target'),
    [
        ((1080, 1920), (320, 576)),
        ((360, 640), (128, 224)),
        ((96, 128), (64, 96)),
        ((100, 100), (320, 416)),
        ((375, 1242), (224, 832)),
        ((64, 96), (64, 128)),
        *random_sizes(40),
    ],
)
def test_plain_resize_equals_the_fast_one_exactly(size, target):
    """The plain form differed by one level in a sixth of all sizes: its taps were float32."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (1, 3, *map(int, size)), dtype=torch.uint8, generator=generator)
    black_and_white = (images > 127).to(torch.uint8) * 255  # overshoots: clamped in between
    target = tuple(map(int, target))
    for image in (images, black_and_white):
        assert torch.equal(resize_bicubic(image, *target), resize_bicubic_plain(image, *target))


def test_a_view_of_interleaved_rows_gives_the_same_pixels():
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(0, 256, (1, 90, 170, 3), dtype=torch.uint8, generator=generator)
    view = rows.permute(0, 3, 1, 2)
    assert torch.equal(resize_bicubic(view, 64, 96), resize_bicubic(view.contiguous(), 64, 96))


def test_resize_to_the_same_size_changes_nothing():
    image = torch.arange(3 * 32 * 32, dtype=torch.int64).remainder(256).to(torch.uint8)
    image = image.view(1, 3, 32, 32)
    assert torch.equal(resize_bicubic(image, 32, 32), image)


def test_patches_follow_the_merge_order():
    # each 16x16 patch of a 64x64 image carries its own number
    numbers = torch.arange(16, dtype=torch.uint8).view(4, 4)
    image = numbers.repeat_interleave(16, 0).repeat_interleave(16, 1).expand(1, 3, 64, 64)
    patches = to_patches(image)
    assert patches.shape == (16, 3 * 2 * 16 * 16)
    order = ((patches[:, 0] * 0.5 + 0.5) * 255).round().int().tolist()
    assert order == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


def test_patch_holds_channel_then_frame_then_rows():
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    image[0, 1] = 255
    patch = to_patches(image)[0].view(3, 2, 16, 16)
    assert (patch[1] == 1).all()
    assert (patch[0] == -1).all()
    assert torch.equal(patch[:, 0], patch[:, 1])
