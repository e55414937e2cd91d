"""alpamayo_quantize: packs a checkpoint at few bits, tensor by tensor."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..data_types import Context
from ..errors import BadInput
from ..files import refuse_existing, write_atomically
from .entry import command

if TYPE_CHECKING:
    from ..conversion.calibrate import Calibration
    from ..conversion.lessons import Curriculum
    from ..conversion.plan import QuantizationPlan

MOMENTS = 96  # of all drives together that a calibration learns from and is measured on
UNCALIBRATED = (
    'without --drive BAG --rig RIG nothing is calibrated: at 2 bits the path of the small '
    'checkpoint is then 2.3 times as far off as with 16 bits'
)


@command
def main(argv: list[str] | None = None) -> int:
    """Write a quantized copy of a checkpoint, with tokenizer and a report of the errors.

    With --drive it is calibrated: it learns to answer as the 16 bits do at moments of these
    drives. An interrupted run goes on where it was when it is started again with the same
    arguments.
    """
    arguments = _parse(argv)
    # imported here: --help should not wait for torch
    from ..conversion.calibrate_release import fit_release, hash_contexts
    from ..conversion.plan import plan_quantization
    from ..conversion.quantize import quantize_checkpoint
    from ..hub import resolve_checkpoint, resolve_vlm
    from ..quantization.scheme import FITTED, choose_recipe
    from ..report.quantization_page import PAGE, render

    refuse_existing(arguments.target)
    source = resolve_checkpoint(arguments.source)
    vlm = resolve_vlm(arguments.vlm) if arguments.vlm else None
    contexts = _draw_contexts(arguments)
    if not contexts and arguments.bits <= 2:
        print(UNCALIBRATED, file=sys.stderr)
    size = sum(file.stat().st_size for file in source.glob('*.safetensors'))
    lessons, rules = None, None
    if arguments.recipe == FITTED:
        lessons = _speak(source, arguments.device, contexts)
        with _bar('measure widths', len(lessons.learned), 't0') as bar:
            budget = arguments.bits_per_weight
            rules = fit_release(source, arguments.device, lessons, budget, bar.update)
    with _bar('check', size, 'B') as bar:
        job = plan_quantization(
            source,
            arguments.target,
            arguments.recipe or choose_recipe(arguments.bits, bool(contexts)),
            arguments.bits,
            arguments.solver,
            arguments.device,
            lambda what, read: bar.update(read),
            hash_contexts(contexts) if contexts else '',
            rules,
        )
    calibration = _calibrate(job, vlm, contexts, lessons) if contexts else None
    total = sum(step.read_bytes for part in job.parts for step in part)
    with _bar('write' if contexts else 'quantize', total, 'B') as bar:

        def progress(what: str, read: int) -> None:
            bar.set_postfix_str(what[-40:], refresh=False)
            bar.update(read)

        report = quantize_checkpoint(job, vlm, progress, calibration)
    write_atomically(arguments.target / PAGE, render(report))
    _print(report)
    stored = report['bytes']
    print(f'{arguments.target}: {stored / 1e6:.1f} MB from {size / 1e6:.1f} MB, see {PAGE}')
    if not (arguments.target / 'vlm').is_dir():
        print('no vlm/ was found to copy: give --vlm DIR_OR_ID, or a network is needed to run it')
    return 0


def _draw_contexts(arguments: argparse.Namespace) -> list[Context]:
    """Contexts of all drives; none without --drive. BadInput for options that lack another."""
    is_fitted = arguments.recipe == 'fitted'
    if is_fitted != (arguments.bits_per_weight is not None) or (
        is_fitted and (arguments.bits != 2 or not arguments.drive)
    ):
        raise BadInput('expected --recipe fitted, --bits 2, --bits-per-weight B and --drive BAG')
    if not arguments.drive and not arguments.rig:
        return []
    if not arguments.drive or not arguments.rig:
        raise BadInput('expected --drive BAG and --rig RIG together')
    from ..replay.drawn_contexts import draw_contexts
    from ..rig import load_rig

    rig = load_rig(arguments.rig)
    with _bar('contexts', MOMENTS, 't0') as bar:
        return draw_contexts(arguments.drive, rig, MOMENTS, bar.update)


def _speak(source: Path, device: str, contexts: Sequence[Context]) -> Curriculum:
    from ..conversion.answers import count_spoken
    from ..conversion.calibrate_release import speak

    with _bar('speak', count_spoken(len(contexts)), 't0') as bar:
        return speak(source, device, contexts, bar.update)


def _calibrate(
    job: QuantizationPlan, vlm: Path | None, contexts: Sequence[Context], spoken: Curriculum | None
) -> Calibration:
    from ..conversion.calibrate_release import calibrate_release, keep_lessons, load_source

    lessons = keep_lessons(job, vlm, lambda: spoken or _speak(job.source, job.device, contexts))
    source, steps = load_source(job, lessons)
    with _bar('calibrate', steps, 'step') as bar:

        def advance(what: str) -> None:
            bar.set_postfix_str(what[-60:], refresh=False)
            bar.update()

        return calibrate_release(job, source, lessons, advance)


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
        help='uniform, mixed, mixed_expert4, mixed_attention4, mixed_path4 or fitted (default: '
        'mixed; with --drive at 2 bits mixed_path4)',
    )
    add(
        '--bits-per-weight',
        metavar='B',
        type=float,
        help='of everything that is stored, for the recipe fitted: widths of 2, 4 and 8 bits by '
        'what they cost on the drives',
    )
    add(
        '--drive',
        metavar='BAG',
        type=Path,
        action='append',
        default=[],
        help='a recorded drive to calibrate on; give the option once for each',
    )
    add('--rig', metavar='RIG', help='rig of the drives, by name or path')
    add('--solver', default='mse', help='mse (default), hqq or minmax; not with --drive')
    add('--device', default='cpu', help='cpu (default), cuda or cuda:N: where the work is done')
    add('--vlm', metavar='DIR_OR_ID', help='whose tokenizer, templates and config go to DST/vlm')
    return parser.parse_args(argv)


def _bar(what: str, total: int, unit: str) -> Any:
    return tqdm(
        desc=what,
        total=total,
        unit=unit,
        unit_scale=unit == 'B',
        unit_divisor=1000,
        dynamic_ncols=True,
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
