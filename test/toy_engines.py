"""Engines for a process of its own: made by functions that it can import. Knows no ROS."""

from dataclasses import replace
import json
import mmap
import os
import time

import numpy as np

from alpamayo_ros import images
from alpamayo_ros.errors import BadInput
from alpamayo_ros.runtime import memory
from alpamayo_ros.runtime.constant_velocity import ConstantVelocityEngine

NVML = 'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":1131'
# Seeds that ask for something.
RAISE, RUN_OUT_OF_MEMORY, DECODE, HANG, DIE, LOSE_GPU = range(1001, 1007)


class Toy(ConstantVelocityEngine):
    """Does what the seed asks for; its text tells how the frames arrived."""

    def __init__(self, options=None):
        super().__init__(options)
        self.last = ()

    def infer(self, context, seed):
        """Act, or predict."""
        frames = [frame for row in context.frames.values() for frame in row]
        if seed == RAISE:
            raise KeyError('weights')
        if seed == RUN_OUT_OF_MEMORY:
            raise RuntimeError(NVML)
        if seed == DECODE:
            [images.decode(frame) for frame in frames]
        if seed == HANG:
            time.sleep(60)
        if seed == DIE:
            os._exit(7)
        if seed == LOSE_GPU:
            memory.is_gpu_lost = lambda: True
            raise RuntimeError('CUDA error: an illegal memory access was encountered')
        facts = {
            'pid': os.getpid(),
            'mapped': sum(map(is_mapped, frames)),
            'kept': sum(any(frame is other for other in self.last) for frame in frames),
            'sums': [int(frame.data.sum()) for frame in frames],
            'last sums': [int(frame.data.sum()) for frame in self.last],
        }
        self.last = tuple(frames)
        found = super().infer(context, seed)
        return replace(found, texts=(json.dumps(facts),) * len(found.samples))

    def answer(self, context, question, seed):
        """Say in which process the question is answered; one about nothing cannot be."""
        if question == 'Nothing?':
            raise BadInput('a question about nothing')
        return f'{question} {os.getpid()}', question != 'For ever?'


def start():
    """A Toy."""
    return Toy()


def is_mapped(frame):
    """Whether the data of a frame are a map of a file."""
    base = frame.data
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, memoryview) and isinstance(base.obj, mmap.mmap)


def start_for_node(choice, rig):
    """An engine that takes its time for the first context."""
    return Slow(choice.options)


def fail_to_start():
    """Not even that."""
    raise BadInput('no such folder')


def die_at_start():
    """The system takes the process away."""
    os._exit(9)


class Slow(ConstantVelocityEngine):
    """Takes a second for the first context."""

    delay_s = 1.0

    def infer(self, context, seed):
        """Predict, the first time later."""
        time.sleep(self.delay_s)
        self.delay_s = 0.0
        return super().infer(context, seed)
