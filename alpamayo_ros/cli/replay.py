"""alpamayo_replay: a recorded drive to predicted trajectories, metrics and a report."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys

from tqdm import tqdm

from ..bags.reader import Bag
from ..data_types import NANOSECONDS
from ..json_types import Summary
from ..replay.provenance import describe_run
from ..replay.rebuild import last_path, rebuild
from ..replay.record import ReplayRecord
from ..replay.replay import Replay, Schedule, require_topics
from ..rig import CameraRig, load_rig
from ..runtime.worker import Engine
from .engine_arguments import add_engine_arguments, check_engine_arguments, make_engine, require
from .entry import command

PARAMETERS = (  # arguments that a result depends on
    *('engine', 'device', 'samples', 'seed', 'greedy', 'temperature', 'top_p'),
    *('max_tokens', 'flow_steps', 'period', 't0'),
)
THRESHOLDS = ('max_ade_m', 'max_fde_m', 'max_p90_ms', 'min_valid')


@command
def main(argv: list[str] | None = None) -> int:
    """Replay a bag; 0 done, 1 a threshold is missed or no t0 is valid, 2 bad input."""
    arguments = parse(argv)
    rig = load_rig(arguments.rig)
    record = ReplayRecord(arguments.out)
    with Bag(arguments.bag) as bag:
        require_topics(bag, rig)
        record.claim(arguments.resume)
        engine = make_engine(arguments)
        summary = _replay(arguments, bag, rig, engine, record)
    print_summary(summary, arguments.out)
    if arguments.json:
        print(json.dumps(summary))
    return 0 if summary['pass'] else 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Arguments of the command, checked."""
    parser = argparse.ArgumentParser(
        prog='alpamayo_replay', description=__doc__, epilog=main.__doc__
    )
    parser.add_argument('bag', type=Path, metavar='BAG', help='rosbag2 folder, .mcap or .db3')
    parser.add_argument('--rig', required=True, metavar='NAME', help='rig file, by name or path')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='new folder')
    parser.add_argument('--resume', action='store_true', help='continue the run in --out')
    add_engine_arguments(parser)
    when = parser.add_argument_group('when')
    when.add_argument(
        '--period', type=float, default=1.0, metavar='S', help='one t0 per S seconds; 0: all'
    )
    when.add_argument('--t0', type=int, metavar='NS', help='one t0: stamp of its anchor frame')
    limits = parser.add_argument_group('thresholds: exit status 1 when one is missed')
    limits.add_argument('--max-ade-m', type=float, metavar='M')
    limits.add_argument('--max-fde-m', type=float, metavar='M')
    limits.add_argument('--max-p90-ms', type=float, metavar='MS')
    limits.add_argument(
        '--min-valid', type=float, metavar='SHARE', help='share of the anchors served, 0 to 1'
    )
    parser.add_argument('--json', action='store_true', help='print the summary as the last line')
    arguments = parser.parse_args(argv)
    require(arguments.period >= 0, '--period', arguments.period, '0 (every anchor) or more')
    share = arguments.min_valid
    require(share is None or 0 <= share <= 1, '--min-valid', share, 'a share from 0 to 1')
    check_engine_arguments(arguments)
    return arguments


def _replay(
    arguments: argparse.Namespace, bag: Bag, rig: CameraRig, engine: Engine, record: ReplayRecord
) -> Summary:
    run = describe_run(bag, rig, engine, {name: getattr(arguments, name) for name in PARAMETERS})
    done = record.resume(run) if arguments.resume else record.begin(run)
    schedule = Schedule(round(arguments.period * NANOSECONDS), arguments.t0)
    replay = Replay(bag, rig, engine, schedule, arguments.seed, last_path(record))
    thresholds = {name: getattr(arguments, name) for name in THRESHOLDS}
    bar = tqdm(
        desc=engine.name,
        total=replay.expected,
        initial=sum(topic == '' for topic, _ in done),
        unit='t0',
        dynamic_ncols=True,
    )
    try:
        with bar:
            for line in replay.lines(done):
                record.append(line)
                bar.update('topic' not in line)
    except KeyboardInterrupt:
        rebuild(record, bag, rig, replay.driven, thresholds)
        print(f'{arguments.out}: stopped; continue with --resume', file=sys.stderr)
        raise
    return rebuild(record, bag, rig, replay.driven, thresholds)


def print_summary(summary: Summary, out: Path) -> None:
    """Print five lines: what was served, how good, how fast, and where it lies."""
    why = ', '.join(f'{name} {count}' for name, count in summary['reasons'].items())
    print(
        f'served   {summary["ok"]} of {summary["anchors"]} anchors '
        f'({100 * summary["valid_share"]:.1f} %){f"; without: {why}" if why else ""}'
    )
    print(f'error    {_describe_errors(summary)}')
    total = summary['ms'].get('total')
    time = f'p50 {total["p50"]:.4g}, p90 {total["p90"]:.4g} ms per context' if total else 'none'
    missed = [name for name, found in summary['thresholds'].items() if not found['pass']]
    print(f'time     {time}{"; missed: " + ", ".join(missed) if missed else ""}')
    print(f'report   {out / "report.html"}')
    print(f'bag      {out / "prediction"}')


def _describe_errors(summary: Summary) -> str:
    longest_s = summary['longest_horizon_s']
    horizon = f'{longest_s or 0:.1f}'
    errors, base = summary['horizons'].get(horizon), summary['baseline'].get(horizon)
    if not (errors and base):
        return 'not measured: no prediction with a driven path behind it'
    text = (
        f'ADE {errors["ade_m"]["mean"]:.2f} m, FDE {errors["fde_m"]["mean"]:.2f} m at {longest_s:g} s '
        f'(constant velocity {base["ade_m"]["mean"]:.2f} m, {base["fde_m"]["mean"]:.2f} m)'
    )
    if summary['provenance']['engine'].get('untrained'):
        return f'{text}: untrained weights, the path means nothing'
    return text


if __name__ == '__main__':
    sys.exit(main())
