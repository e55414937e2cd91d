"""Camera frames to patches: decoded and resized by threads on the host, cut up on the device.

OpenCV and torch release Python's lock meanwhile, so the threads run side by side. The resize is
integer arithmetic; only resized pixels travel to the device. This module knows no cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
import os

import torch
from torch import Tensor

from .. import images
from ..data_types import Frame
from ..model.processor import Processor

MAX_THREADS = 16  # a context has 16 frames


class PictureReader:
    """Turns frames into patches on a device, with one thread for each core of this process."""

    def __init__(self, processor: Processor, device: torch.device) -> None:
        self._processor, self._device = processor, device
        self._pool = ThreadPoolExecutor(count_threads(), thread_name_prefix='pictures')

    def read(self, frames: Sequence[Frame]) -> list[tuple[Tensor, tuple[int, int]]]:
        """Return patches (h * w, 1536) float32 and grid (h, w) of each frame, in order.

        Raises images.ImageError for the first frame that cannot be decoded.
        """
        pictures = self.load(frames)
        found: list[tuple[Tensor, tuple[int, int]]] = []
        # pictures of one size travel together
        for _, same in groupby(pictures, key=lambda picture: picture.shape):
            found += self._processor.cut_patches(torch.stack(list(same)).to(self._device))
        return found

    def load(self, frames: Sequence[Frame]) -> list[Tensor]:
        """Decode frames on the host, resized to the vision tower's size: uint8 (3, h, w) each.

        Raises images.ImageError for the first frame that cannot be decoded.
        """
        return list(self._pool.map(self._load_picture, frames))

    def _load_picture(self, frame: Frame) -> Tensor:
        """Decode a frame and resize it to the vision tower's size, uint8 (3, h, w)."""
        return self._processor.resize_image(torch.from_numpy(images.decode(frame)))


def count_threads() -> int:
    """Return how many frames are decoded at a time."""
    return min(len(os.sched_getaffinity(0)), MAX_THREADS)
