"""The facts of a GPU that decide which kernel runs: its generation and multiprocessors."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch


class Gpu(NamedTuple):
    """capability: as in (8, 7), 8.7 of an Orin. multiprocessors: how many it has."""

    capability: tuple[int, int]
    multiprocessors: int


ORIN_NANO = Gpu((8, 7), 8)
INTERPRETER = Gpu((8, 0), 4)  # stands for a CPU, on which Triton interprets kernels

_assumed: Gpu | None = None


def gpu_of(device: torch.device) -> Gpu:
    """Return the GPU behind a device, or the one that `assume` set."""
    return _assumed or query_gpu(device)


def assume(gpu: Gpu | None) -> None:
    """Let kernels be chosen as for another GPU; None ends that.

    For benchmarks on a part of a GPU. Call it before the first kernel runs.
    """
    global _assumed  # noqa: PLW0603
    _assumed = gpu


@cache
def query_gpu(device: torch.device) -> Gpu:
    """Return the GPU behind a device, whatever is assumed."""
    if device.type != 'cuda':
        return INTERPRETER
    count = torch.cuda.get_device_properties(device).multi_processor_count
    return Gpu(torch.cuda.get_device_capability(device), count)
