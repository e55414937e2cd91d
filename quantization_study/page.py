"""Figures of the study as Markdown; docs/tables.py puts them into docs/two-bit-study.md.

Knows no tensors and no document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path('docs/results')
TABLES = (RESULTS / 'small-study.json', RESULTS / 'small-study-cpu.json')
_COLUMNS = (
    'bits', 'recipe', 'method', 'bits per weight, full size', 'small model, MB', 'weight error',
    'KL, nats', 'velocity error', 'minADE_6, m', 'of 16 bits', 'marker, %', 'cause, %',
)  # fmt: skip


def render(tables: Iterable[Mapping[str, Any]]) -> str:
    """Write all tables, and what they were made from."""
    lines: list[str] = []
    for table in tables:
        lines += [*_made_from(table['made_from']), '', *_rows(table), '']
    return '\n'.join(lines)


def _made_from(about: Mapping[str, Any]) -> Iterator[str]:
    loop = about['loop']
    yield (
        f'Checkpoint `{about["checkpoint_sha256"][:12]}` of {about["parameters"]:,} parameters; '
        f'{loop["drives"]} drives of the {loop["split"]} split x {loop["moments"]} moments, '
        f'K = {loop["samples"]}, seed {loop["seed"]}, on {about["device"]}. In brackets: 95 % '
        f'intervals of a bootstrap over drives, paired for ratios.'
    )


def _rows(table: Mapping[str, Any]) -> Iterator[str]:
    yield _line(_COLUMNS)
    yield _line(['---'] * 3 + ['---:'] * (len(_COLUMNS) - 3))
    for row in table['rows'].values():
        yield _line([
            f'{row["bits"]:g}', row['recipe'], row['method'],
            f'{row["full_size_bits"]:.2f}', f'{row["bytes"] / 1e6:.2f}',
            f'{row["weight_error"]:.3f}', f'{row["kl"]:.4f}', f'{row["velocity_error"]:.3f}',
            _interval(row['min_ade_m'], 3), _interval(row['ratio'], 3),
            _percent(row['marker']), _percent(row['text']),
        ])  # fmt: skip


def _line(cells: Any) -> str:
    return f'| {" | ".join(cells)} |'


def _interval(figure: Mapping[str, float] | None, digits: int) -> str:
    if figure is None:
        return 'unknown'
    if figure['low'] is None:
        return f'{figure["mean"]:.{digits}f}'
    mean, low, high = (f'{figure[key]:.{digits}f}' for key in ('mean', 'low', 'high'))
    return f'{mean} ({low} to {high})'


def _percent(figure: Mapping[str, float] | None) -> str:
    return 'unknown' if figure is None else f'{100 * figure["mean"]:.1f}'
