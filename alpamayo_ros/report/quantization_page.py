"""quantization_report.html: one self-contained page from the report of a quantization.

The markup is templates/quantization.html.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from .templating import fill

PAGE = 'quantization_report.html'


def render(report: Mapping[str, Any]) -> str:
    """The page of a quantization_report.json."""
    modules = report['modules']
    largest = max((own['relative_error'] for own in modules.values()), default=0.0)
    return fill(
        'quantization.html',
        report=report,
        calibration=report.get('calibration'),
        widths=list(_sum_up_widths(modules)),
        modules=modules,
        largest=largest or 1.0,
        provenance=[
            (name, report[name]) for name in ('recipe', 'bits', 'solver', 'source_sha256')
        ],
    )


def _sum_up_widths(modules: Mapping[str, Any]) -> Iterator[tuple[str, int, str, str, str]]:
    """Yield width, layers, megabytes, mean and largest error."""
    by_width: dict[float, list[Any]] = defaultdict(list)
    for own in modules.values():
        by_width[own['bits']].append(own)
    for bits, own in sorted(by_width.items()):
        errors = [each['relative_error'] for each in own]
        size = sum(each['bytes'] for each in own)
        mean = sum(errors) / len(errors)
        yield f'{bits:g}', len(own), f'{size / 1e6:.1f}', f'{mean:.3f}', f'{max(errors):.3f}'
