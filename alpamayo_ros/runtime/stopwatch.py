"""A stopwatch: milliseconds for each stage of an inference, on any device. It knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import time

import torch


class Stopwatch:
    """Times stages by name; on a GPU by CUDA events, so that timing waits for nothing."""

    def __init__(self, device: torch.device) -> None:
        self._mark = _start_cuda_events if device.type == 'cuda' else _start_clock
        self._stages: list[tuple[str, Callable[[], float]]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body and add it under `name`."""
        end = self._mark()
        yield
        self._stages.append((name, end()))

    @property
    def milliseconds(self) -> dict[str, float]:
        """Milliseconds of each stage; on a GPU this waits until all stages have ended."""
        total: dict[str, float] = {}
        for name, elapsed_ms in self._stages:
            total[name] = total.get(name, 0.0) + elapsed_ms()
        return total


def _start_clock() -> Callable[[], Callable[[], float]]:
    """Start a clock. Calling the result stops it and returns a function for the milliseconds."""
    start = time.perf_counter()

    def end() -> Callable[[], float]:
        elapsed_ms = (time.perf_counter() - start) * 1e3
        return lambda: elapsed_ms

    return end


def _start_cuda_events() -> Callable[[], Callable[[], float]]:
    """As _start_clock, by events on the current stream."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()

    def end() -> Callable[[], float]:
        stop.record()

        def elapsed_ms() -> float:
            stop.synchronize()
            return float(start.elapsed_time(stop))

        return elapsed_ms

    return end
