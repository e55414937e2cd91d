"""alpamayo_replay: a recorded drive to predicted trajectories, metrics and a report."""

from __future__ import annotations

import argparse
from dataclasses import asdict
import functools
import json
from pathlib import Path
import sys

from tqdm import tqdm

from ..bags.reader import Bag
from ..data_types import NANOSECONDS
from ..errors import BadInput
from ..json_types import Summary
from ..replay.provenance import describe_run
from ..replay.rebuild import rebuild
from ..replay.record import ReplayRecord
from ..replay.replay import Replay, Schedule, require_topics
from ..rig import CameraRig, load_rig
from .engine_arguments import (
    add_engine_arguments,
    add_limits,
    add_node_parameters,
    apply_limits,
    check_engine_arguments,
    make_engine,
    require,
)
from .entry import command
from .recordings.many import are_many, replay_many
from .recordings.parameters import NAVIGATION, read_navigation, read_parameters, read_thresholds
from .recordings.printing import print_summary
from .recordings.sharing import keep_results

CLIP_SAMPLES, CLIP_SEED = 6, 42  # of the makers' evaluation
SPLITS = ('train', 'val', 'test')


@command
def main(argv: list[str] | None = None) -> int:
    """Replay a bag; 0 done, 1 a threshold is missed or no t0 is valid, 2 bad input."""
    arguments = parse(argv)
    if arguments.clips is not None:
        from .recordings.clips import print_clips, replay_clips, write_clip_bags  # extras

        if arguments.to_bag:
            return write_clip_bags(arguments)
        summary = replay_clips(arguments)
        print_clips(summary, arguments)
        return 0 if summary['pass'] else 1
    rig = apply_limits(load_rig(arguments.rig), arguments)
    summary = replay_many(arguments, rig) if are_many(arguments) else _replay(arguments, rig)
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
        'bag',
        type=Path,
        nargs='*',
        metavar='BAG',
        help='rosbag2 folder, .mcap or .db3; several, or a folder with bags in it, are a dataset',
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
    add_limits(parser)
    limits = parser.add_argument_group('thresholds: exit status 1 when one is missed')
    limits.add_argument('--max-ade-m', type=float, metavar='M')
    limits.add_argument('--max-fde-m', type=float, metavar='M')
    limits.add_argument('--max-p90-ms', type=float, metavar='MS')
    limits.add_argument(
        '--min-valid', type=float, metavar='SHARE', help='share of the anchors served, 0 to 1'
    )
    parser.add_argument('--json', action='store_true', help='print the summary as the last line')
    many = parser.add_argument_group('many recordings')
    many.add_argument('--list', type=Path, metavar='FILE', help='bags or clip ids, one a line')
    many.add_argument(
        '--cluster', metavar='local|ray://HOST', help='share them among the workers of a Ray'
    )
    many.add_argument(
        '--span', type=float, metavar='S', help='share parts of S seconds (default: whole bags)'
    )
    many.add_argument(
        '--against', type=Path, metavar='DIR', help='compare with an earlier run, by item or clip'
    )
    clips = parser.add_argument_group(
        'clips of nvidia/PhysicalAI-Autonomous-Vehicles in place of BAG: K = 6, seed 42'
    )
    clips.add_argument('--clips', type=Path, metavar='FOLDER', help='folder of the data set')
    clips.add_argument('--split', choices=SPLITS, help='only clips of this split')
    clips.add_argument(
        '--to-bag',
        action='store_true',
        help='write each clip as a rosbag2 below --out, for the rig r1, and infer nothing',
    )
    if parser.parse_known_args(argv)[0].clips is not None:
        parser.set_defaults(samples=CLIP_SAMPLES, seed=CLIP_SEED)
    arguments = parser.parse_args(argv)
    _check_recordings(arguments)
    require(arguments.period >= 0, '--period', arguments.period, '0 (every anchor) or more')
    share = arguments.min_valid
    require(share is None or 0 <= share <= 1, '--min-valid', share, 'a share from 0 to 1')
    if not arguments.to_bag:
        check_engine_arguments(arguments)
    return arguments


def _check_recordings(arguments: argparse.Namespace) -> None:
    """Raise BadInput for options that do not go together."""
    if arguments.clips is not None:
        if arguments.bag or arguments.span:
            raise BadInput('--clips: expected neither BAG nor --span with it')
        return
    if not (arguments.bag or arguments.list):
        raise BadInput('expected BAG with --rig, or --clips FOLDER')
    if arguments.rig is None:
        raise BadInput('--rig: expected the name or path of a rig file')
    if arguments.split or arguments.to_bag:
        raise BadInput('--split and --to-bag go with --clips')
    span = arguments.span
    require(span is None or span > 0, '--span', span, 'more than 0')
    if are_many(arguments):
        for name in ('t0', 'navigation_file'):
            value = getattr(arguments, name)
            require(value is None, f'--{name.replace("_", "-")}', value, 'one bag alone with it')
    else:
        require(span is None, '--span', span, 'a cluster or more than one bag with it')
        require(arguments.against is None, '--against', arguments.against, 'more than one bag')


def _replay(arguments: argparse.Namespace, rig: CameraRig) -> Summary:
    """Replay one bag and write all results; returns the summary."""
    record = ReplayRecord(arguments.out)
    with Bag(arguments.bag[0]) as bag:
        require_topics(bag, rig)
        navigation = read_navigation(arguments, bag)
        record.claim(arguments.resume)
        engine = make_engine(arguments)
        run = describe_run(bag, rig, engine, read_parameters(arguments) | asdict(rig.limits))
        done = record.resume(run) if arguments.resume else record.begin(run)
        schedule = Schedule(round(arguments.period * NANOSECONDS), arguments.t0)
        replay = Replay(bag, rig, engine, schedule, arguments.seed, navigation)
        thresholds = read_thresholds(arguments)
        bar = tqdm(
            desc=engine.name,
            total=replay.expected,
            initial=sum(topic == '' for topic, _ in done),
            unit='t0',
            dynamic_ncols=True,
        )
        finish = functools.partial(rebuild, record, bag, rig, replay.driven, thresholds)
        with keep_results(arguments.out, finish), bar:
            for line in replay.lines(done):
                record.append(line)
                bar.update('topic' not in line)
        return finish()


if __name__ == '__main__':
    sys.exit(main())
