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


def read_later(x: Tensor) -> Callable[[], Tensor]:
    """Start to copy a tensor to the host; the result waits for it and returns it.

    The wait does not include what is launched after this call.
    """
    if not x.is_cuda:
        return lambda: x
    on_host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
    event = torch.cuda.Event()
    event.record()

    def wait() -> Tensor:
        event.synchronize()
        return on_host

    return wait
