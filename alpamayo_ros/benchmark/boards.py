"""Estimates the times of boards that are not at hand from times on a slice of a GPU.

A slice is a part of a large GPU with as many multiprocessors as the board. Its memory is that of
the large GPU, so the estimate of a stage is the larger of its cycles and its bytes. Figures of
boards are the makers'. Every result is an estimate, never a measurement. Knows no device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .full_size import FLOW_STEPS, IMAGES, REASONING_TOKENS

# Bytes per second that kernels reach of the makers' figure: copies reach about 80 %.
MEMORY_SHARE = 0.8
# Dense bf16 operations of a multiprocessor per cycle: 1024 multiply-adds since Ampere, 2048 on
# Hopper. Matrix products of the library are bound by them.
TENSOR_FLOPS_PER_CYCLE = 2048
HOPPER_FLOPS_PER_CYCLE = 4096
ASSUMPTIONS = (
    'Estimate, not measured: a stage takes the larger of the cycles that it took on a slice of 8 '
    'multiprocessors and of its bytes at 80 % of the bandwidth. Vision and prefill take twice the '
    'cycles, as Hopper has twice the tensor rate. Images take the cycles of one core of the host.'
)


@dataclass(frozen=True)
class Board:
    """A board in one power mode; source: where the figures come from."""

    name: str
    multiprocessors: int
    clock_mhz: float
    bytes_per_s: float
    cpu_cores: int
    cpu_mhz: float
    source: str


_NANO = 'NVIDIA, Jetson Orin Nano Super; clocks of nvpmodel in JetPack 6.2 as users report them'
BOARDS = (
    Board('Orin Nano 8 GB, 15 W', 8, 612, 68e9, 6, 1510, _NANO),
    Board('Orin Nano 8 GB, 25 W', 8, 918, 102e9, 6, 1344, _NANO),
    Board('Orin Nano 8 GB, MAXN_SUPER', 8, 1020, 102e9, 6, 1728, _NANO),
    Board('Orin NX 16 GB, 25 W', 8, 918, 102e9, 8, 1984, 'NVIDIA, data sheet of Jetson Orin NX'),
    Board(
        'AGX Orin 64 GB, MAXN', 16, 1300, 204e9, 12, 2200, 'NVIDIA, data sheet of Jetson AGX Orin'
    ),
)


@dataclass(frozen=True)
class Slice:
    """Multiprocessors and clock of the slice that was measured, and the clock of its host."""

    multiprocessors: int
    clock_mhz: float
    cpu_mhz: float


@dataclass(frozen=True)
class StageWork:
    """What a stage took on a slice, and what it moves.

    is_tensor_bound: library products at Hopper's own tensor rate make up its time.
    """

    slice_ms: float
    bytes: float
    is_tensor_bound: bool = False


def scale_stage(work: StageWork, measured: Slice, board: Board) -> float:
    """Milliseconds of a stage on a board: the larger of its cycles and its bytes."""
    cycles = work.slice_ms * 1e3 * measured.clock_mhz * measured.multiprocessors
    if work.is_tensor_bound:
        cycles *= HOPPER_FLOPS_PER_CYCLE / TENSOR_FLOPS_PER_CYCLE
    compute_ms = cycles / (board.clock_mhz * board.multiprocessors) / 1e3
    memory_ms = work.bytes / (MEMORY_SHARE * board.bytes_per_s) * 1e3
    return max(compute_ms, memory_ms)


def scale_images(core_ms: float, measured: Slice, board: Board) -> float:
    """Milliseconds of all images on the cores of a board, scaled from one core of the host."""
    return core_ms * measured.cpu_mhz / board.cpu_mhz / board.cpu_cores


def estimate_boards(
    figures: Mapping[str, float],
    work: Mapping[str, Mapping[str, float]],
    image_ms: float,
    measured: Slice,
) -> dict[str, dict[str, float]]:
    """Estimate every board from the figures of `engine.measure` on a slice and its work.

    image_ms: of one frame on one core of the host. `figures` may say how many frames, tokens and
    flow steps an inference has; a prompt without reasoning has its marker. With drafts, passes
    that verify several tokens take the place of single ones, and read as many bytes.
    """
    words = 'draft_pass' if 'draft_pass' in figures else 'token'
    moved = {**work, 'draft_pass': work['token']}
    stages = {
        name: StageWork(figures[name], moved[name]['bytes'], name in ('vision', 'prefill'))
        for name in ('vision', 'prefill', words, 'flow_step')
    }
    passes = max(figures.get('tokens', REASONING_TOKENS), 1) / figures.get('tokens_per_pass', 1)
    counts = {words: passes, 'flow_step': figures.get('flow_steps', FLOW_STEPS)}
    core_ms = figures.get('frames', IMAGES) * image_ms
    return {
        board.name: estimate_board(stages, core_ms, counts, measured, board) for board in BOARDS
    }


def estimate_board(
    stages: Mapping[str, StageWork],
    image_core_ms: float,
    counts: Mapping[str, float],
    measured: Slice,
    board: Board,
) -> dict[str, float]:
    """Milliseconds of each stage on a board, and `in_all` of one inference with its images.

    counts: how often an inference runs a stage; once where it is absent.
    """
    table = {'images': scale_images(image_core_ms, measured, board)}
    table |= {name: scale_stage(work, measured, board) for name, work in stages.items()}
    table['in_all'] = sum(ms * counts.get(name, 1) for name, ms in table.items())
    return {name: round(ms, 1) for name, ms in table.items()}
