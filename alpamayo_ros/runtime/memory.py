"""Available memory, checks before a load, and the errors that mean that memory ran out.

On a CPU and on Tegra weights live in the memory of the machine, of which MemAvailable is free; the
limit of a container counts too. A discrete GPU reports its own free memory. This module knows no
model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import ctypes
import gc
from pathlib import Path
import sys
from typing import TypeVar

from ..errors import BadInput
from . import cgroup

Result = TypeVar('Result')

SYSTEM_BYTES = 300_000_000  # of unified memory, left to other processes
MEMINFO = Path('/proc/meminfo')
PROCESSES = Path('/proc')
OUT_OF_MEMORY = (
    'out of memory',  # torch and the driver
    'CUBLAS_STATUS_ALLOC_FAILED',
    'CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate',  # its workspace did not fit
    'CUDNN_STATUS_ALLOC_FAILED',
    "can't allocate memory",  # torch on a CPU
    'Cannot allocate memory',  # the system, where a file is mapped
    # on Tegra a failed allocation ends in an assert of PyTorch (pytorch/pytorch#185240), behind
    # any of the calls that ask NVML who holds the memory
    'NVML_SUCCESS == ',
    'NvMapMemAlloc',
)


class OutOfMemory(RuntimeError):
    """Memory ran out during an inference; the engine has freed what it held and can go on."""


def is_unified(device: str) -> bool:
    """Whether this device is a GPU that shares the memory of the machine."""
    if not device.startswith('cuda'):
        return False
    import torch

    return bool(torch.cuda.get_device_properties(device).is_integrated)


def read_available_bytes(device: str = 'cpu') -> int:
    """Read how much memory a load on this device can still take."""
    if device.startswith('cuda') and not is_unified(device):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    machine = _kilobytes(MEMINFO, 'MemAvailable') * 1024
    limit = cgroup.read_remaining_bytes()
    return machine if limit is None else min(machine, limit)


def read_resident_bytes(pid: int | None = None) -> tuple[int, int]:
    """Read the resident memory of a process, by default this one: now, and its peak.

    0 and 0 for a process that has ended.
    """
    status = PROCESSES / str(pid or 'self') / 'status'
    try:
        return _kilobytes(status, 'VmRSS') * 1024, _kilobytes(status, 'VmHWM') * 1024
    except (OSError, BadInput):  # ended, or about to be: then it has no such lines
        return 0, 0


def read_gpu_peak_bytes() -> int:
    """Read the peak of what this process had allocated on its GPU; 0 without one."""
    cuda = sys.modules.get('torch.cuda')
    # while another thread imports torch, its modules exist but are empty
    is_initialized = getattr(cuda, 'is_initialized', None)
    if cuda is None or is_initialized is None or not is_initialized():
        return 0
    return int(cuda.max_memory_allocated())


def is_gpu_lost() -> bool:
    """Whether a CUDA error has stayed: every later call of this process fails with it."""
    torch = sys.modules.get('torch')
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def compare_with_available(needed: Mapping[str, int], device: str) -> tuple[bool, str]:
    """Return whether so much memory (by purpose) is available, and both figures as text."""
    total, available = sum(needed.values()), read_available_bytes(device)
    parts = ', '.join(f'{what} {size / 1e9:.2f}' for what, size in needed.items())
    text = f'needs {total / 1e9:.2f} GB ({parts}), {available / 1e9:.2f} GB are available'
    return total <= available, f'{text} on {device}'


def require_memory(what: object, needed: Mapping[str, int], device: str) -> None:
    """Raise BadInput when less is available on the device than is needed."""
    fits, text = compare_with_available(needed, device)
    if not fits:
        raise BadInput(f'{what}: {text}')


def limit_allocator(device: str) -> None:
    """On unified memory, let torch take no more than what is available now.

    A larger allocation is then an error of torch; else the system would kill some process.
    """
    if is_unified(device):
        import torch

        whole = torch.cuda.get_device_properties(device).total_memory
        own = torch.cuda.memory_reserved(device) + read_available_bytes(device) - SYSTEM_BYTES
        index = torch.device(device).index  # None: the current device
        torch.cuda.set_per_process_memory_fraction(min(max(own / whole, 0.0), 1.0), index)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or its cause, means that memory ran out."""
    if error is None:
        return False
    here = isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)
    return here or is_out_of_memory(error.__cause__ or error.__context__)


def guard(work: Callable[[], Result], make_error: Callable[[str], Exception]) -> Result:
    """Run `work`; where memory runs out, in any form, raise the error that `make_error` returns.

    make_error gets the first line of the message, once the failed work's tensors are freed.
    """
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = next(iter(str(error).splitlines()), '') or type(error).__name__
    # outside of the handler: the error's traceback keeps what the work had allocated
    raise make_error(message)


def release_cached() -> None:
    """Give unused and cached memory back to the machine."""
    gc.collect()
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # glibc keeps freed memory below a block in use; other C libraries have no such function
    if trim := getattr(ctypes.CDLL(None), 'malloc_trim', None):
        trim(0)


def _kilobytes(path: Path, key: str) -> int:
    for line in path.read_text(encoding='utf-8').splitlines():
        name, _, value = line.partition(':')
        if name == key:
            return int(value.split()[0])
    raise BadInput(f'{path}: no line {key}')
