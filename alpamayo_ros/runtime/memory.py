"""How much memory is left, whether a load fits, and which errors mean that none is left.

Knows no model. On Tegra and on a CPU weights live in the memory of the machine, where MemAvailable
counts; a card of its own is asked for its free memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import ctypes
import gc
from pathlib import Path
import sys
from typing import TypeVar

from ..errors import BadInput

Result = TypeVar('Result')

SYSTEM_BYTES = 300_000_000  # of unified memory, left to what else grows while torch does
MEMINFO = Path('/proc/meminfo')
STATUS = Path('/proc/self/status')
OUT_OF_MEMORY = (
    'out of memory',  # torch and the driver
    'CUBLAS_STATUS_ALLOC_FAILED',
    'CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate',  # its workspace did not fit
    'CUDNN_STATUS_ALLOC_FAILED',
    "can't allocate memory",  # torch on a CPU
    'Cannot allocate memory',  # the system, where a file is mapped
    # on Tegra a failed allocation is an assert of PyTorch's (pytorch/pytorch#185240), after any
    # of the calls that ask NVML who has the memory
    'NVML_SUCCESS == ',
    'NvMapMemAlloc',
)


class OutOfMemory(RuntimeError):
    """Memory ran out during an inference; the engine holds nothing of it and can go on."""


def is_unified(device: str) -> bool:
    """Whether this is a GPU that shares the memory of the machine."""
    if not device.startswith('cuda'):
        return False
    import torch

    return bool(torch.cuda.get_device_properties(device).is_integrated)


def available_bytes(device: str = 'cpu') -> int:
    """Memory that a load on this device can still take."""
    if device.startswith('cuda') and not is_unified(device):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return _kilobytes(MEMINFO, 'MemAvailable') * 1024


def resident_bytes() -> tuple[int, int]:
    """Memory of this process: now, and at its highest."""
    return _kilobytes(STATUS, 'VmRSS') * 1024, _kilobytes(STATUS, 'VmHWM') * 1024


def gpu_peak_bytes() -> int:
    """What this process had allocated on its GPU at the highest; 0 without one."""
    cuda = sys.modules.get('torch.cuda')
    # while another thread imports torch, its modules are there without what they hold
    is_initialized = getattr(cuda, 'is_initialized', None)
    if cuda is None or is_initialized is None or not is_initialized():
        return 0
    return int(cuda.max_memory_allocated())


def compare(needed: Mapping[str, int], device: str) -> tuple[bool, str]:
    """Whether memory by what it is for is available, and both figures in words."""
    total, available = sum(needed.values()), available_bytes(device)
    parts = ', '.join(f'{what} {size / 1e9:.2f}' for what, size in needed.items())
    text = f'needs {total / 1e9:.2f} GB ({parts}), {available / 1e9:.2f} GB are available'
    return total <= available, f'{text} on {device}'


def require_memory(what: object, needed: Mapping[str, int], device: str) -> None:
    """Raise BadInput when less is available on the device than is needed."""
    fits, text = compare(needed, device)
    if not fits:
        raise BadInput(f'{what}: {text}')


def limit_allocator(device: str) -> None:
    """On unified memory let torch take what is available now and no more.

    What it takes beyond that is an error of torch's instead of the end of some other process.
    """
    if is_unified(device):
        import torch

        whole = torch.cuda.get_device_properties(device).total_memory
        own = torch.cuda.memory_reserved(device) + available_bytes(device) - SYSTEM_BYTES
        index = torch.device(device).index  # None: the present one; 'cuda' itself is refused
        torch.cuda.set_per_process_memory_fraction(min(max(own / whole, 0.0), 1.0), index)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one it came from, means that memory ran out."""
    if error is None:
        return False
    told = isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)
    return told or is_out_of_memory(error.__cause__ or error.__context__)


def guard(work: Callable[[], Result], tell: Callable[[str], Exception]) -> Result:
    """The result of some work; where memory runs out, in any form, the error that `tell` makes.

    tell gets the first line of what was said, once nothing of the failed work is alive any more.
    """
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = next(iter(str(error).splitlines()), '') or type(error).__name__
    # here, because the error holds its traceback, and that what the work had allocated
    raise tell(said)


def release_cached() -> None:
    """Give memory that nothing refers to, or that is kept for later, back to the machine."""
    gc.collect()
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # glibc keeps what was freed below something else; other libraries have no such function
    if trim := getattr(ctypes.CDLL(None), 'malloc_trim', None):
        trim(0)


def _kilobytes(path: Path, key: str) -> int:
    for line in path.read_text(encoding='utf-8').splitlines():
        name, _, value = line.partition(':')
        if name == key:
            return int(value.split()[0])
    raise BadInput(f'{path}: no line {key}')
