"""Features of images by camera and stamp: a frame of two contexts is decoded and encoded once.

The images of one grid time go through the vision tower together, one of each camera. Features
are kept with the company they were made in, so they are the same to the bit as fresh ones: where
one camera has another frame at a grid time, all images of that time are encoded again. Knows no
prompt.
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
class Slot:
    """The frames of one grid time by camera: as patches until they are encoded, then as features.

    features: per level, the embeddings first, one (tokens, H) for each frame.
    """

    cameras: tuple[str, ...]
    frames: tuple[Frame, ...]
    grids: list[Grid]
    patches: Tensor | None
    features: list[list[Tensor]] = field(default_factory=list)


class VisionCache:
    """Keeps the slots of the last context: later ones share slots with it or with none.

    read: a frame to patches and grid; encode: these of some images to features, which the next
    call may overwrite.
    """

    def __init__(
        self,
        read: Callable[[Frame], tuple[Tensor, Grid]],
        encode: Callable[[Tensor, Sequence[Grid]], Features],
    ) -> None:
        self._read, self._encode = read, encode
        self._kept: list[Slot] = []

    def slots(self, context: Context) -> list[Slot]:
        """The slots of a context, oldest first; frames of those that are not kept are decoded.

        Raises images.ImageError for one that cannot be.
        """
        cameras = tuple(context.frames)
        slots = [
            self._find(cameras, frames) or self._new(cameras, frames)
            for frames in zip(*context.frames.values(), strict=True)
        ]
        self._kept = [slot for slot in slots if slot.features]
        return slots

    def features(self, slots: Sequence[Slot]) -> Features:
        """Features of all images, camera by camera; slots that have none are encoded."""
        joined: list[Tensor] = []
        for at, slot in enumerate(slots):
            fresh = slot.features or self._encoded(slot)
            if not joined:
                joined = [_room(slots, slot, level) for level in fresh]
            for level, parts in enumerate(fresh):
                own = _places(slots, at, joined[level])
                for place, part in zip(own, parts, strict=True):
                    place.copy_(part)
                fresh[level] = own  # views: nothing is held twice
            slot.features, slot.patches = fresh, None
        self._kept = list(slots)
        return joined[0], joined[1:]

    def clear(self) -> None:
        """Forget all images."""
        self._kept = []

    def _encoded(self, slot: Slot) -> list[list[Tensor]]:
        assert slot.patches is not None
        embeddings, levels = self._encode(slot.patches, slot.grids)
        return [list(x.split(_shares(slot.grids, len(x)))) for x in (embeddings, *levels)]

    def _find(self, cameras: tuple[str, ...], frames: tuple[Frame, ...]) -> Slot | None:
        for slot in self._kept:
            if slot.cameras == cameras and all(map(_equal, slot.frames, frames)):
                return slot
        return None

    def _new(self, cameras: tuple[str, ...], frames: tuple[Frame, ...]) -> Slot:
        read = [self._read(frame) for frame in frames]
        patches = torch.cat([patches for patches, _ in read])
        return Slot(cameras, frames, [grid for _, grid in read], patches)


def camera_by_camera(slots: Sequence[Slot]) -> list[Grid]:
    """Grids of all images in the order of a prompt."""
    return [slot.grids[camera] for camera in range(len(slots[0].grids)) for slot in slots]


def _shares(grids: Sequence[Grid], total: int) -> list[int]:
    """Tokens of each image among those of several, by their areas."""
    area = sum(h * w for h, w in grids)
    return [total * h * w // area for h, w in grids]


def _room(slots: Sequence[Slot], slot: Slot, parts: Sequence[Tensor]) -> Tensor:
    """Memory for one level of all images, given the parts of one slot."""
    tokens = sum(map(len, parts))
    area = sum(h * w for h, w in slot.grids)
    total = sum(h * w for other in slots for h, w in other.grids) * tokens // area
    return parts[0].new_empty(total, parts[0].shape[1])


def _places(slots: Sequence[Slot], at: int, joined: Tensor) -> list[Tensor]:
    """Where the images of the slot at an index lie among all of them."""
    pieces = joined.split(_shares(camera_by_camera(slots), len(joined)))
    return list(pieces[at :: len(slots)])


def _equal(a: Frame, b: Frame) -> bool:
    """Whether two frames are the same: after a clock jump or a reset a stamp can come again."""
    facts = [(f.stamp_ns, f.encoding, f.height, f.width, f.step) for f in (a, b)]
    return a is b or (facts[0] == facts[1] and np.array_equal(a.data, b.data))
