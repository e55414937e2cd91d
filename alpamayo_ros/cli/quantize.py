"""alpamayo_quantize: packs a checkpoint at few bits, tensor by tensor."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any

from tqdm import tqdm

from .entry import command


@command
def main(argv: list[str] | None = None) -> int:
    """Write a quantized copy of a checkpoint, with tokenizer and a report of the errors.

    An interrupted run goes on where it was when it is started again with the same arguments.
    """
    arguments = _parse(argv)
    # imported here: --help should not wait for torch
    from ..conversion.plan import plan_quantization
    from ..conversion.quantize import REPORT, quantize_checkpoint
    from ..hub import resolve_checkpoint, resolve_vlm
    from ..quantization.scheme import choose_recipe

    source = resolve_checkpoint(arguments.source)
    vlm = resolve_vlm(arguments.vlm) if arguments.vlm else None
    size = sum(file.stat().st_size for file in source.glob('*.safetensors'))
    with _bar('check', size) as bar:
        job = plan_quantization(
            source,
            arguments.target,
            arguments.recipe or choose_recipe(arguments.bits),
            arguments.bits,
            arguments.solver,
            arguments.device,
            lambda what, read: bar.update(read),
            arguments.importance,
        )
    with _bar('quantize', sum(step.read_bytes for part in job.parts for step in part)) as bar:

        def progress(what: str, read: int) -> None:
            bar.set_postfix_str(what[-40:], refresh=False)
            bar.update(read)

        report = quantize_checkpoint(job, vlm, progress)
    _print(report)
    stored = report['bytes']
    print(f'{arguments.target}: {stored / 1e6:.1f} MB from {size / 1e6:.1f} MB, see {REPORT}')
    if not (arguments.target / 'vlm').is_dir():
        print('no vlm/ was found to copy: give --vlm DIR_OR_ID, or a network is needed to run it')
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='alpamayo_quantize', description=main.__doc__)
    add = parser.add_argument
    add(
        'source',
        metavar='SRC',
        help='folder, name or hub id of a release, or of a quanto checkpoint',
    )
    add('target', metavar='DST', type=Path, help='new folder')
    add('--bits', type=float, required=True, help='16, 8, 4, 2 or 1.58: of most layers')
    add(
        '--recipe',
        help='uniform, mixed, mixed_expert4 or mixed_attention4 (default: '
        'the last at 2 bits, else mixed)',
    )
    add('--solver', default='mse', help='mse (default), hqq, minmax or feedback')
    add('--importance', metavar='FILE', type=Path, help='input statistics that weigh errors')
    add('--device', default='cpu', help='cpu (default), cuda or cuda:N: where scales are fitted')
    add('--vlm', metavar='DIR_OR_ID', help='whose tokenizer, templates and config go to DST/vlm')
    return parser.parse_args(argv)


def _bar(what: str, total: int) -> Any:
    return tqdm(
        desc=what, total=total, unit='B', unit_scale=True, unit_divisor=1000, dynamic_ncols=True
    )


def _print(report: dict[str, Any]) -> None:
    """A line for each width: how many layers, bytes, errors."""
    modules = report['modules'].values()
    for bits in sorted({module['bits'] for module in modules}):
        own = [module for module in modules if module['bits'] == bits]
        errors = [module['relative_error'] for module in own]
        print(
            f'{bits:g} bits: {len(own)} layers, {sum(m["bytes"] for m in own) / 1e6:.1f} MB, '
            f'relative error {sum(errors) / len(errors):.4f}, at most {max(errors):.4f}'
        )


if __name__ == '__main__':
    sys.exit(main())
