"""Confines kernels to a slice of a GPU: as many of its multiprocessors as an Orin has.

A CUDA green context has only so many multiprocessors. Kernels are chosen as for a GPU of
capability 8.7 with as many; Triton makes code for 8.7 and assembles it for the GPU at hand, so no
path of Hopper is taken. Products of the library stay those of the GPU at hand.
"""

from __future__ import annotations

from pathlib import Path
import re
import subprocess
from typing import Any

import torch

from ..errors import BadInput
from ..kernels import gpu

CAPABILITY = (8, 7)  # of an Orin

_contexts: list[Any] = []  # a green context lives as long as the process


def enter_slice(multiprocessors: int, device: int = 0) -> None:
    """Restrict this process to a slice of a GPU; call it before anything else uses the GPU.

    Raises BadInput where torch has no green contexts.
    """
    try:
        from torch.cuda.green_contexts import GreenContext

        context: Any = GreenContext.create(num_sms=multiprocessors, device_id=device)
    except (ImportError, RuntimeError) as error:
        raise BadInput(f'--slice {multiprocessors}: no green context: {error}') from None
    context.set_context()
    _contexts.append(context)
    gpu.assume(gpu.Gpu(CAPABILITY, multiprocessors))
    _compile_for_orin()


def _compile_for_orin() -> None:
    """Let Triton make code for 8.7, and assemble it for the GPU at hand."""
    import triton
    from triton.backends.nvidia.compiler import CUDABackend

    major, minor = torch.cuda.get_device_capability()
    assemble = CUDABackend.make_cubin

    def assemble_here(self: Any, source: Any, metadata: Any, options: Any, _: int) -> Any:
        return assemble(self, source, metadata, options, 10 * major + minor)

    CUDABackend.make_cubin = assemble_here
    triton.knobs.runtime.override_arch = 'sm{}{}'.format(*CAPABILITY)


def measure_clocks() -> tuple[float, float]:
    """MHz of the GPU's multiprocessors under load, and of the host's fastest core."""
    x = torch.randn(4096, 4096, device='cuda', dtype=torch.bfloat16)
    for _ in range(200):  # keeps a slice of 8 busy while the clock is read
        x @ x
    command = ['nvidia-smi', '--query-gpu=clocks.sm', '--format=csv,noheader,nounits']
    clocks = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    torch.cuda.synchronize()
    text = Path('/proc/cpuinfo').read_text(encoding='utf-8')
    host = [float(mhz) for mhz in re.findall(r'cpu MHz\s*:\s*([\d.]+)', text)]
    return float(clocks[0]), max(host, default=2000.0)
