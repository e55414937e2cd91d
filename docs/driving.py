"""Tables of two states of small15 on validation, from docs/results/small15-validation.json.

A figure is [mean, low, high, n]; low and high are None where too few drives were measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Figure = Sequence[float | None] | None
Found = Mapping[str, Any]

_STATES = {'new': '`small15`', 'old': 'after its first run'}
_CLOSED = {
    'val-closed-0.5-retime': '`small15`, re-timed',
    'val-closed-0.5-plain': '`small15`',
    'val-closed-0.5-old': 'after its first run, re-timed',
    'val-closed-2-keep': '`small15`, re-timed',
    'val-closed-2-slow30': '`small15`, re-timed, trusted to 30 m',
    'val-closed-2-slow20': '`small15`, re-timed, trusted to 20 m',
}


def list_open_rows(found: Found) -> list[list[str]]:
    """Rows of the open loop, under their headings."""
    rows = [['', *_STATES.values()]]
    for title, key, digits, factor in (
        ('minADE_6, m', 'min_ade_m_6.4s', 2, 1),
        ('minADE_1, m', 'min_ade_1_m_6.4s', 2, 1),
        ('ADE of the medoid, m', 'ade_m_6.4s', 2, 1),
        ('leaves the lane, %', 'off_lane', 1, 100),
        ('leaves the lane, in bends, %', 'off_lane_bend', 0, 100),
        ('`sample_choice: mean`: ADE, m', 'mean_ade_m_6.4s', 2, 1),
        ('`sample_choice: mean`: leaves the lane, %', 'mean_off_lane', 1, 100),
        ('names the cause, %', 'text', 1, 100),
    ):
        parts = (found['parts'][f'val-open-{state}'] for state in _STATES)
        rows.append([title, *(_show(part[key], digits, factor) for part in parts)])
    for title, key in (
        ("edited pictures: plans that change as the expert's, %", 'follows'),
        ('edited pictures: sentences that name what is gone, %', 'still_names'),
    ):
        parts = (found['parts'][f'val-edit-{state}'] for state in _STATES)
        rows.append([title, *(f'{_show(x[key], 1, 100)} of {x[key][3]}' for x in parts)])
    return rows


def list_closed_rows(found: Found) -> list[list[str]]:
    """Rows of the closed loop, under their headings; late plans in seconds."""
    headings = ['row', 'late, s', 'drives', 'score', 'progress', 'clean, %', 'comfort, %']
    headings += ['red lights run', 'pedestrians not yielded to']
    rows = [headings]
    for name, title in _CLOSED.items():
        part = found['parts'][name]
        rows.append([
            title,
            f'{part["late"]:g}',
            f'{part["drives"]}',
            _show(part['score'], 1),
            _show(part['progress'], 2),
            _show(part['clean'], 0, 100),
            _show(part['comfort'], 0, 100),
            *(_count(part['occasions'][x]) for x in ('red lights', 'pedestrians')),
        ])  # fmt: skip
    return rows


def _show(figure: Figure, digits: int, factor: float = 1.0) -> str:
    """Mean and interval, or '' where nothing was measured."""
    if figure is None or figure[0] is None:
        return ''
    mean, *bounds = (None if x is None else f'{factor * x:.{digits}f}' for x in figure[:3])
    return f'{mean} ({bounds[0]} to {bounds[1]})' if None not in bounds else f'{mean}'


def _count(pair: Iterable[int]) -> str:
    broken, met = pair
    return f'{broken} of {met}'
