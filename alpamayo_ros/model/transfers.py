"""Copies between host and device that do not wait for the work in front of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device without waiting for the device."""
    if device.type == 'cuda' and not x.is_cuda:
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def read_flag_later(flag: Tensor) -> Callable[[], bool]:
    """Start to copy a flag (0-d bool) to the host; the result waits for it and returns it.

    The wait does not include what is launched after this call.
    """
    if not flag.is_cuda:
        return lambda: bool(flag)
    on_host = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(flag, non_blocking=True)
    event = torch.cuda.Event()
    event.record()

    def wait() -> bool:
        event.synchronize()
        return bool(on_host)

    return wait
