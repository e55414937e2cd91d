"""alpamayo_drive: a synthetic drive as a rosbag2 folder, and a small untrained checkpoint.

Arguments and printing only.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

from tqdm import tqdm

from ..bags import synthetic_drive as drive_bag
from ..errors import BadInput
from ..files import create_folder, refuse_existing
from .entry import command

_MAX_SECONDS = 3600.0  # 5 GB


@command
def main(argv: list[str] | None = None) -> int:
    """Write a synthetic drive, a small checkpoint for it, or both; print what they hold."""
    parser = argparse.ArgumentParser(prog='alpamayo_drive', description=main.__doc__)
    add = parser.add_argument
    add('bag', metavar='OUT_BAG', type=Path, nargs='?', help='new rosbag2 folder (mcap)')
    add('--checkpoint', metavar='DIR', type=Path, help='new folder of an untrained checkpoint')
    add('--seed', type=int, default=0, help='road, scenery, traffic, weights (default 0)')
    add('--seconds', type=float, default=20.0, help='length of the drive (default 20)')
    arguments = parser.parse_args(argv)
    wanted = [path for path in (arguments.bag, arguments.checkpoint) if path]
    if not wanted:
        raise BadInput('nothing to write: expected OUT_BAG, --checkpoint DIR or both')
    if arguments.seed < 0:
        raise BadInput(f'--seed {arguments.seed}: expected 0 or more')
    if not 1.0 <= arguments.seconds <= _MAX_SECONDS:
        raise BadInput(f'--seconds {arguments.seconds:g}: expected 1 to {_MAX_SECONDS:g}')
    for path in wanted:
        refuse_existing(path)
    if arguments.bag:
        _write_drive(arguments.bag, arguments.seed, arguments.seconds)
    if arguments.checkpoint:
        _write_checkpoint(arguments.checkpoint, arguments.seed)
    return 0


def _write_drive(bag: Path, seed: int, seconds: float) -> None:
    messages, total = drive_bag.drive_messages(seed, seconds), drive_bag.message_count(seconds)
    with create_folder(bag) as folder:
        bar = tqdm(messages, desc='drive', total=total, unit='msg', dynamic_ncols=True)
        counts = drive_bag.write_bag(folder, bar)
    print(f'{bag}: {seconds:g} s, seed {seed}, {counts.total()} messages, {_format_size(bag)}')
    for topic, count in sorted(counts.items()):
        print(f'  {topic}: {count}')


def _write_checkpoint(checkpoint: Path, seed: int) -> None:
    from ..model.small.untrained import (
        write_small_checkpoint,  # torch, which a drive alone does not need
    )

    with create_folder(checkpoint) as folder:
        write_small_checkpoint(folder, seed)
    print(f'{checkpoint}: untrained checkpoint, seed {seed}, {_format_size(checkpoint)}')


def _format_size(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
    return f'{size / 1e6:.1f} MB'


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
