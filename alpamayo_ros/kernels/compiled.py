"""Counts registers and instructions of kernels compiled for any GPU; measures no times.

Registers, spills, shared memory and instructions, from the machine code that Triton makes. Knows
no device.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
from pathlib import Path
import re
import subprocess
import tempfile
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .gpu import Gpu
from .hopper import overlap_level
from .packed_products import ProductSizes, Tile, plan_launch
from .packing import count_digits

_TOOL = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
_TYPES = {torch.bfloat16: '*bf16', torch.float16: '*fp16'}
_LINE = re.compile(r'/\*([0-9a-f]{4,})\*/\s+(.*?);')
_BRANCH = re.compile(r'BRA.*?0x([0-9a-f]+)')


class KernelCounts(NamedTuple):
    """What a kernel takes; instructions are machine instructions, those of `loop` in it as well.

    registers: of a thread. spilled_bytes: a thread's stack. shared_bytes: of a block.
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int
    instructions: int
    loop_instructions: int
    tensor_core_instructions: int


def compile_kernel(
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    gpu: Gpu,
    num_warps: int = 4,
    aligned: tuple[str, ...] = (),
) -> KernelCounts:
    """Compile a Triton kernel for a GPU and count.

    types: of the arguments that are not int32 ('*bf16', 'fp32' ...). aligned: integer arguments
    that are multiples of 16, as pointers are.
    """
    constants = {n: v for n, v in constants.items() if n in kernel.arg_names}
    if 'OVERLAP' in kernel.arg_names:
        constants['OVERLAP'] = overlap_level(gpu)
    signature = {name: types.get(name, 'i32') for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, 'constexpr')
    multiples = {
        (i,): [['tt.divisibility', 16]]
        for i, name in enumerate(kernel.arg_names)
        if signature[name].startswith('*') or name in aligned
    }
    major, minor = gpu.capability
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, multiples),
        target=GPUTarget('cuda', 10 * major + minor, 32),
        options={'num_warps': num_warps},
    )
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        lines = _machine_code(file.name)
        usage = re.search(r'REG:(\d+) STACK:(\d+)', _run_tool('-res-usage', file.name))
    assert usage, 'cuobjdump printed no resource usage'
    loop = _longest_loop(lines)
    return KernelCounts(
        int(usage[1]),
        int(usage[2]),
        int(compiled.metadata.shared),
        len(lines),
        len(loop),
        sum('MMA' in text for text in loop),
    )


class ProductCounts(NamedTuple):
    """The tile that a GPU takes for a product, and what its kernel takes.

    instructions_per_weight: of all threads of the whole kernel, rounds of the inner loop counted,
    by the weights of the product; loop_instructions_per_weight: those of the loop alone.
    """

    tile: Tile
    kernel: KernelCounts
    instructions_per_weight: float
    loop_instructions_per_weight: float


def count_product(
    sizes: ProductSizes, gpu: Gpu, dtype: torch.dtype = torch.bfloat16, tile: Tile | None = None
) -> ProductCounts:
    """Compile a product of x with packed matrices as `packed_products.multiply` launches it."""
    plan = plan_launch(sizes, dtype, gpu, tile)
    types = dict.fromkeys(['x_ptr', 'scale_ptr', 'shift_ptr'], _TYPES[dtype])
    types |= {'data_ptr': '*i8' if sizes.levels == 256 else '*u8'}
    types |= {'terms_ptr': '*fp32' if plan.tile.splits > 1 else _TYPES[dtype]}
    constants = plan.constants | ({'shift_ptr': None} if sizes.levels == 256 else {})
    aligned = 'columns', 'byte_rows'
    counts = compile_kernel(plan.kernel, types, constants, gpu, plan.tile.warps, aligned)
    blocks = 1
    for count in plan.grid:
        blocks *= count
    weights = sizes.byte_rows * count_digits(sizes.levels) * sizes.columns
    each = 32 * plan.tile.warps * blocks / weights
    in_loop = counts.loop_instructions * plan.rounds
    outside = counts.instructions - counts.loop_instructions
    return ProductCounts(
        plan.tile, counts, round((in_loop + outside) * each, 2), round(in_loop * each, 2)
    )


def _run_tool(option: str, file: str) -> str:
    done = subprocess.run(
        [os.fspath(_TOOL), option, file], check=True, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def _machine_code(file: str) -> dict[int, str]:
    """Instructions by address, without the jump to itself and what fills up the end."""
    lines = {int(at, 16): text for at, text in _LINE.findall(_run_tool('-sass', file))}
    return {at: text for at, text in lines.items() if text.strip() != 'NOP'}


def _longest_loop(lines: Mapping[int, str]) -> list[str]:
    """Instructions between the target of the farthest backward branch and the branch."""
    longest: list[str] = []
    for at, text in lines.items():
        branch = _BRANCH.search(text)
        if branch and (target := int(branch[1], 16)) < at:
            body = [line for place, line in lines.items() if target <= place <= at]
            longest = max(longest, body, key=len)
    return longest
