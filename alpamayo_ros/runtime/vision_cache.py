"""Cache of image features: a frame that two contexts share is decoded and encoded once.

A slot holds the frames of one grid time, one of each camera. When one camera has another frame at
a grid time, the whole slot is encoded again. On a CPU each slot is encoded by itself, so that
cached features equal fresh ones to the bit; on a GPU several are, where none is kept. This module
knows no prompt.
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
    """The frames of one grid time by camera: patches until they are encoded, then features.

    features: for each level, embeddings first, one (tokens, H) tensor a frame.
    """

    cameras: tuple[str, ...]
    frames: tuple[Frame, ...]
    grids: list[Grid]
    patches: Tensor | None
    features: list[list[Tensor]] = field(default_factory=list)


class VisionCache:
    """Keeps the slots of the last context.

    read: turns frames into patches and grids. encode: turns the patches of some images into
    features; its next call may overwrite them. images_at_once: most images of several slots that
    are encoded together, 0 for one slot at a time.
    """

    def __init__(
        self,
        read: Callable[[Sequence[Frame]], list[tuple[Tensor, Grid]]],
        encode: Callable[[Tensor, Sequence[Grid]], Features],
        images_at_once: int = 0,
    ) -> None:
        self._read, self._encode, self._images_at_once = read, encode, images_at_once
        self._kept: list[Slot] = []

    def find_slots(self, context: Context) -> list[Slot]:
        """Return the slots of a context, oldest first; decode frames that are not kept.

        Raises images.ImageError for a frame that cannot be decoded.
        """
        cameras = tuple(context.frames)
        times = list(zip(*context.frames.values(), strict=True))
        kept = [self._find_kept(cameras, frames) for frames in times]
        new = [
            frame for frames, slot in zip(times, kept, strict=True) if not slot for frame in frames
        ]
        fresh = iter(self._read(new))
        slots = [
            slot or _make_slot(cameras, frames, [next(fresh) for _ in frames])
            for frames, slot in zip(times, kept, strict=True)
        ]
        self._kept = [slot for slot in slots if slot.features]
        return slots

    def encode_slots(self, slots: Sequence[Slot]) -> Features:
        """Return the features of all images, camera by camera; encode slots that have none."""
        joined: list[Tensor] = []
        at = 0
        for group in self._group(slots):
            found = [slot.features for slot in group]
            for slot, fresh in zip(
                group, found if found[0] else self._encode_group(group), strict=True
            ):
                if not joined:
                    joined = [_allocate_level(slots, slot, level) for level in fresh]
                own = [_select_rows(slots, at, whole) for whole in joined]
                for places, parts in zip(own, fresh, strict=True):
                    for place, part in zip(places, parts, strict=True):
                        place.copy_(part)
                slot.features, slot.patches = own, None  # views: nothing is held twice
                at += 1
        self._kept = list(slots)
        return joined[0], joined[1:]

    def clear(self) -> None:
        """Drop all kept images."""
        self._kept = []

    def _group(self, slots: Sequence[Slot]) -> list[Sequence[Slot]]:
        """Slots that are encoded together; a GPU records two sizes: one slot, and several."""
        size = max(1, self._images_at_once // len(slots[0].frames))
        size = 1 if any(slot.features for slot in slots) else size
        return [slots[start : start + size] for start in range(0, len(slots), size)]

    def _encode_group(self, slots: Sequence[Slot]) -> list[list[list[Tensor]]]:
        """Return the features of each slot."""
        patches = torch.cat([slot.patches for slot in slots if slot.patches is not None])
        grids = [grid for slot in slots for grid in slot.grids]
        embeddings, levels = self._encode(patches, grids)
        images = [x.split(_count_tokens(grids, len(x))) for x in (embeddings, *levels)]
        count = len(slots[0].grids)
        starts = range(0, len(grids), count)
        return [[list(level[start : start + count]) for level in images] for start in starts]

    def _find_kept(self, cameras: tuple[str, ...], frames: tuple[Frame, ...]) -> Slot | None:
        for slot in self._kept:
            if slot.cameras == cameras and all(map(_is_same_frame, slot.frames, frames)):
                return slot
        return None


def _make_slot(
    cameras: tuple[str, ...], frames: tuple[Frame, ...], read: Sequence[tuple[Tensor, Grid]]
) -> Slot:
    patches = torch.cat([patches for patches, _ in read])
    return Slot(cameras, frames, [grid for _, grid in read], patches)


def order_grids_by_camera(slots: Sequence[Slot]) -> list[Grid]:
    """Return the grids of all images in the order of a prompt: camera by camera."""
    return [slot.grids[camera] for camera in range(len(slots[0].grids)) for slot in slots]


def _count_tokens(grids: Sequence[Grid], total: int) -> list[int]:
    """Count the tokens of each image, out of the total of all, by their areas."""
    area = sum(h * w for h, w in grids)
    return [total * h * w // area for h, w in grids]


def _allocate_level(slots: Sequence[Slot], slot: Slot, parts: Sequence[Tensor]) -> Tensor:
    """Allocate one level of the features of all images, given those of one slot."""
    tokens = sum(map(len, parts))
    area = sum(h * w for h, w in slot.grids)
    total = sum(h * w for other in slots for h, w in other.grids) * tokens // area
    return parts[0].new_empty(total, parts[0].shape[1])


def _select_rows(slots: Sequence[Slot], at: int, joined: Tensor) -> list[Tensor]:
    """Return the views of a level that belong to the images of the slot at an index."""
    pieces = joined.split(_count_tokens(order_grids_by_camera(slots), len(joined)))
    return list(pieces[at :: len(slots)])


def _is_same_frame(a: Frame, b: Frame) -> bool:
    """Whether two frames are equal: after a clock jump a stamp can come again."""
    facts = [(f.stamp_ns, f.encoding, f.height, f.width, f.step) for f in (a, b)]
    return a is b or (facts[0] == facts[1] and np.array_equal(a.data, b.data))
