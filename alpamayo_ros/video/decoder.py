"""Decodes the video of one camera, one packet after the other, to RGB frames.

A picture of a video needs those before it. The decoder begins at a key frame; when a packet is
missing or damaged it waits for the next one, and no picture with concealed errors comes out.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ..data_types import NANOSECONDS, Frame, Rejection, VideoPacket
from ..images import MAX_PIXELS
from .bitstream import START_CODE, PictureCounter, is_key

av: ModuleType | None
try:
    import av
except ImportError:  # only those who decode video need it
    av = None

BACK_NS = NANOSECONDS  # a stamp further back begins another recording


class VideoDecoder:
    """One camera's decoder; raises ValueError for packets that no decoder here can take."""

    def __init__(self) -> None:
        self._codec = ''
        self._context: Any = None
        self._pictures = PictureCounter()
        self._frame_id, self._newest_ns = '', 0
        self._waits_since = ''  # why, while a key frame is waited for

    def decode(self, packet: VideoPacket) -> list[Frame] | Rejection:
        """Frames of a packet: one, or none yet; or why there are none.

        Frames are 'rgb8', with the stamps of their packets. The reason is 'no_key_frame'.
        """
        data = packet.data.tobytes()
        if START_CODE not in data[:8]:
            raise ValueError(f'{packet.codec} packet without start code: expected Annex B')
        if packet.codec != self._codec:
            self._codec, self._context = packet.codec, _open(packet.codec)
            self._pictures = PictureCounter()
            self._wait('none has come')
        is_loss = self._codec == 'h264' and self._pictures.misses(data)
        if packet.stamp_ns < self._newest_ns - BACK_NS:
            self._wait('the stamps jumped back')
        elif is_loss and not self._waits_since:
            self._wait('packets are missing')
        self._newest_ns, self._frame_id = packet.stamp_ns, packet.frame_id
        frames: list[Frame] = []
        if not self._waits_since or is_key(self._codec, data):
            frames = self._decode(packet.stamp_ns, data)
        if self._waits_since:
            detail = f'{self._codec}: waits for a key frame, since {self._waits_since}'
            return Rejection(packet.stamp_ns, 'no_key_frame', detail)
        return frames

    def _decode(self, stamp_ns: int, data: bytes) -> list[Frame]:
        assert av is not None
        coded = av.Packet(data)
        coded.pts = stamp_ns
        try:
            pictures = self._context.decode(coded)
        except av.FFmpegError:
            self._wait('a packet could not be decoded')
            return []
        # a decoder of H.265 gives nothing where a picture is missing that this one refers to
        is_late = not pictures and self._codec == 'hevc' and not self._context.has_b_frames
        if is_late or any(picture.is_corrupt for picture in pictures):
            self._wait('packets are missing')
            return []
        self._waits_since = ''
        return [self._to_frame(picture) for picture in pictures]

    def _wait(self, reason: str) -> None:
        """Begin again with the next key frame; parameter sets stay."""
        self._waits_since = reason
        self._context.flush_buffers()

    def _to_frame(self, picture: Any) -> Frame:
        pixels = picture.to_ndarray(format='rgb24')
        height, width, _ = pixels.shape
        data = np.ascontiguousarray(pixels).reshape(-1)
        return Frame(picture.pts, 'rgb8', data, height, width, 3 * width, self._frame_id)


def _open(codec: str) -> Any:
    """Open a decoder that gives out a picture as soon as its packet is there."""
    if av is None:
        raise ValueError(f"{codec} needs PyAV: pip install 'alpamayo_ros[video]'")
    context = av.CodecContext.create(codec, 'r')
    context.thread_count = 1  # threads of frames delay each picture by their number
    context.options = {'max_pixels': str(MAX_PIXELS)}
    return context
