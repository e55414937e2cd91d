"""alpamayo_replay: a recorded drive to predicted trajectories, metrics and a report."""

from __future__ import annotations

import argparse
from dataclasses import asdict
import json
from pathlib import Path
import sys
from typing import Any

from tqdm import tqdm

from ..bags.reader import Bag
from ..context.navigation import NavigationInput
from ..data_types import NANOSECONDS
from ..errors import BadInput
from ..json_types import Summary
from ..metrics.displacement import HORIZONS_S
from ..replay.provenance import describe_run
from ..replay.rebuild import rebuild
from ..replay.record import ReplayRecord
from ..replay.recorded_navigation import RecordedNavigation
from ..replay.replay import Replay, Schedule, require_topics
from ..replay.summary import describe_truth, find_commonest_refusals
from ..rig import CameraRig, load_rig
from ..ros.parameters import NodeParameters
from ..runtime.serving.jobs import Engine
from .engine_arguments import (
    LIMITS,
    add_engine_arguments,
    add_node_parameters,
    apply_limits,
    check_engine_arguments,
    make_engine,
    read_node_parameters,
    require,
)
from .entry import command

PARAMETERS = (  # arguments that a result depends on
    *('engine', 'device', 'samples', 'seed', 'greedy', 'temperature', 'top_p'),
    *('max_tokens', 'noise_temperature', 'guidance_weight', 'profile', 'activations', 'kv_bits'),
    *(
        'navigation_topic',
        'navigation_file',
        'reasoning',
        'flow_steps',
        'cameras',
        'pixels',
        'period',
        't0',
    ),
)
CLIP_SAMPLES, CLIP_SEED = 6, 42  # of the makers' evaluation
NAVIGATION = ('navigation_max_age_s', 'on_missing_navigation')
SPLITS = ('train', 'val', 'test')
THRESHOLDS = ('max_ade_m', 'max_fde_m', 'max_p90_ms', 'min_valid')


