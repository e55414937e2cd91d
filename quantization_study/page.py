"""Figures of the study as Markdown, between two marks of a document.

Run: `python -m quantization_study.page`.

The prose around them is written by hand. Knows no tensors.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
import sys
from typing import Any

from alpamayo_ros.cli.entry import command
from alpamayo_ros.errors import BadInput
from alpamayo_ros.files import write_atomically
from alpamayo_ros.files import read_json

DOCUMENT = Path('docs/two-bit-study.md')
RESULTS = Path('docs/results')
TABLES = (RESULTS / 'small-study.json', RESULTS / 'small-study-cpu.json')
SENSITIVITY = RESULTS / 'small-sensitivity.json'
_UNKNOWN = 'Groups of layers have not been quantized alone on this checkpoint yet.'
BEGIN, END = '<!-- figures: python -m quantization_study.page -->', '<!-- end of figures -->'
_COLUMNS = (
    'bits', 'recipe', 'method', 'bits per weight, full size', 'small model, MB', 'weight error',
    'KL, nats', 'velocity error', 'minADE_6, m', 'of 16 bits', 'marker, %', 'cause, %',
)  # fmt: skip


def render(tables: Iterable[Mapping[str, Any]], sensitivity: Mapping[str, Any] | None) -> str:
    """All tables, the last where it is known, and what they were made from."""
    lines: list[str] = []
    for table in tables:
        lines += [*_made_from(table['made_from']), '', *_rows(table), '']
    lines += [_UNKNOWN] if sensitivity is None else _groups(sensitivity)
    return '\n'.join([*lines, ''])


def insert(document: str, figures: str, where: Path) -> str:
    """The document with other figures between its marks; BadInput when these are not there."""
    if document.count(BEGIN) != 1 or document.count(END) != 1:
        raise BadInput(f'{where}: expected {BEGIN!r} and {END!r} once each')
    before, rest = document.split(BEGIN)
    return f'{before}{BEGIN}\n{figures}{END}{rest.split(END)[1]}'


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


def _groups(found: Mapping[str, Any]) -> Iterator[str]:
    recipe, measured = found['recipe'], found['sensitivity']
    widths = list(next(iter(measured.values())))
    yield (
        f'One group of layers at few bits, the rest at 16 (error feedback, held-out scenes, '
        f'checkpoint `{found["checkpoint_sha256"][:12]}`): '
        f'velocity error / KL. The last column is what a budget of {found["budget_bits"]:g} bits '
        f'per weight of the full size buys: {recipe["full_size_bits"]:.2f} bits, velocity error '
        f'{recipe["velocity_error"]:.3f}, KL {recipe["kl"]:.4f}.'
    )
    yield ''
    yield _line(['group', *(f'{bits} bits' for bits in widths), 'takes'])
    yield _line(['---', *['---:'] * (len(widths) + 1)])
    for name, own in measured.items():
        figures = [f'{own[x]["velocity_error"]:.3f} / {own[x]["kl"]:.4f}' for x in widths]
        yield _line([name, *figures, f'{recipe["widths"][name]:g}'])


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


@command
def main(argv: list[str] | None = None) -> int:
    """Put the figures of the study into its document."""
    parser = argparse.ArgumentParser(
        description=main.__doc__, prog='python -m quantization_study.page'
    )
    parser.add_argument('document', type=Path, nargs='?', default=DOCUMENT)
    parser.add_argument('--tables', type=Path, nargs='+', default=TABLES)
    parser.add_argument('--sensitivity', type=Path, default=SENSITIVITY)
    arguments = parser.parse_args(argv)
    known = arguments.sensitivity.is_file()
    sensitivity = read_json(arguments.sensitivity) if known else None
    figures = render(map(read_json, arguments.tables), sensitivity)
    try:
        document = arguments.document.read_text(encoding='utf-8')
    except OSError as error:
        raise BadInput(f'{arguments.document}: {error.strerror}') from None
    write_atomically(arguments.document, insert(document, figures, arguments.document))
    return 0


if __name__ == '__main__':
    sys.exit(main())
