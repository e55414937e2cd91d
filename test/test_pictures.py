"""Frames to patches: threads change nothing, integers only, no float64 in an inference."""

import threading

import cv2
import golden_scene
from golden_scene import MODEL, T0_NS
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from alpamayo_ros import images
from alpamayo_ros.data_types import Frame, SamplingOptions
from alpamayo_ros.images import ImageError
from alpamayo_ros.model.config import load_config
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.model.prompt.image_processor import resize_bicubic_plain
from alpamayo_ros.quantization.feedback import quantize_with_feedback
from alpamayo_ros.quantization.matrix import quantize_matrix
from alpamayo_ros.quantization.scheme import Rule
from alpamayo_ros.runtime.engine import AlpamayoEngine
from alpamayo_ros.runtime.pictures import PictureReader


class DtypeRecorder(TorchDispatchMode):
    """Records the dtypes of all tensors that operations take or make."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves((args, kwargs, result)):
            if isinstance(value, torch.Tensor):
                self.seen.setdefault(value.dtype, set()).add(str(func))
        return result


@pytest.fixture(scope='module')
def processor():
    return Processor(load_config(MODEL), MODEL)


def jpegs(count, width=320, height=180):
    random = np.random.default_rng(0)
    for i in range(count):
        pixels = cv2.resize(random.integers(0, 256, (9, 16, 3), np.uint8), (width, height))
        data = cv2.imencode('.jpg', pixels)[1].reshape(-1)
        yield Frame(T0_NS + i, 'jpeg', data, height, width)


def test_threads_give_the_patches_of_one_frame_after_the_other_in_order(processor):
    frames = list(jpegs(16))
    found = PictureReader(processor, torch.device('cpu')).read(frames)
    for frame, (patches, grid) in zip(frames, found, strict=True):
        pixels = torch.from_numpy(np.ascontiguousarray(images.decode(frame)))
        want, wanted_grid = processor.extract_patches(pixels)
        assert torch.equal(patches, want) and grid == wanted_grid


def test_frames_are_decoded_side_by_side(processor, monkeypatch):
    monkeypatch.setattr('alpamayo_ros.runtime.pictures.count_threads', lambda: 4)
    meet, decode = threading.Barrier(4, timeout=20), images.decode

    def decode_together(frame):
        meet.wait()  # breaks unless four frames are here at once
        return decode(frame)

    monkeypatch.setattr(images, 'decode', decode_together)
    assert len(PictureReader(processor, torch.device('cpu')).read(list(jpegs(4)))) == 4


def test_a_broken_frame_among_many_is_an_image_error(processor):
    frames = list(jpegs(5))
    frames[3] = Frame(T0_NS, 'jpeg', np.zeros(100, np.uint8))
    with pytest.raises(ImageError, match='begins with 00 00'):
        PictureReader(processor, torch.device('cpu')).read(frames)


def test_an_inference_and_the_resize_of_a_gpu_use_no_float64():
    """An Orin has 2 float64 units in a multiprocessor: resizing took 4.6 s there."""
    engine = AlpamayoEngine(MODEL, options=SamplingOptions(num_samples=2, max_tokens=8))
    with DtypeRecorder() as recorder:
        engine.infer(golden_scene.context(), seed=0)
    assert torch.float32 in recorder.seen
    assert torch.float64 not in recorder.seen, recorder.seen.get(torch.float64)
    with DtypeRecorder() as recorder:
        resize_bicubic_plain(torch.zeros(1, 3, 90, 160, dtype=torch.uint8), 32, 64)
    assert not any(dtype.is_floating_point for dtype in recorder.seen)


@pytest.mark.parametrize('bits', [8, 4, 2])
def test_quantizing_uses_no_float64(bits):
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(0))
    with DtypeRecorder() as recorder:
        quantize_matrix(weight, Rule('*', bits))
        quantize_with_feedback(weight, Rule('*', bits), torch.eye(256))
    assert torch.float64 not in recorder.seen, recorder.seen.get(torch.float64)


def test_pictures_of_several_sizes_keep_their_order(processor):
    (small,), (large,) = jpegs(1), jpegs(1, 400, 100)
    found = PictureReader(processor, torch.device('cpu')).read([small, small, large, small])
    assert [grid for _, grid in found] == [found[0][1]] * 2 + [found[2][1], found[0][1]]
    assert found[2][1] != found[0][1]
    want = processor.extract_patches(torch.from_numpy(images.decode(large)))[0]
    assert torch.equal(found[2][0], want)


def test_raw_pixels_that_may_not_be_written_are_read(processor):
    pixels = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)
    data = pixels.reshape(-1)
    data.flags.writeable = False
    decoded = images.decode(Frame(T0_NS, 'rgb8', data, 96, 160, 480))
    assert decoded.flags.writeable and np.array_equal(decoded, pixels.transpose(2, 0, 1))
