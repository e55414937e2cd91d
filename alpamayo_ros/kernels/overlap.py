"""Kernels that are launched while the one before still runs, on GPUs that can (since Hopper).

Between the small kernels of a decode step a GPU otherwise waits for launches: programmatic
dependent launch made an inference on an H200 10 ms of 221 shorter. Knows no op.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl


@cache
def options(device: torch.device) -> dict[str, Any]:
    """Launch options of a kernel that takes OVERLAP and calls `begin`."""
    if device.type == 'cuda' and torch.cuda.get_device_capability(device) >= (9, 0):
        return {'OVERLAP': True, 'launch_pdl': True}
    return {'OVERLAP': False}


@triton.jit
def begin(OVERLAP: tl.constexpr):
    """Wait until the kernel before has written everything: what it may write is read after."""
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
