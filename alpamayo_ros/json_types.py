"""JSON objects that the programs write: lines and summary of a replay, table of an evaluation."""

from __future__ import annotations

from typing import Any

Line = dict[str, Any]
Summary = dict[str, Any]
Table = dict[str, Any]
