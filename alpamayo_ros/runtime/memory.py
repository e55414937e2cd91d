"""How much memory is left, whether a load fits, and which errors mean that none is left.

Knows no model. On Tegra and on a CPU weights live in the memory of the machine, where MemAvailable
counts; a card of its own is asked for its free memory.
"""

from __future__ import annotations

from pathlib import Path
import sys

from ..errors import BadInput

RESERVE_BYTES = 500_000_000  # cache, activations and workspace of the release: 0.5 GB
MEMINFO = Path('/proc/meminfo')
STATUS = Path('/proc/self/status')
# On Tegra a failed allocation is an assert of PyTorch's (pytorch/pytorch#185240).
OUT_OF_MEMORY = ('NVML_SUCCESS == r INTERNAL ASSERT FAILED', 'out of memory')


def available_bytes(device: str = 'cpu') -> int:
    """Memory that a load on this device can still take."""
    if device.startswith('cuda'):
        import torch

        if not torch.cuda.get_device_properties(device).is_integrated:
            return int(torch.cuda.mem_get_info(device)[0])
    return _kilobytes(MEMINFO, 'MemAvailable') * 1024


def resident_bytes() -> tuple[int, int]:
    """Memory of this process: now, and at its highest."""
    return _kilobytes(STATUS, 'VmRSS') * 1024, _kilobytes(STATUS, 'VmHWM') * 1024


def require_memory(checkpoint: Path, device: str) -> None:
    """Raise BadInput when the weights of a checkpoint and a reserve do not fit."""
    weights = sum(path.stat().st_size for path in checkpoint.glob('*.safetensors'))
    needed, available = weights + RESERVE_BYTES, available_bytes(device)
    if needed > available:
        raise BadInput(
            f'{checkpoint}: needs {needed / 1e9:.2f} GB (weights {weights / 1e9:.2f} GB and a '
            f'reserve), {available / 1e9:.2f} GB are available on {device}'
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, in any of the forms it takes."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)


def release_cached() -> None:
    """Give memory that torch keeps for later back to the device."""
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _kilobytes(path: Path, key: str) -> int:
    for line in path.read_text(encoding='utf-8').splitlines():
        name, _, value = line.partition(':')
        if name == key:
            return int(value.split()[0])
    raise BadInput(f'{path}: no line {key}')
