"""What the packed kernels compile to, for a GPU that need not be there: counts, not times.

Registers, spills, shared memory and instructions per weight of the inner loop, from the machine
code that Triton makes. Knows no device.
"""

from __future__ import annotations

import os
from pathlib import Path
import re
import subprocess
import tempfile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import packed_block, packed_decode, packed_single, packed_tiles, spread
from .packing import digits

_TOOL = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
_TYPES = {torch.bfloat16: 'bf16', torch.float16: 'fp16'}
_LINE = re.compile(r'/\*([0-9a-f]{4,})\*/\s+(.*?);')
_BRANCH = re.compile(r'BRA.*?0x([0-9a-f]+)')


def counts(
    kernel: str,
    tile: packed_tiles.Tile,
    x_rows: int,
    levels: int = 4,
    group: int = 128,
    capability: int = 87,
    dtype: torch.dtype = torch.bfloat16,
) -> dict[str, Any]:
    """Figures of 'single', 'decode' or 'block' for x_rows rows of x, compiled for an sm_ number.

    instructions_per_weight: those of the inner loop over all threads, by weights it covers.
    """
    made = _compile(kernel, tile, x_rows, levels, group, capability, dtype)
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(made.asm['cubin'])
        file.flush()
        machine_code = _run('-sass', file.name)
        usage = _run('-res-usage', file.name)
    loop = _longest_loop(machine_code)
    step = min(packed_tiles.MAX_COLUMNS_STEP, triton.next_power_of_2(group))
    width = step * (1 if kernel == 'block' else tile.warps)
    weights = tile.rows * digits(levels) // tile.shares * width
    found = re.search(r'REG:(\d+) STACK:(\d+)', usage)
    assert found, usage
    return {
        'registers': int(found[1]),
        'spilled_bytes': int(found[2]),
        'shared_bytes': int(made.metadata.shared),
        'instructions_per_weight': round(len(loop) * 32 * tile.warps / weights, 2),
        'tensor_core_instructions': sum('MMA' in line for line in loop),
    }


def _compile(
    kernel: str,
    tile: packed_tiles.Tile,
    x_rows: int,
    levels: int,
    group: int,
    capability: int,
    dtype: torch.dtype,
) -> Any:
    real = '*' + _TYPES[dtype]
    step = min(packed_tiles.MAX_COLUMNS_STEP, triton.next_power_of_2(group))
    taken = digits(levels) // tile.shares
    function, how = {
        'single': (packed_single._single_kernel, spread.pairs(levels, dtype)),
        'decode': (packed_decode._decode_kernel, spread.codes(levels, dtype)),
        'block': (packed_block._block_kernel, spread.weights(levels, dtype, taken)),
    }[kernel]
    types = dict.fromkeys(['x_ptr', 'scale_ptr', 'shift_ptr'], real)
    types |= {'data_ptr': '*u8', 'terms_ptr': '*fp32'}
    constants = {
        'LEVELS': levels,
        'DIGITS': digits(levels),
        'GROUP': group,
        'STEP': step,
        'STEPS_PER_GROUP': triton.cdiv(group, step),
        'ASSEMBLY': how.assembly,
        'CONSTRAINTS': how.constraints,
        'OFFSET': how.offset,
        'FACTORS': how.factors,
        'ROWS': tile.rows,
        'STAGES': tile.stages,
        'SEGMENTS': tile.warps,
        'X_ROWS': x_rows,
        'TAKEN': taken,
        'PLACES': triton.next_power_of_2(digits(levels)),
        'SLOTS': packed_single.COLUMNS,
        'ROUNDS': packed_single.COLUMNS,
        'AHEAD': tile.shares > 1,
        'EVEN': True,
        'OVERLAP': int(capability >= 90),
    }
    names = function.arg_names
    constants = {name: value for name, value in constants.items() if name in names}
    signature = {name: types.get(name, 'i32') for name in names}
    signature |= dict.fromkeys(constants, 'constexpr')
    aligned = [
        i for i, n in enumerate(names) if n in types or n in ('columns', 'groups', 'byte_rows')
    ]
    source = ASTSource(
        function, signature, constants, {(i,): [['tt.divisibility', 16]] for i in aligned}
    )
    return triton.compile(
        source, target=GPUTarget('cuda', capability, 32), options={'num_warps': tile.warps}
    )


def _run(option: str, file: str) -> str:
    done = subprocess.run(
        [os.fspath(_TOOL), option, file], check=True, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def _longest_loop(machine_code: str) -> list[str]:
    """Instructions between the target of the farthest backward branch and the branch."""
    lines = [(int(at, 16), text) for at, text in _LINE.findall(machine_code)]
    best: list[str] = []
    for at, text in lines:
        branch = _BRANCH.search(text)
        if branch and (target := int(branch[1], 16)) < at:
            body = [line for place, line in lines if target <= place <= at]
            best = max(best, body, key=len)
    return best
