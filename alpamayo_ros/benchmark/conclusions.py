"""Concludes from the cases of a benchmark: ratios, fractions of peaks, estimates for boards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import boards, roofline


def conclude(
    found: dict[str, Any],
    names: Sequence[str],
    kind: str,
    samples: Sequence[int],
    slice_of: int | None,
) -> str:
    """Add ratios between cases, and fractions of the device's peaks or estimates for boards.

    found: figures by name of a model and title of a case. names: the measured model, then those
    that it is compared with. kind: 'recorded' or 'eager': the cases of the measured model.
    slice_of: multiprocessors of the slice, None without one. Returns what could not be concluded
    and why, else ''.
    """
    main = found[names[0]]
    base = main.get(f'{kind} K={samples[0]}')
    if base is None:
        return ''
    ratios = {
        f'K={k} over K={samples[0]}': round(more['end_to_end'] / base['end_to_end'], 3)
        for k in samples[1:]
        if (more := main.get(f'{kind} K={k}'))
    }
    if guided := main.get(f'{kind} K={samples[0]} guided'):
        ratio = guided['end_to_end'] / base['end_to_end']
        ratios['guided over not guided'] = round(ratio, 3)
    for other in names[1:]:
        if recorded := found[other].get(f'recorded K={samples[0]}'):
            before = [case['vision'] + case['prefill'] for case in (base, recorded)]
            ratios[f'vision and prefill over {other} recorded'] = round(before[0] / before[1], 3)
        if eager := found[other].get(f'eager K={samples[0]}'):
            for key in ('end_to_end', 'sum_of_stages'):
                ratios[f'{other} eager over it, {key}'] = round(eager[key] / base[key], 2)
            before = [case['vision'] + case['prefill'] for case in (base, eager)]
            ratios[f'vision and prefill over {other} eager'] = round(before[0] / before[1], 3)
        if 'linears' in main:
            for stage, ms in found[other].get('linears', {}).items():
                ratios[f'{stage} of {other} over it'] = round(ms / main['linears'][stage], 2)
    found['ratios'] = ratios
    return _estimate(found, main, base, slice_of)


def _estimate(
    found: dict[str, Any], main: Mapping[str, Any], base: Mapping[str, Any], slice_of: int | None
) -> str:
    """Add estimates for boards where a slice was measured, else fractions of the peaks."""
    if slice_of is not None and main.keys() >= {'work', 'one_image'}:
        measured = boards.Slice(slice_of, *found['clocks'])
        found['boards'] = boards.estimate_boards(base, main['work'], main['one_image'], measured)
        found['boards']['assumptions'] = boards.ASSUMPTIONS
    elif found['device'] in roofline.PEAKS:
        peak = roofline.PEAKS[found['device']]
        found['of the peak'] = roofline.measure_fractions(main['work'], base, peak)
    else:
        known = ', '.join(roofline.PEAKS)
        return f'{found["device"]}: no fractions of the peak, which is known of: {known}'
    return ''
