"""Features that only GPUs since Hopper (compute capability 9.0) have.

A kernel is launched while the one before still runs (programmatic dependent launch): between the
small kernels of a decode step a GPU otherwise waits for launches. It made an inference on an H200
10 ms of 221 shorter. And tensor cores take one operand from registers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .gpu import Gpu, gpu_of, query_gpu

LARGE_PRODUCT = 16384  # byte rows times steps along K: from here on, blocks take 128 byte rows


def is_hopper(gpu: Gpu) -> bool:
    """Whether the GPU is of the Hopper generation or later."""
    return gpu.capability >= (9, 0)


def overlap_level(gpu: Gpu, release: bool = False) -> int:
    """Value of OVERLAP for `wait_for_previous_kernel`: 0 where kernels do not overlap.

    release: the next kernel may start as soon as this one has waited. That is worth it where
    small kernels stand between products of one row; larger products were slower for it.
    """
    return (2 if release else 1) if is_hopper(gpu) else 0


def launch_options(device: torch.device, release: bool = False) -> dict[str, Any]:
    """Launch options of a kernel that takes OVERLAP; `release` as for `overlap_level`."""
    level = overlap_level(gpu_of(device), release)
    return {'OVERLAP': level, 'launch_pdl': True} if level else {'OVERLAP': 0}


def library_options(device: torch.device) -> dict[str, Any]:
    """Launch options of a kernel in place of a product of the library.

    Where another GPU is assumed, it is still made for the GPU at hand, as the library's are. The
    kernel behind it unpacks the next weights: it may start while the last blocks multiply.
    """
    options, own = launch_options(device, release=True), query_gpu(device)
    return (
        options if gpu_of(device) == own else options | {'arch': 'sm{}{}'.format(*own.capability)}
    )


@triton.jit
def wait_for_previous_kernel(OVERLAP: tl.constexpr):
    """Wait until the kernel before has written everything: what it may write is read after."""
    if OVERLAP > 0:
        tl.extra.cuda.gdc_wait()
    if OVERLAP > 1:
        tl.extra.cuda.gdc_launch_dependents()


def block_shares(digits: int, byte_rows: int, steps: int) -> tuple[int, int]:
    """Blocks that share the byte rows of a product of many rows, and byte rows of a block.

    Weights go from registers to the tensor cores. All digits of a byte would need so many
    registers that no product could run beside the unpacking of the next one, so each block takes
    one digit and the bytes are read once a digit.
    """
    return digits, 128 if byte_rows * steps >= LARGE_PRODUCT else 64
