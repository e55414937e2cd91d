"""Decodes a camera's video in a thread, so that the owner of the node never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ..data_types import Frame, Rejection, VideoPacket
from .decoder import VideoDecoder

MOST_WAITING = 15  # packets, half a second at 30 Hz

Decoded = Future[list[Frame] | Rejection]


class DecoderThread:
    """One camera's decoder and its thread, which decodes in the order of arrival.

    PyAV lets go of Python's lock while it decodes.
    """

    def __init__(self) -> None:
        self._decoder = VideoDecoder()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix='video')
        self._last: list[Decoded] = []

    def submit(
        self, packet: VideoPacket, on_done: Callable[[Decoded], object]
    ) -> Rejection | None:
        """Decode a packet and call on_done, on the thread; or say why it is refused.

        A result is what VideoDecoder.decode returns or raises.
        """
        self._last = [decoded for decoded in self._last if not decoded.done()]
        if len(self._last) >= MOST_WAITING:
            detail = f'{packet.codec}: {MOST_WAITING} packets wait to be decoded'
            return Rejection(packet.stamp_ns, 'decoder_behind', detail)
        decoded = self._pool.submit(self._decoder.decode, packet)
        self._last.append(decoded)
        decoded.add_done_callback(on_done)
        return None
