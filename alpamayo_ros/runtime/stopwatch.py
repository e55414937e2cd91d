"""Milliseconds per stage of an inference, on any device. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import time

import torch


class Stopwatch:
    """Collects `milliseconds` by stage name; a CUDA stage ends when its kernels have ended."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body and add it under `name`."""
        start = time.perf_counter()
        yield
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        elapsed = (time.perf_counter() - start) * 1e3
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + elapsed
