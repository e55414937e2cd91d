"""Products of few rows with packed weights, in Triton: which kernel serves how many rows.

Weights are unpacked in registers and never stored. Knows no module.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .packed_block import block
from .packed_decode import MAX_ROWS, decode
from .packed_single import single


def path(x_rows: int) -> Callable[..., Tensor]:
    """The function that serves so many rows of x: its result are terms to be added up."""
    return single if x_rows == 1 else decode if x_rows <= MAX_ROWS else block
