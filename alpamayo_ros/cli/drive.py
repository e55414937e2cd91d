"""alpamayo_drive: write a synthetic drive as a rosbag2 folder. Arguments and printing only."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
import sys

from tqdm import tqdm

from ..errors import BadInput
from ..evaluation import drive_bag
from .entry import command

_MAX_SECONDS = 3600.0  # 6 GB


@command
def main(argv: list[str] | None = None) -> int:
    """Write the drive and print what it holds."""
    parser = argparse.ArgumentParser(prog='alpamayo_drive', description=main.__doc__)
    parser.add_argument('bag', metavar='OUT_BAG', type=Path, help='new rosbag2 folder (mcap)')
    parser.add_argument('--seed', type=int, default=0, help='road, scenery, traffic (default 0)')
    parser.add_argument('--seconds', type=float, default=20.0, help='length (default 20)')
    arguments = parser.parse_args(argv)
    if arguments.seed < 0:
        raise BadInput(f'--seed {arguments.seed}: expected 0 or more')
    if not 1.0 <= arguments.seconds <= _MAX_SECONDS:
        raise BadInput(f'--seconds {arguments.seconds:g}: expected 1 to {_MAX_SECONDS:g}')
    _write_drive(arguments.bag, arguments.seed, arguments.seconds)
    return 0


def _write_drive(bag: Path, seed: int, seconds: float) -> None:
    counts = drive_bag.write_bag(bag, _shown(seed, seconds))
    size = sum(file.stat().st_size for file in bag.iterdir())
    print(f'{bag}: {seconds:g} s, seed {seed}, {counts.total()} messages, {size / 1e6:.1f} MB')
    for topic, count in sorted(counts.items()):
        print(f'  {topic}: {count}')


def _shown(seed: int, seconds: float) -> Iterator[drive_bag.Message]:
    """Messages with a progress bar, which appears with the first of them."""
    messages, total = drive_bag.drive_messages(seed, seconds), drive_bag.message_count(seconds)
    yield from tqdm(messages, desc='drive', total=total, unit='msg', dynamic_ncols=True)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
