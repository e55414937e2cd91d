"""Data of the table of items, which readers sort and filter in the page itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ItemsTable:
    """Columns as title and digits (None for a text); rows as link ('' for none) and values.

    sort_column: number of the column of the first order, the largest values first.
    """

    columns: Sequence[tuple[str, int | None]]
    rows: Sequence[Sequence[Any]]
    sort_column: int
