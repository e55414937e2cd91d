"""report.html: one self-contained page from a summary and finished pictures.

Knows no bag, no record and no plotting; what comes from messages or checkpoints is escaped. No
script and nothing to load from elsewhere. Colours are those of `plots.py`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ..json_types import Line, Summary
from . import plots
from .style import STYLE

LEGEND = (
    (plots.CHOSEN, 'chosen sample'),
    (plots.SAMPLE, 'other samples'),
    (plots.DRIVEN, 'driven'),
    (plots.BASELINE, 'constant velocity'),
    (plots.HISTORY, 'history'),
)
ROWS = (  # title, unit factor, metric of the chosen sample, of the best one, digits
    ('ADE [m]', 1.0, 'ade_m', 'min_ade_m', 2),
    ('FDE [m]', 1.0, 'fde_m', 'min_fde_m', 2),
    ('lateral error at the horizon, absolute [m]', 1.0, 'lat_m', None, 2),
    ('longitudinal error at the horizon, absolute [m]', 1.0, 'lon_m', None, 2),
    ('heading error at the horizon, absolute [°]', 57.29578, 'heading_rad', None, 1),
)


@dataclass(frozen=True)
class CaseView:
    """One t0 of the report: its line, what its front image shows and its two plots (PNG)."""

    line: Line
    seconds: float
    image_jpeg: bytes | None
    image_note: str
    above_png: bytes
    dynamics_png: bytes


def render(
    summary: Summary,
    overview: Mapping[str, bytes],
    cases: Sequence[CaseView],
    details: dict[str, str],
) -> str:
    """The page. overview: caption to PNG; details: one example sentence per reason."""
    run = summary['provenance']
    parts = [
        _head(summary, run),
        *(f'<p class="note">{escape(note)}</p>' for note in summary['notes']),
        _tiles(summary),
        _thresholds(summary),
        '<h2>Against the driven path</h2>',
        _metrics(summary, run['parameters']['samples']),
        '<h2>Over the drive</h2><div class="plots">',
        *(
            f'<div class="card"><h3>{escape(k)}</h3>{image(v, k)}</div>'
            for k, v in overview.items()
        ),
        '</div>',
        _case_section(summary, cases),
        _reasons(summary, details),
        _times(summary),
        _provenance(run),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(_title(run))}</title><style>{STYLE}</style></head>'
        f'<body><main>{"".join(parts)}</main></body></html>\n'
    )


def _head(summary: Summary, run: Mapping[str, Any]) -> str:
    badge = ''
    if summary['thresholds'] or not summary['pass']:
        word, text = ('good', 'pass') if summary['pass'] else ('bad', 'fail')
        badge = f'<span class="badge {word}">{text}</span>'
    engine, rig = run['engine'], run['rig']
    model = engine.get('checkpoint') or engine['engine']
    line = (
        f'{model} on {run["parameters"]["device"]} · rig {rig["name"]} · '
        f'K = {run["parameters"]["samples"]} · seed {run["parameters"]["seed"]}'
    )
    return (
        f'<div class="head"><h1>{escape(_title(run))}</h1>{badge}</div>'
        f'<p class="soft">{escape(line)}</p>'
    )


def _title(run: Mapping[str, Any]) -> str:
    return f'{"Live run" if "anchors" in run else "Replay"} of {run["bag"]["name"]}'


def _others(summary: Summary) -> str:
    """What became of the anchors that were not served: a live node has counted that itself."""
    found = summary['provenance'].get('anchors', summary)
    names = ('dropped', 'rejected', 'discarded', 'failed')
    return ', '.join(f'{found[name]} {name}' for name in names if name in found)


def _tiles(summary: Summary) -> str:
    longest = summary['longest_horizon_s']
    tiles = [
        (
            'anchors served',
            f'{100 * summary["valid_share"]:.1f}<small> %</small>',
            f'{summary["ok"]} of {summary["anchors"]}; {_others(summary)}',
        )
    ]
    if longest is not None:
        found, base = (summary[x][f'{longest:.1f}'] for x in ('horizons', 'baseline'))
        for name, key in (('ADE', 'ade_m'), ('FDE', 'fde_m')):
            tiles.append(
                (
                    f'{name} at {longest:g} s',
                    f'{found[key]["mean"]:.2f}<small> m</small>',
                    f'constant velocity {base[key]["mean"]:.2f} m',
                )
            )
        if summary['provenance']['parameters']['samples'] > 1:
            best = found['min_ade_m']['mean']
            tiles.append(('minADE', f'{best:.2f}<small> m</small>', 'best sample of each t0'))
    if total := summary['ms'].get('total'):
        tiles.append(
            (
                'time per context',
                f'{total["p50"]:.4g}<small> ms</small>',
                f'p90 {total["p90"]:.4g} ms, max {total["max"]:.4g} ms',
            )
        )
    return '<div class="tiles">{}</div>'.format(
        ''.join(
            f'<div class="tile"><span class="soft">{name}</span><b>{value}</b>'
            f'<span class="soft">{text}</span></div>'
            for name, value, text in tiles
        )
    )


def _thresholds(summary: Summary) -> str:
    chips = []
    for name, found in summary['thresholds'].items():
        value = 'not measured' if found['value'] is None else f'{found["value"]:.4g}'
        word = 'good' if found['pass'] else 'bad'
        sign = '≥' if name.startswith('min') else '≤'
        chips.append(
            f'<span class="chip">{escape(name)} <b class="{word}">{value}</b> {sign} '
            f'{found["limit"]:g}</span>'
        )
    return f'<p style="margin-top:14px">{"".join(chips)}</p>' if chips else ''


def _metrics(summary: Summary, samples: int) -> str:
    names = list(summary['horizons'])
    counts = [found['ade_m']['n'] if (found := summary['horizons'][n]) else 0 for n in names]
    head = ''.join(
        f'<th>{name} s<br><small>n = {count}</small></th>'
        for name, count in zip(names, counts, strict=True)
    )
    rows = [f'<tr><th>mean <small>(p90)</small></th>{head}</tr>']
    for title, factor, key, best, digits in ROWS:
        rows.append(f'<tr class="group"><td colspan="{len(names) + 1}">{title}</td></tr>')
        sources = [('chosen sample', 'horizons', key)]
        if best and samples > 1:
            sources.append((f'best of {samples}', 'horizons', best))
        sources.append(('constant velocity', 'baseline', key))
        for label, source, metric in sources:
            cells = ''.join(_cell(summary[source][name], metric, factor, digits) for name in names)
            rows.append(f'<tr><td>{label}</td>{cells}</tr>')
    return f'<div class="card"><table>{"".join(rows)}</table></div>'


def _cell(found: Mapping[str, Any] | None, key: str, factor: float, digits: int) -> str:
    if not found:
        return '<td class="soft">–</td>'
    mean, p90 = factor * found[key]['mean'], factor * found[key]['p90']
    return f'<td>{mean:.{digits}f} <small>({p90:.{digits}f})</small></td>'


def _case_section(summary: Summary, cases: Sequence[CaseView]) -> str:
    if not cases:
        return ''
    hidden = summary['ok'] - len(cases)
    more = f' {hidden} more are not shown; results.csv lists them all.' if hidden else ''
    keys = ''.join(f'<span class="key" style="background:{c}"></span>{t}' for c, t in LEGEND)
    return (
        f'<h2>Cases, the worst first</h2><p class="soft">By ADE over the longest horizon that '
        f'truth reaches, at least 1 s apart.{more}</p><p>{keys}</p>' + ''.join(map(_case, cases))
    )


def _case(case: CaseView) -> str:
    line = case.line
    reached = [name for name, values in line['horizons'].items() if values]
    error = 'no truth'
    if reached:
        values, base = line['horizons'][reached[-1]], line['baseline'][reached[-1]]
        error = (
            f'ADE {values["ade_m"]:.2f} m, FDE {values["fde_m"]:.2f} m over {reached[-1]} s · '
            f'constant velocity {base["ade_m"]:.2f} m, {base["fde_m"]:.2f} m'
        )
    chips = ''.join(f'<span class="chip">{escape(name)}</span>' for name in line['checks'])
    said = line['text'] or (
        f'(never ended) {line["partial_text"]}' if line['partial_text'] else ''
    )
    quote = f'<blockquote>{escape(said)}</blockquote>' if said else ''
    view = (
        image(case.image_jpeg, 'front image with the predicted path', 'jpeg')
        if case.image_jpeg
        else f'<div class="missing soft">{escape(case.image_note)}</div>'
    )
    note = f'<p class="soft">{escape(case.image_note)}</p>' if case.image_jpeg else ''
    return (
        f'<div class="card case"><h3>{case.seconds:.2f} s <span class="soft">· t0 '
        f'{line["t0_ns"]} · v0 {line["v0_mps"]:.1f} m/s · {line["ms"]["total"]:.4g} ms</span></h3>'
        f'<p>{error}</p>{chips}{quote}<div class="views"><div>{view}{note}'
        f'{image(case.dynamics_png, "speed, acceleration, curvature")}</div>'
        f'<div class="above">{image(case.above_png, "paths from above")}</div></div></div>'
    )


def _reasons(summary: Summary, details: Mapping[str, str]) -> str:
    tables = ''
    for title, counts in (
        ('Anchors without a prediction', summary['reasons']),
        ('Messages that were refused', summary['refused_messages']),
        ('Checks of served contexts and predictions', summary['checks']),
    ):
        if counts:
            rows = [(name, count, details.get(name, '')) for name, count in counts.items()]
            tables += f'<h2>{title}</h2>' + words(('name', 'count', 'for example'), rows)
    return tables


def _times(summary: Summary) -> str:
    rows = [
        (stage, *(f'{found[x]:.4g}' for x in ('mean', 'p50', 'p90', 'max')))
        for stage, found in summary['ms'].items()
    ]
    return '<h2>Time per stage [ms]</h2>' + words(('stage', 'mean', 'p50', 'p90', 'max'), rows)


def _provenance(run: Mapping[str, Any]) -> str:
    rows = [
        (f'{part}: {key}', ', '.join(value) if isinstance(value, list) else value)
        for part, values in run.items()
        for key, value in (values.items() if isinstance(values, dict) else [('', values)])
    ]
    return '<h2>Provenance</h2>' + words(('what', 'value'), rows)


def words(head: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of words, escaped, its first line as head."""
    cells = ''.join(f'<th>{escape(name)}</th>' for name in head)
    body = ''.join(
        '<tr>' + ''.join(f'<td>{escape(str(x))}</td>' for x in row) + '</tr>' for row in rows
    )
    return f'<div class="card words"><table><tr>{cells}</tr>{body}</table></div>'


def image(data: bytes, text: str, kind: str = 'png') -> str:
    """A picture inside the page; text: what it shows."""
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{escape(text)}" src="data:image/{kind};base64,{encoded}">'
