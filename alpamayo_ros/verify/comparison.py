"""Rows of a comparison with reference values, and the reading of reference files.

Knows no stage and no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any
import zipfile

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput


@dataclass(frozen=True)
class ComparisonRow:
    """One line of the comparison. error is absolute; None means not checked, and note says why."""

    stage: str
    what: str
    error: float | None
    tolerance: float
    note: str = ''

    @property
    def passed(self) -> bool:
        """Whether the row holds; a row that was not checked does not fail."""
        return self.error is None or self.error <= self.tolerance


Fields = Mapping[str, np.ndarray]


def compare(
    stage: str, what: str, got: Tensor | np.ndarray, fields: Fields, key: str, tolerance: float
) -> ComparisonRow:
    """Largest absolute difference between `got` and the reference field `key`."""
    if key not in fields:
        return ComparisonRow(stage, what, None, tolerance, f'the file has no {key}')
    want = np.asarray(fields[key])
    have = got.detach().cpu().numpy() if isinstance(got, Tensor) else np.asarray(got)
    if have.shape != want.shape:
        return ComparisonRow(
            stage, what, np.inf, tolerance, f'shape {have.shape}, expected {want.shape}'
        )
    if have.size == 0:
        return ComparisonRow(stage, what, 0.0, tolerance)
    difference = np.abs(have.astype(np.float64) - want.astype(np.float64))
    return ComparisonRow(
        stage, what, float(np.nan_to_num(difference, nan=np.inf).max()), tolerance
    )


def compare_exactly(stage: str, what: str, holds: bool, note: str = '') -> ComparisonRow:
    """A row for things that are equal or not."""
    return ComparisonRow(stage, what, 0.0 if holds else np.inf, 0.0, '' if holds else note)


def read_fields(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file, without pickle."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BadInput(f'{path}: not a readable npz file: {error}') from None


def read_table(path: Path) -> Any:
    """A JSON value."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise BadInput(f'{path}: not readable as JSON: {error}') from None


def tensors(fields: Fields, *names: str) -> list[Tensor]:
    """Fields as tensors."""
    return [torch.from_numpy(np.ascontiguousarray(fields[name])) for name in names]
