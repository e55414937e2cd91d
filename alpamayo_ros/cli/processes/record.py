"""Records what alpamayo_node publishes and reports every second: a process of `live`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
import sys

from ...bags.recording import BagWriter
from ...errors import BadInput
from ..entry import command
from .launcher import require_rclpy


@command
def main(argv: list[str] | None = None) -> int:
    """Record until a signal; 0 then, 2 for bad input."""
    parser = argparse.ArgumentParser(prog='alpamayo_record', description=__doc__)
    parser.add_argument('out', type=Path, metavar='OUT', help='new rosbag2 folder')
    parser.add_argument('--node', default='/alpamayo', help='full name of the node (/alpamayo)')
    arguments = parser.parse_args(argv)
    if arguments.out.exists():
        raise BadInput(f'{arguments.out}: exists, expected a new folder')
    require_rclpy()
    from ...ros.peers.recorder import record

    with BagWriter(arguments.out) as recording:
        record(arguments.node, recording.write, partial(print, flush=True))
    return 0


if __name__ == '__main__':
    sys.exit(main())
