"""alpamayo_evaluate: measures how a checkpoint drives held-out drives of the synthetic world.

Arguments, progress and printing only. Settings are composed by hydra.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import fields
import functools
from itertools import product
import json
import os
from pathlib import Path
import sys
from typing import Any

import hydra
from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from ..drives import evaluation as study
from ..drives import parts
from ..drives.rebuild import rebuild_results
from ..drives.rows import EvaluationRow, make_rows
from ..drives.settings import EvaluationSettings, check_settings
from ..errors import BadInput
from ..json_types import Figure, Table
from ..metrics.evaluation import LONGEST_HORIZON
from .entry import command

_CONFIG = 'evaluate'
_OF_HYDRA, _SWEEPER = ('hydra/', 'hydra.'), 'hydra/sweeper'
# Lines of hydra's errors that are left out.
_BESIDES = ('full_key:', 'object_type=', 'reference_type=', 'See https:')


@command
def main(argv: list[str] | None = None) -> int:
    """Evaluate a checkpoint: 0 done, 2 bad input. Parts that `out` already has are kept."""
    arguments = _parse_arguments(argv)
    of_hydra = [text for text in arguments.override if text.startswith(_OF_HYDRA)]
    own = [text for text in arguments.override if text not in of_hydra]
    _require_settings(own)
    jobs: list[EvaluationSettings] = []
    if not any(text.startswith(_SWEEPER) for text in of_hydra):  # it may take values of its own
        jobs = [_compose_settings(job) for job in _list_jobs(own, arguments.multirun)]
    if of_hydra:
        _run_with_hydra(arguments)
        return 0
    planned = [(settings, make_rows(settings)) for settings in jobs]
    for settings in jobs:  # a folder that cannot be made ends the command before hours of work
        (Path(settings.out) / parts.FOLDER).mkdir(parents=True, exist_ok=True)
    table: Table | None = None
    for settings, rows in planned:
        table = _evaluate(settings, rows)
    if arguments.json:
        print(json.dumps(table))
    return 0


def _evaluate(settings: EvaluationSettings, rows: list[EvaluationRow]) -> Table:
    try:
        with ExitStack() as bars:  # closes the bars before the next line is printed
            study.measure_rows(settings, rows, functools.partial(_begin_bar, bars))
    except KeyboardInterrupt:
        print(f'{settings.out}: stopped; the same command goes on', file=sys.stderr)
        raise
    table = rebuild_results(Path(settings.out), settings.rounds, settings.seed)
    _print_table(table, Path(settings.out))
    return table


def _run_with_hydra(arguments: argparse.Namespace) -> None:
    """Let hydra itself run the jobs, since its settings may name a launcher or a sweeper."""
    if arguments.json:
        raise BadInput('--json: jobs that hydra launches print no table here; out has it')
    ConfigStore.instance().store(name=_CONFIG, node=EvaluationSettings)
    run = hydra.main(version_base='1.3', config_path=None, config_name=_CONFIG)(_run_job)
    own = sys.argv
    sys.argv = [own[0], *['--multirun'][: arguments.multirun], *arguments.override]  # all it reads
    os.environ.setdefault('HYDRA_FULL_ERROR', '1')  # errors come back to be one line
    try:
        run()
    except (HydraException, OmegaConfBaseException) as error:
        raise BadInput(_join_error_lines(error)) from None
    finally:
        sys.argv = own


def _run_job(config: DictConfig) -> None:
    """One job, in this process or wherever a launcher of hydra has sent it."""
    settings = OmegaConf.to_object(config)
    assert isinstance(settings, EvaluationSettings)
    check_settings(settings)
    (Path(settings.out) / parts.FOLDER).mkdir(parents=True, exist_ok=True)
    _evaluate(settings, make_rows(settings))


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    defaults = EvaluationSettings()
    known = ', '.join(
        f'{x.name}={_format_default(getattr(defaults, x.name))}'
        for x in fields(EvaluationSettings)
    )
    parser = argparse.ArgumentParser(
        prog='alpamayo_evaluate', description=__doc__, epilog=f'{main.__doc__} Settings: {known}'
    )
    parser.add_argument(
        'override', nargs='*', metavar='KEY=VALUE', help='such as checkpoint=DIR bits=2'
    )
    parser.add_argument(
        '-m', '--multirun', action='store_true', help='one after the other: bits=16,8,4,2,1.58'
    )
    parser.add_argument('--json', action='store_true', help='print the table as the last line')
    return parser.parse_args(argv)


def _require_settings(overrides: Sequence[str]) -> None:
    """Raise BadInput for arguments that are no settings: +KEY=VALUE, ~KEY."""
    known = [x.name for x in fields(EvaluationSettings)]
    for text in overrides:
        name, sign, _ = text.partition('=')
        if not sign or name not in known:
            raise BadInput(f"'{text}': expected KEY=VALUE, settings are {', '.join(known)}")


def _list_jobs(overrides: Sequence[str], multirun: bool) -> list[list[str]]:
    """List the overrides of each job; with multirun the product of those with several values."""
    if not multirun:
        return [list(overrides)]
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise BadInput(_join_error_lines(error)) from None
    choices = [
        [f'{x.get_key_element()}={value}' for value in x.sweep_string_iterator()]
        if x.is_sweep_override()
        else [str(x.input_line)]
        for x in parsed
    ]
    return [list(job) for job in product(*choices)]


def _compose_settings(overrides: list[str]) -> EvaluationSettings:
    ConfigStore.instance().store(name=_CONFIG, node=EvaluationSettings)
    try:
        with initialize(version_base='1.3', config_path=None):
            composed = OmegaConf.to_object(compose(_CONFIG, overrides=overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise BadInput(_join_error_lines(error)) from None
    assert isinstance(composed, EvaluationSettings)
    check_settings(composed)
    return composed


def _join_error_lines(error: BaseException) -> str:
    """Message of a hydra error in one line, with the name of the setting."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines()]
    keys = [line.split(':', 1)[1].strip() for line in lines if line.startswith('full_key:')]
    where = keys[0] if keys else getattr(error, 'override', '')
    said = ' '.join(x for x in lines if not x.startswith(_BESIDES))
    return f'{where}: {said}' if where else said


