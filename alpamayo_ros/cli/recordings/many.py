"""alpamayo_replay of many bags: shares them among workers and keeps one dataset of all results."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
import functools
import os
from pathlib import Path

from ...cluster.workers import Outcome, start_workers
from ...data_types import NANOSECONDS
from ...errors import BadInput
from ...json_types import Facts, Run, Summary
from ...replay.dataset import Dataset
from ...replay.provenance import EngineFacts, describe_run
from ...replay.recordings import (
    BagItem,
    BagResult,
    begin_replays,
    find_bags,
    is_bag,
    read_list,
    split_bags,
)
from ...replay.replay import Schedule
from ...rig import CameraRig
from .parameters import (
    make_cluster,
    make_worker_engine,
    read_navigation,
    read_parameters,
    read_thresholds,
)
from .sharing import keep_results, share


@dataclass(frozen=True)
class _Root:
    """The folder that all bags lie in, as the recording of a run."""

    path: Path

    def fingerprint(self) -> Facts:
        """Nothing: bags may be added; items.jsonl has the facts of each."""
        return {}


def are_many(arguments: argparse.Namespace) -> bool:
    """Whether the arguments ask for a dataset, and not for the replay of one bag."""
    bags = arguments.bag
    return bool(arguments.cluster or arguments.list or len(bags) > 1 or not is_bag(bags[0]))


def replay_many(arguments: argparse.Namespace, rig: CameraRig) -> Summary:
    """Replay all bags and write the dataset; returns its summary."""
    try:
        from ...replay.dataset_results import rebuild_dataset
        from ...replay.item_report import begin_with_reports
    except ImportError as error:
        raise BadInput(
            f"many recordings: {error.name} is not installed: pip install 'alpamayo_ros[cluster]'"
        ) from None
    cluster, limits = make_cluster(arguments), read_thresholds(arguments)
    period_ns = round(arguments.period * NANOSECONDS)
    items = find_bags([*arguments.bag, *(read_list(arguments.list) if arguments.list else [])])
    root = _Root(_find_root(items))
    if arguments.span:
        items = split_bags(items, rig, period_ns, round(arguments.span * NANOSECONDS))
    parameters = {**read_parameters(arguments), 'span': arguments.span, **asdict(rig.limits)}
    describe = functools.partial(describe_run, root, rig, parameters=parameters)
    dataset = Dataset(arguments.out, describe)
    earlier = _open_earlier(arguments.against, describe) if arguments.against else None
    dataset.claim(arguments.resume)
    done = dataset.list_done_items() if arguments.resume else set()
    begin_items = functools.partial(
        begin_replays,
        functools.partial(make_worker_engine, arguments),
        rig,
        Schedule(period_ns),
        arguments.seed,
        functools.partial(read_navigation, arguments),
    )
    begin = functools.partial(begin_with_reports, begin_items, rig)
    left = [item for item in items if item.name not in done]
    rebuild = functools.partial(rebuild_dataset, dataset, rig, limits, earlier)

    def take(outcome: Outcome[BagItem, BagResult]) -> str:
        row = dataset.take(outcome)
        return f'{row["name"]}: {row["detail"]}' if row['detail'] else ''

    if not left:
        return rebuild()
    with start_workers(begin, cluster) as workers:
        with keep_results(arguments.out, rebuild, dataset.has_run):
            share(workers, left, len(items) - len(left), 'item', take)
        if not dataset.has_run():
            raise BadInput(f'{arguments.out}: no worker has lived to replay an item')
        return rebuild(make_reports=workers.run)


def _open_earlier(folder: Path, describe: Callable[[EngineFacts], Run]) -> Dataset:
    """Dataset of an earlier run; raises BadInput when there is none."""
    earlier = Dataset(folder, describe)
    if not earlier.items_path.is_file():
        raise BadInput(f'--against {folder}: no {earlier.items_path.name}, expected a dataset')
    earlier.read_rows()
    return earlier


def _find_root(items: list[BagItem]) -> Path:
    return Path(os.path.commonpath([item.path.parent for item in items]))
