"""alpamayo_replay --clips: shares clips of the makers' data set among workers, or makes bags.

Its modules of clips need pyarrow and PyAV, which are extras, so that they are imported here alone.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
import sys

from tqdm import tqdm

from ...clips.context import T0_US, make_clip_rig
from ...clips.dataset import ClipError, ClipFolder, read_clip_list
from ...cluster.workers import Outcome, start_workers
from ...errors import BadInput
from ...json_types import Facts, Line, Summary
from ...replay.clips.clip_bag import write_clip_bag
from ...replay.clips.clip_replay import begin_clips, make_lost_line
from ...replay.clips.clip_results import rebuild_clips
from ...replay.provenance import EngineGuard, describe_run
from ...replay.record import ReplayRecord
from .parameters import make_cluster, make_worker_engine, read_parameters, read_thresholds
from .printing import print_summary
from .sharing import keep_results, share


def replay_clips(arguments: argparse.Namespace) -> Summary:
    """Replay clips and write all results; returns the summary."""
    folder = ClipFolder(arguments.clips)
    clip_ids = folder.select(
        arguments.split, read_clip_list(arguments.list) if arguments.list else None
    )
    t0_us = T0_US if arguments.t0 is None else arguments.t0 // 1000
    cluster, limits = make_cluster(arguments), read_thresholds(arguments)
    parameters = {**read_parameters(arguments), 'split': arguments.split}
    del parameters['period']  # a clip has one t0
    record = ReplayRecord(arguments.out)
    describe = functools.partial(describe_run, folder, make_clip_rig(), parameters=parameters)
    guard = EngineGuard(record, describe)
    earlier = _open_earlier(arguments.against) if arguments.against else None
    record.claim(arguments.resume)
    done: set[str] = set()
    if arguments.resume:
        guard.resume()
        done = {clip_id for clip_id, _ in record.list_done()}
    make_engine = functools.partial(make_worker_engine, arguments)
    begin = functools.partial(begin_clips, make_engine, arguments.clips, arguments.seed, t0_us)
    left = [clip_id for clip_id in clip_ids if clip_id not in done]
    rebuild = functools.partial(rebuild_clips, record, folder, limits, earlier)

    def take(outcome: Outcome[str, tuple[Facts, Line]]) -> str:
        if outcome.result is None:
            record.append(make_lost_line(outcome.item, t0_us, outcome.lost))
        else:
            facts, line = outcome.result
            guard.take(facts)
            record.append(line)
        return ''

    with (
        start_workers(begin, cluster) as workers,
        keep_results(arguments.out, rebuild, guard.has_run),
    ):
        share(workers, left, len(clip_ids) - len(left), 'clip', take)
    if not guard.has_run():
        raise BadInput(f'{arguments.out}: no worker has lived to replay a clip')
    return rebuild()


def write_clip_bags(arguments: argparse.Namespace) -> int:
    """Write clips as bags; 0 done, 1 when one could not be read."""
    folder = ClipFolder(arguments.clips)
    failures = 0
    clip_ids = folder.select(
        arguments.split, read_clip_list(arguments.list) if arguments.list else None
    )
    for clip_id in tqdm(clip_ids, unit='clip', dynamic_ncols=True):
        try:
            write_clip_bag(folder, clip_id, arguments.out / clip_id)
        except ClipError as error:
            failures += 1
            print(f'{clip_id}: no bag: {error}', file=sys.stderr)
    print(f'{arguments.out}: {len(clip_ids) - failures} of {len(clip_ids)} clips, for --rig r1')
    return 1 if failures else 0


def print_clips(summary: Summary, arguments: argparse.Namespace) -> None:
    """Print the summary of a replay of clips, with the makers' metrics."""
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


def _open_earlier(folder: Path) -> ReplayRecord:
    """Record of an earlier run of clips; raises BadInput when there is none."""
    earlier = ReplayRecord(folder)
    if not earlier.path.is_file() or not all('clip' in line for line in earlier.lines()):
        raise BadInput(f'--against {folder}: expected the output of another run of clips')
    return earlier