def _begin_bar(
    bars: ExitStack, name: str, total: float, known: float
) -> Callable[[float], object]:
    """Begin the progress bar of a part, which `bars` closes; returns a function to advance it."""
    if known >= total:
        return lambda amount: None
    bar: Any = bars.enter_context(
        tqdm(
            desc=name, total=total, initial=known, dynamic_ncols=True,
            bar_format='{l_bar}{bar}| {n:.0f}/{total:.0f} [{elapsed}<{remaining}]',
        )
    )  # fmt: skip

    def advance(amount: float) -> None:
        bar.update(amount)
        if bar.n >= total - 1e-6:
            bar.close()

    return advance


def _print_table(table: Table, out: Path) -> None:
    """Print a line per row and the place of the report."""
    for row in table['rows']:
        found = row['open']['all']
        best = found[f'min_ade_{"" if row["k"] > 1 else "1_"}m_{LONGEST_HORIZON}s']
        lane = found['off_lane']
        text = f'minADE_{row["k"]} {_format_interval(best, 2)} m'
        if lane:
            text += f', off the lane {100 * lane["mean"]:.1f} %'
        for latency, figures in row['closed'].items():
            text += f', {latency} s late score {figures["score"]["mean"]:.1f}'
            if lowest := figures['lowest_score']:
                demand = lowest['demand'].replace('_', ' ')
                text += f' (lowest {lowest["mean"]:.1f}, {demand})'
        print(f'{row["name"]}: {text}')
    for note in table['notes']:
        print(f'note: {note}')
    print(f'report: {out / "evaluation.html"}')


def _format_interval(figure: Figure | None, digits: int) -> str:
    if figure is None:
        return 'unknown'
    text = f'{figure["mean"]:.{digits}f}'
    low, high = figure['low'], figure['high']
    if low is None or high is None:
        return text
    return f'{text} ({low:.{digits}f} to {high:.{digits}f})'


def _format_default(value: object) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


if __name__ == '__main__':
    sys.exit(main())
