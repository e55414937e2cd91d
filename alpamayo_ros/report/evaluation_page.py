"""evaluation.html: one self-contained page from a table and finished plots.

Knows no records and no plotting. No script and nothing to load from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..json_types import Table
from ..metrics.bootstrap import LEVEL
from ..metrics.evaluation import CLOSED, DISTANCES, LONGEST, OPEN, OTHERS, Metric
from .replay_page import image, words
from .style import STYLE

_KEY = f'min_ade_m_{LONGEST}s'


def render(table: Table, plots: Mapping[str, Mapping[str, bytes]]) -> str:
    """The page. plots: section ('open', 'groups' or 'closed') to caption to PNG."""
    rows, loop = table['rows'], table['loops'].get('open', {})
    parts = [
        _head(loop),
        *(f'<p class="note">{escape(note)}</p>' for note in table['notes']),
        _tiles(rows),
        '<h2>Against the expert</h2>',
        _explained(loop),
        _figures(rows, (*DISTANCES, *OTHERS)),
        _pictures(plots.get('open', {})),
        '<h2>As a multiple of 16 bits, on equal moments</h2>',
        _ratios(rows),
        '<h2>By scenario</h2>',
        _pictures(plots.get('groups', {})),
        *(_group(rows, group) for group in ('cause', 'weather')),
        *_closed_section(table, plots.get('closed', {})),
        _provenance(table),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>Evaluation of Alpamayo</title><style>{STYLE}</style></head>'
        f'<body><main>{"".join(parts)}</main></body></html>\n'
    )


def _head(loop: Mapping[str, Any]) -> str:
    line = (
        f'{loop.get("drives")} drives of the {loop.get("split")} split, {loop.get("seconds"):g} s '
        f'each, {loop.get("moments")} t0 of each · K = {loop.get("samples")} · '
        f'seed {loop.get("seed")}'
    ) if loop else ''  # fmt: skip
    return (
        '<div class="head"><h1>Evaluation in the synthetic world</h1></div>'
        f'<p class="soft">{escape(line)}</p>'
    )


def _explained(loop: Mapping[str, Any]) -> str:
    count = loop.get('samples', 'K')
    return (
        f'<p class="soft">Mean and {100 * LEVEL:.0f} % interval (bootstrap over drives). minADE_K:'
        f' the best of {count} samples over the whole horizon; minADE_1: one sample, on average; '
        'the chosen sample is the one that the node publishes. Lane and bodies: its path beside '
        'others that move as they do beside the expert.</p>'
    )


def _tiles(rows: Sequence[Mapping[str, Any]]) -> str:
    tiles = []
    for row in rows:
        found = row['open']['all'][_KEY]
        if row['kind'] == 'expert' or not found:
            continue
        ratio = (row['open']['ratio'] or {}).get(_KEY)
        text = f'{ratio["mean"]:.2f} times 16 bits' if ratio else ''
        tiles.append(
            f'<div class="tile"><span class="soft">{escape(row["name"])}</span>'
            f'<b>{found["mean"]:.2f}<small> m</small></b><span class="soft">{text}</span></div>'
        )
    return f'<h2>minADE_K at {float(LONGEST):g} s</h2><div class="tiles">{"".join(tiles)}</div>'


def _figures(rows: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]) -> str:
    """A table with a line for each metric and a column for each row of the study."""
    head = ''.join(f'<th>{escape(row["name"])}</th>' for row in rows)
    lines = [f'<tr><th></th>{head}</tr>']
    for metric in metrics:
        cells = ''.join(_cell(row['open']['all'][metric.key], metric) for row in rows)
        lines.append(f'<tr><td>{escape(metric.title)} [{metric.unit}]</td>{cells}</tr>')
    return f'<div class="card"><table>{"".join(lines)}</table></div>'


def _ratios(rows: Sequence[Mapping[str, Any]]) -> str:
    compared = [row for row in rows if row['open']['ratio'] and row['kind'] != 'reference']
    if not compared:
        return '<p class="soft">There is nothing to compare.</p>'
    head = ''.join(f'<th>{escape(row["name"])}</th>' for row in compared)
    lines = [f'<tr><th></th>{head}</tr>']
    for metric in DISTANCES:
        shown = Metric(metric.key, metric.title, '', 3)
        cells = ''.join(_cell(row['open']['ratio'][metric.key], shown) for row in compared)
        lines.append(f'<tr><td>{escape(metric.title)}</td>{cells}</tr>')
    return f'<div class="card"><table>{"".join(lines)}</table></div>'


def _group(rows: Sequence[Mapping[str, Any]], group: str) -> str:
    """minADE_K and the agreement of the sentence by cause or weather."""
    names = list(rows[0]['open'][group]) if rows else []
    shown = [metric for metric in OPEN if metric.key in (_KEY, 'off_lane', 'text')]
    tables = ''
    for metric in shown:
        head = ''.join(f'<th>{escape(row["name"])}</th>' for row in rows)
        lines = [f'<tr><th>{group}</th><th>n</th>{head}</tr>']
        for name in names:
            cells = ''.join(
                _cell(row['open'][group].get(name, {}).get(metric.key), metric) for row in rows
            )
            count = rows[0]['open'][group][name]['off_lane']['n']
            lines.append(f'<tr><td>{escape(name.replace("_", " "))}</td><td>{count}</td>{cells}')
        title = f'{metric.title} by {group} [{metric.unit}]'
        tables += (
            f'<details><summary>{escape(title)}</summary>'
            f'<div class="card"><table>{"".join(lines)}</table></div></details>'
        )
    return tables


def _closed_section(table: Table, plots: Mapping[str, bytes]) -> list[str]:
    rows = [row for row in table['rows'] if row['closed']]
    if not rows:
        return []
    loop = table['loops']['closed']
    policies = loop['policies']
    text = (
        f'{loop["drives"]} drives of {loop["seconds"]:g} s, K = {loop["samples"]}. The world '
        'steps along the latest path; a plan starts when the last one has ended, so a path is '
        'between one and two latencies old while it is followed (at 0 s there is a new one every '
        '0.5 s). '
        f'As in the node, on_invalid is {policies["on_invalid"]}, on_unhealthy_reasoning '
        f'{policies["on_unhealthy_reasoning"]}, expired_path {policies["expired_path"]}. Where '
        'no path is left the vehicle brakes.'
    )
    parts = ['<h2>Closed loop</h2>', f'<p class="soft">{escape(text)}</p>', _pictures(plots)]
    for row in rows:
        latencies = row['closed']
        head = ''.join(f'<th>{latency} s late</th>' for latency in latencies)
        lines = [f'<tr><th></th>{head}</tr>']
        for metric in CLOSED:
            cells = ''.join(_cell(found[metric.key], metric) for found in latencies.values())
            lines.append(f'<tr><td>{escape(metric.title)} [{metric.unit}]</td>{cells}</tr>')
        counts = {
            'held back': [_counts(found['held_back']) for found in latencies.values()],
            'faults': [_counts(found['faults']) for found in latencies.values()],
        }
        for title, found in counts.items():
            cells = ''.join(f'<td><small>{x}</small></td>' for x in found)
            lines.append(f'<tr><td>{title}</td>{cells}</tr>')
        parts.append(
            f'<h3 style="margin:18px 0 8px">{escape(row["name"])}</h3>'
            f'<div class="card"><table>{"".join(lines)}</table></div>'
        )
    return parts


def _counts(counts: Mapping[str, int]) -> str:
    shown = list(counts.items())[:6]
    return '<br>'.join(f'{escape(name.replace("_", " "))} {count}' for name, count in shown) or '–'


def _cell(figure: Mapping[str, Any] | None, metric: Metric) -> str:
    if figure is None:
        return '<td class="soft">–</td>'
    factor = 100.0 if metric.percent else 1.0
    mean, low, high = (f'{factor * figure[x]:.{metric.digits}f}' for x in ('mean', 'low', 'high'))
    return f'<td>{mean} <small>{low} … {high}</small></td>'


def _pictures(plots: Mapping[str, bytes]) -> str:
    cards = ''.join(
        f'<div class="card"><h3>{escape(title)}</h3>{image(png, title)}</div>'
        for title, png in plots.items()
    )
    return f'<div class="plots" style="margin-top:12px">{cards}</div>' if cards else ''


def _provenance(table: Table) -> str:
    lines = [
        (f'{row["name"]}: {key}', value)
        for row in table['rows']
        for key, value in row['planner'].items()
    ]
    lines += [
        (f'{kind} loop: {key}', value)
        for kind, loop in table['loops'].items()
        for key, value in loop.items()
    ]
    lines += [
        ('bootstrap', f'{table["bootstrap"]["rounds"]} rounds'),
        ('world_sha256', table['world_sha256']),
    ]
    return '<h2>Provenance</h2>' + words(('what', 'value'), lines)
