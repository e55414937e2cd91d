"""Single pictures of a recorded drive, also those of a video, which need the pictures before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import images
from ..bags.reader import Bag
from ..data_types import NANOSECONDS, Frame, VideoPacket
from ..rig import CameraRig
from ..ros.inputs import to_image
from ..video.decoder import VideoDecoder

# before a picture, where its key frame is looked for; None: from the start of the bag
SPANS_NS = (3 * NANOSECONDS, 30 * NANOSECONDS, None)


def read_picture(bag: Bag, topic: str, stamp_ns: int, log_ns: int) -> NDArray[np.uint8] | None:
    """Picture (H, W, 3) RGB that a topic has at a stamp and a log time; None where it has none.

    Raises ValueError for one that cannot be decoded.
    """
    found = [
        image
        for _, _, payload in bag.messages([topic], log_ns, log_ns + 1)
        if (image := to_image(bag.decode(topic, payload))).stamp_ns == stamp_ns
    ]
    if not found:
        return None
    frame = found[0]
    if isinstance(frame, VideoPacket):
        frame = _decode_up_to(bag, topic, stamp_ns, log_ns)
    return np.ascontiguousarray(images.decode(frame).transpose(1, 2, 0))


def has_video(bag: Bag, rig: CameraRig) -> bool:
    """Whether a camera's first message that can be read is a packet of a video."""
    return any(_begins_with_packet(bag, camera.topic) for camera in rig.cameras)


def _begins_with_packet(bag: Bag, topic: str) -> bool:
    for _, _, payload in bag.messages([topic]):
        try:
            return isinstance(to_image(bag.decode(topic, payload)), VideoPacket)
        except ValueError:
            continue
    return False


def _decode_up_to(bag: Bag, topic: str, stamp_ns: int, log_ns: int) -> Frame:
    """Frame of a video, decoded from a key frame before it on."""
    for span_ns in SPANS_NS:
        decoder = VideoDecoder()
        start_ns = None if span_ns is None else log_ns - span_ns
        for _, _, payload in bag.messages([topic], start_ns, log_ns + 1):
            try:
                image = to_image(bag.decode(topic, payload))
                frames = decoder.decode(image) if isinstance(image, VideoPacket) else None
            except ValueError:
                continue  # the replay writes a line about it
            for frame in frames if isinstance(frames, list) else ():
                if frame.stamp_ns == stamp_ns:
                    return frame
    raise ValueError('no key frame before it')
