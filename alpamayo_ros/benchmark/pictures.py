"""Makes the frames of a context and reads them as the engine does. Knows no clock."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data_types import Frame
from ..model.config import AlpamayoConfig
from ..model.processor import Processor
from ..runtime.pictures import PictureReader
from .jpeg import encode_jpeg

FRAME_SIZE = (1920, 1080)


class ImageOnlyProcessor(Processor):
    """The part of a processor that reads images: it needs a config and no tokenizer's files."""

    def __init__(self, config: AlpamayoConfig) -> None:
        self.config = config


def make_reader(config: AlpamayoConfig, device: torch.device) -> PictureReader:
    """The engine's reader of frames."""
    return PictureReader(ImageOnlyProcessor(config), device)


def make_frames(count: int) -> list[Frame]:
    """JPEG frames of FRAME_SIZE, one after the other; two pictures in turn."""
    pictures = [encode_jpeg(FRAME_SIZE, seed) for seed in (0, 1)]
    return [Frame(i, 'jpeg', pictures[i % 2]) for i in range(count)]


def read_patches(reader: PictureReader, frames: list[Frame]) -> Tensor:
    """Patches of all frames, one after the other."""
    return torch.cat([patches for patches, _ in reader.read(frames)])
