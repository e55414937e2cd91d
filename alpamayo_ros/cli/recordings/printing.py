"""Prints the summary of a replay: what was served, refused and measured, and how fast."""

from __future__ import annotations

from pathlib import Path

from ...json_types import Summary
from ...metrics.displacement import HORIZONS_S
from ...replay.summary import describe_truth, find_commonest_refusals


def print_summary(summary: Summary, out: Path) -> None:
    """Print what was served, refused and measured, how fast, and where it lies."""
    if counts := summary.get('items'):
        failed = f'; {counts["failed"]} failed, items.csv says why' if counts['failed'] else ''
        print(f'items    {counts["replayed"]} of {counts["items"]} replayed{failed}')
    for note in summary['bag_notes']:
        print(f'note     {note}')
    why = ', '.join(f'{name} {count}' for name, count in summary['reasons'].items())
    print(
        f'served   {summary["ok"]} of {summary["anchors"]} anchors '
        f'({100 * summary["valid_share"]:.1f} %){f"; without: {why}" if why else ""}'
    )
    for topic, (reason, count) in find_commonest_refusals(summary).items():
        example = summary['refused_for_example'][f'{topic}: {reason}']
        print(f'refused  {topic}: {reason} {count}, for example: {example}')
    if summary['truth']:
        print(f'truth    {describe_truth(summary["truth"])}')
    print(f'error    {_describe_errors(summary)}')
    total = summary['ms'].get('total')
    time = f'p50 {total["p50"]:.4g}, p90 {total["p90"]:.4g} ms per context' if total else 'none'
    missed = [name for name, found in summary['thresholds'].items() if not found['pass']]
    print(f'time     {time}{"; missed: " + ", ".join(missed) if missed else ""}')
    print(f'report   {out / "report.html"}')
    if 'items' not in summary:
        print(f'bag      {out / "prediction"}')


def _describe_errors(summary: Summary) -> str:
    longest_s = summary['longest_horizon_s']
    horizon = f'{longest_s or 0:.1f}'
    errors, base = summary['horizons'].get(horizon), summary['baseline'].get(horizon)
    if not (errors and base):
        return 'not measured: ' + _explain_unmeasured(summary)
    ade, fde, base_ade, base_fde = (
        x['mean'] for x in (errors['ade_m'], errors['fde_m'], base['ade_m'], base['fde_m'])
    )
    text = (
        f'ADE {ade:.2f} m, FDE {fde:.2f} m at {longest_s:g} s '
        f'(constant velocity {base_ade:.2f} m, {base_fde:.2f} m)'
    )
    if summary['provenance']['engine'].get('untrained'):
        return f'{text}: untrained weights, the path means nothing'
    return text


def _explain_unmeasured(summary: Summary) -> str:
    truth = summary['truth']
    if not summary['ok'] or not truth:
        return 'no prediction with a driven path behind it'
    if not truth['expected']:
        return f'no odometry was recorded {HORIZONS_S[0]:g} s after a prediction or later'
    return f'odometry goes on behind {truth["expected"]} predictions, but is no truth'
