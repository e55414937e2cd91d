"""Passes jobs to another process: the frames in shared memory, the rest over a pipe.

A frame is written once, into a memory file of its own, when the first context needs it. The other
process has mapped the file and decodes from there: no copy is made in Python. Files are used
again, so an engine may keep the frames of its last job, not older ones. Both ends are of this
package, on a socket that nobody else can open.
"""

from __future__ import annotations

from dataclasses import replace
import mmap
from multiprocessing.connection import Connection
import os
import socket

import numpy as np
from numpy.typing import NDArray

from ...data_types import Frame
from .jobs import InferenceJob

NOTHING = np.zeros(0, np.uint8)
SPARE = 4  # a file is larger by this part of its frame: the next JPEG is a little longer


class MemoryFile:
    """A file in memory that holds one frame after another; number: its name for both processes."""

    def __init__(self, number: int) -> None:
        self.number, self.descriptor = number, os.memfd_create('frame')
        self._bytes = NOTHING

    def write(self, data: NDArray[np.uint8]) -> bool:
        """Write a frame; return whether the file has grown, so that it has to be mapped anew."""
        grows = data.size > self._bytes.size
        if grows:
            size = data.size + data.size // SPARE
            os.ftruncate(self.descriptor, size)
            self._bytes = np.frombuffer(mmap.mmap(self.descriptor, size), np.uint8)
        self._bytes[: data.size] = data  # numpy lets go of Python's lock meanwhile
        return grows


class JobSender:
    """Sends jobs; remembers which frames of the last one the receiver has."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[int, Frame] = {}  # holds the frames, so that no id is used again
        self._files: dict[int, MemoryFile] = {}  # of known frames
        # the receiver may hold the frames of one job during the next one
        self._resting: list[MemoryFile] = []
        self._free: list[MemoryFile] = []

    def send(self, job: InferenceJob) -> None:
        """Send a job; raises OSError where nobody receives."""
        context = job.context
        rows = {camera: tuple(map(id, row)) for camera, row in context.frames.items()}
        frames = {id(frame): frame for row in context.frames.values() for frame in row}
        self._free += self._resting
        self._resting = [self._files.pop(key) for key in self._known if key not in frames]
        headers, grown = {}, []
        for key, frame in frames.items():
            if key not in self._known:
                count = len(self._files) + len(self._resting) + len(self._free)
                file = self._files[key] = self._free.pop() if self._free else MemoryFile(count)
                grown += [file] if file.write(frame.data) else []
                headers[key] = file.number, frame.data.size, replace(frame, data=NOTHING)
        self._known = frames
        bare = replace(job, context=replace(context, frames={}))
        self._connection.send((bare, rows, headers, [file.number for file in grown]))
        if grown:
            with socket.socket(fileno=os.dup(self._connection.fileno())) as end:
                socket.send_fds(end, [b'.'], [file.descriptor for file in grown])

    def close(self) -> None:
        """Close the files; what the receiver has mapped stays."""
        for file in (*self._files.values(), *self._resting, *self._free):
            os.close(file.descriptor)
        self._known, self._files, self._resting, self._free = {}, {}, [], []


class JobReceiver:
    """Receives jobs; keeps the frames of the last one, as the same objects."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._maps: dict[int, NDArray[np.uint8]] = {}  # of files by number
        self._known: dict[int, Frame] = {}

    def receive(self) -> InferenceJob:
        """Wait for a job; raises EOFError when there will be none."""
        job, rows, headers, grown = self._connection.recv()
        if grown:
            with socket.socket(fileno=os.dup(self._connection.fileno())) as end:
                _, descriptors, _, _ = socket.recv_fds(end, 1, len(grown))
            self._maps.update(zip(grown, map(map_memory_file, descriptors), strict=True))
        known = self._known | {
            key: replace(header, data=self._maps[number][:size])
            for key, (number, size, header) in headers.items()
        }
        frames = {camera: tuple(known[key] for key in row) for camera, row in rows.items()}
        self._known = {key: known[key] for row in rows.values() for key in row}
        received: InferenceJob = replace(job, context=replace(job.context, frames=frames))
        return received


def map_memory_file(descriptor: int) -> NDArray[np.uint8]:
    """Bytes of a file, mapped read-only; closes the descriptor."""
    try:
        size = os.fstat(descriptor).st_size
        return np.frombuffer(mmap.mmap(descriptor, size, prot=mmap.PROT_READ), np.uint8)
    finally:
        os.close(descriptor)
