"""Milliseconds per stage of an inference, on any device. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import time

import torch


class Stopwatch:
    """Times stages by name; on a GPU by events among its kernels, which wait for nothing."""

    def __init__(self, device: torch.device) -> None:
        self._mark = _event if device.type == 'cuda' else _moment
        self._stages: list[tuple[str, Callable[[], float]]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body and add it under `name`."""
        end = self._mark()
        yield
        self._stages.append((name, end()))

    @property
    def milliseconds(self) -> dict[str, float]:
        """Of each stage; on a GPU once all of them have ended."""
        found: dict[str, float] = {}
        for name, elapsed_ms in self._stages:
            found[name] = found.get(name, 0.0) + elapsed_ms()
        return found


def _moment() -> Callable[[], Callable[[], float]]:
    """Start; the first call ends, what it returns tells the time between."""
    start = time.perf_counter()

    def end() -> Callable[[], float]:
        elapsed_ms = (time.perf_counter() - start) * 1e3
        return lambda: elapsed_ms

    return end


def _event() -> Callable[[], Callable[[], float]]:
    """As _moment, by events on the present stream."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()

    def end() -> Callable[[], float]:
        stop.record()

        def elapsed_ms() -> float:
            stop.synchronize()
            return float(start.elapsed_time(stop))

        return elapsed_ms

    return end