@command
def main(argv: list[str] | None = None) -> int:
    """Replay a bag; 0 done, 1 a threshold is missed or no t0 is valid, 2 bad input."""
    arguments = parse(argv)
    record = ReplayRecord(arguments.out)
    if arguments.to_bag:
        return _write_clip_bags(arguments)
    if arguments.clips is not None:
        summary = _replay_clips(arguments, record)
        _finish_clips(summary, arguments)
        return 0 if summary['pass'] else 1
    rig = apply_limits(load_rig(arguments.rig), arguments)
    with Bag(arguments.bag) as bag:
        require_topics(bag, rig)
        navigation = _read_navigation(arguments, bag)
        record.claim(arguments.resume)
        engine = make_engine(arguments)
        summary = _replay(arguments, bag, rig, engine, record, navigation)
    print_summary(summary, arguments.out)
    if arguments.json:
        print(json.dumps(summary))
    return 0 if summary['pass'] else 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Arguments of the command, checked."""
    parser = argparse.ArgumentParser(
        prog='alpamayo_replay', description=__doc__, epilog=main.__doc__
    )
    parser.add_argument(
        'bag', type=Path, nargs='?', metavar='BAG', help='rosbag2 folder, .mcap or .db3'
    )
    parser.add_argument('--rig', metavar='NAME', help='rig file, by name or path; goes with BAG')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='new folder')
    parser.add_argument('--resume', action='store_true', help='continue the run in --out')
    add_engine_arguments(parser)
    when = parser.add_argument_group('when')
    when.add_argument(
        '--period', type=float, default=1.0, metavar='S', help='one t0 per S seconds; 0: all'
    )
    when.add_argument('--t0', type=int, metavar='NS', help='one t0: stamp of its anchor frame')
    where = parser.add_argument_group('where to go, for Alpamayo 1.5')
    texts = where.add_mutually_exclusive_group()
    texts.add_argument(
        '--navigation-topic',
        metavar='TOPIC',
        help='route texts (std_msgs/String) or routes (nav_msgs/Path) of the bag',
    )
    texts.add_argument(
        '--navigation-file',
        type=Path,
        metavar='FILE',
        help="lines 'SECONDS TEXT', seconds since the start of the bag",
    )
    add_node_parameters(parser, 'of navigation', NAVIGATION)
    add_node_parameters(parser, 'limits of the inputs (default: those of the rig)', LIMITS)
    limits = parser.add_argument_group('thresholds: exit status 1 when one is missed')
    limits.add_argument('--max-ade-m', type=float, metavar='M')
    limits.add_argument('--max-fde-m', type=float, metavar='M')
    limits.add_argument('--max-p90-ms', type=float, metavar='MS')
    limits.add_argument(
        '--min-valid', type=float, metavar='SHARE', help='share of the anchors served, 0 to 1'
    )
    parser.add_argument('--json', action='store_true', help='print the summary as the last line')
    clips = parser.add_argument_group(
        'clips of nvidia/PhysicalAI-Autonomous-Vehicles in place of BAG: K = 6, seed 42'
    )
    clips.add_argument('--clips', type=Path, metavar='FOLDER', help='folder of the data set')
    clips.add_argument('--list', type=Path, metavar='FILE', help='clip ids, one a line')
    clips.add_argument('--split', choices=SPLITS, help='only clips of this split')
    clips.add_argument(
        '--to-bag',
        action='store_true',
        help='write each clip as a rosbag2 below --out, for the rig r1, and infer nothing',
    )
    if parser.parse_known_args(argv)[0].clips is not None:
        parser.set_defaults(samples=CLIP_SAMPLES, seed=CLIP_SEED)
    arguments = parser.parse_args(argv)
    if (arguments.bag is None) == (arguments.clips is None):
        raise BadInput('expected BAG with --rig, or --clips FOLDER')
    if arguments.bag is not None and arguments.rig is None:
        raise BadInput('--rig: expected the name or path of a rig file')
    if arguments.clips is None and (arguments.list or arguments.split or arguments.to_bag):
        raise BadInput('--list, --split and --to-bag go with --clips')
    require(arguments.period >= 0, '--period', arguments.period, '0 (every anchor) or more')
    share = arguments.min_valid
    require(share is None or 0 <= share <= 1, '--min-valid', share, 'a share from 0 to 1')
    if not arguments.to_bag:
        check_engine_arguments(arguments)
    return arguments


def _replay(
    arguments: argparse.Namespace,
    bag: Bag,
    rig: CameraRig,
    engine: Engine,
    record: ReplayRecord,
    navigation: RecordedNavigation | None,
) -> Summary:
    names = (*PARAMETERS, *NAVIGATION)
    parameters = {name: _to_fact(getattr(arguments, name)) for name in names}
    parameters |= asdict(rig.limits)
    run = describe_run(bag, rig, engine, parameters)
    done = record.resume(run) if arguments.resume else record.begin(run)
    schedule = Schedule(round(arguments.period * NANOSECONDS), arguments.t0)
    replay = Replay(bag, rig, engine, schedule, arguments.seed, navigation)
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


def _read_navigation(arguments: argparse.Namespace, bag: Bag) -> RecordedNavigation | None:
    """Read the route texts that the arguments name; None where they name none."""
    values = read_node_parameters(arguments, NAVIGATION)
    own = NodeParameters(rig='r1', engine='constant_velocity', **values)  # checks their ranges
    if not (arguments.navigation_topic or arguments.navigation_file or values):
        return None
    limits = own.navigation_max_age_s, own.on_missing_navigation
    navigation = RecordedNavigation(NavigationInput(*limits))
    if arguments.navigation_topic:
        navigation.read_topic(bag, arguments.navigation_topic)
    if arguments.navigation_file:
        navigation.read_file(arguments.navigation_file, bag.start_ns)
    return navigation


def _replay_clips(arguments: argparse.Namespace, record: ReplayRecord) -> Summary:
    from ..clips.dataset import ClipFolder  # pyarrow and PyAV are extras
    from ..replay.clip_replay import T0_US, make_clip_rig, replay_clips
    from ..replay.clip_results import rebuild_clips

    folder = ClipFolder(arguments.clips)
    clip_ids = folder.select(arguments.split, _read_list(arguments.list))
    t0_us = T0_US if arguments.t0 is None else arguments.t0 // 1000
    record.claim(arguments.resume)
    engine = make_engine(arguments)
    names = [name for name in PARAMETERS if name != 'period']
    parameters = {name: getattr(arguments, name) for name in names} | {'split': arguments.split}
    run = describe_run(folder, make_clip_rig(), engine, parameters)
    done = record.resume(run) if arguments.resume else record.begin(run)
    limits = {name: getattr(arguments, name) for name in THRESHOLDS}
    bar = tqdm(total=len(clip_ids), initial=len(done), unit='clip', dynamic_ncols=True)
    try:
        with bar:
            for line in replay_clips(folder, clip_ids, engine, arguments.seed, t0_us, done):
                record.append(line)
                bar.update()
    except KeyboardInterrupt:
        rebuild_clips(record, folder, limits)
        print(f'{arguments.out}: stopped; continue with --resume', file=sys.stderr)
        raise
    return rebuild_clips(record, folder, limits)


def _write_clip_bags(arguments: argparse.Namespace) -> int:
    """Write clips as bags; 0 done, 1 when one could not be read."""
    from ..clips.dataset import ClipError, ClipFolder  # pyarrow and PyAV are extras
    from ..replay.clip_bag import write_clip_bag

    folder = ClipFolder(arguments.clips)
    failures = 0
    clip_ids = folder.select(arguments.split, _read_list(arguments.list))
    for clip_id in tqdm(clip_ids, unit='clip', dynamic_ncols=True):
        try:
            write_clip_bag(folder, clip_id, arguments.out / clip_id)
        except ClipError as error:
            failures += 1
            print(f'{clip_id}: no bag: {error}', file=sys.stderr)
    print(f'{arguments.out}: {len(clip_ids) - failures} of {len(clip_ids)} clips, for --rig r1')
    return 1 if failures else 0


def _to_fact(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _read_list(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding='utf-8').split() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f'{path}: not a list of clip ids: {error}') from error


def _finish_clips(summary: Summary, arguments: argparse.Namespace) -> None:
    clips = summary['clips']
    whole, corners = clips['min_ade_m']['6.4'], clips['corner_distance_m']
    print_summary(summary, arguments.out)
    if whole and corners:
        print(
            f'clips    minADE_{arguments.samples} {whole["mean"]:.3f} m, corner distance '
            f'{corners["mean"]:.3f} m over {clips["measured"]} of {clips["clips"]} clips'
        )
    if arguments.json:
        print(json.dumps(summary))


def print_summary(summary: Summary, out: Path) -> None:
    """Print what was served, refused and measured, how fast, and where it lies."""
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


if __name__ == '__main__':
    sys.exit(main())
