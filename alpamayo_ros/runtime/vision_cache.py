"""Features of images by camera and stamp: a frame of two contexts is decoded and encoded once.

Each image goes through the vision tower alone, so its features are the same to the bit whatever it
came with. Knows no prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..data_types import Context, Frame

Grid = tuple[int, int]
Features = tuple[Tensor, list[Tensor]]  # embeddings and deepstack levels, (tokens, H) each


@dataclass
class Image:
    """A frame as patches until it is encoded; then its features: embeddings, deepstack levels."""

    camera: str
    frame: Frame
    grid: Grid
    patches: Tensor | None
    features: list[Tensor] = field(default_factory=list)


class VisionCache:
    """Keeps the images of the last context: later ones share frames with it or with none.

    read: a frame to patches and grid; encode: these of some images to features.
    """

    def __init__(
        self,
        read: Callable[[Frame], tuple[Tensor, Grid]],
        encode: Callable[[Tensor, Sequence[Grid]], Features],
    ) -> None:
        self._read, self._encode = read, encode
        self._kept: list[Image] = []

    def images(self, context: Context) -> list[Image]:
        """Every frame of a context in order; those that are not kept are decoded.

        Raises images.ImageError for one that cannot be.
        """
        images = [
            self._find(camera, frame) or self._new(camera, frame)
            for camera, frames in context.frames.items()
            for frame in frames
        ]
        self._kept = [image for image in images if image.features]
        return images

    def features(self, images: list[Image]) -> Features:
        """Features of these images behind each other; those that have none are encoded."""
        for image in images:
            if image.patches is not None:
                embeddings, levels = self._encode(image.patches, [image.grid])
                image.features, image.patches = [embeddings, *levels], None
        sizes = [len(image.features[0]) for image in images]
        joined = []
        for level in range(len(images[0].features)):
            joined.append(torch.cat([image.features[level] for image in images]))
            for image, own in zip(images, joined[level].split(sizes), strict=True):
                image.features[level] = own  # a view: nothing is held twice
        self._kept = images
        return joined[0], joined[1:]

    def clear(self) -> None:
        """Forget all images."""
        self._kept = []

    def _find(self, camera: str, frame: Frame) -> Image | None:
        return next((i for i in self._kept if i.camera == camera and _equal(i.frame, frame)), None)

    def _new(self, camera: str, frame: Frame) -> Image:
        patches, grid = self._read(frame)
        return Image(camera, frame, grid, patches)


def _equal(a: Frame, b: Frame) -> bool:
    """Whether two frames are the same: after a clock jump or a reset a stamp can come again."""
    facts = [(f.stamp_ns, f.encoding, f.height, f.width, f.step) for f in (a, b)]
    return a is b or (facts[0] == facts[1] and np.array_equal(a.data, b.data))
