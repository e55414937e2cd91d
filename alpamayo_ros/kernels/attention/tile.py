"""How attention in Triton is cut into blocks, by the generation and the size of a GPU."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import triton

from ..gpu import Gpu
from ..hopper import is_hopper

MIN_KEYS_PER_SPLIT = 128


class AttentionTile(NamedTuple):
    """Query rows of a block, keys per inner step, parts of the keys, warps of a block."""

    rows: int
    keys: int
    splits: int
    warps: int


@cache
def choose_tile(rows: int, kv_heads: int, keys: int, gpu: Gpu) -> AttentionTile:
    """Cut attention of `rows` query rows for each of `kv_heads` (of all scenes) to `keys` keys.

    Before Hopper a block of 64 rows loads each key too often: 128 rows with 8 warps keep tensor
    cores busy, but fill the registers of a multiprocessor.
    """
    if rows <= 16:
        block, step, warps, resident = 16, 64, 4, 2
    elif is_hopper(gpu):
        block, step, warps, resident = 64, 32, 4, 2
    else:
        block, step, warps, resident = 128, 32, 8, 1
    blocks = kv_heads * triton.cdiv(rows, block)
    wanted = max(1, round(resident * gpu.multiprocessors / blocks))
    splits = min(wanted, triton.cdiv(keys, MIN_KEYS_PER_SPLIT))
    return AttentionTile(block, step, triton.next_power_of_2(splits), warps)
