"""Play the cameras and the odometry of a recorded drive, with /clock: a process of `live`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
import sys

from ...bags.reader import Bag
from ...errors import BadInput
from ...replay.replay import list_topics, require_topics
from ...rig import CameraRig, load_rig
from ..engine_arguments import require
from ..entry import command
from .launcher import require_rclpy


@command
def main(argv: list[str] | None = None) -> int:
    """Publish until the end of the drive or a signal; 0 then, 2 for bad input."""
    parser = argparse.ArgumentParser(prog='alpamayo_play', description=__doc__)
    parser.add_argument('bag', type=Path, metavar='BAG', help='rosbag2 folder, .mcap or .db3')
    parser.add_argument('--rig', required=True, metavar='NAME', help='which topics: a rig file')
    parser.add_argument('--rate', type=float, default=1.0, help='1 is real time (default)')
    arguments = parser.parse_args(argv)
    require(0 < arguments.rate < math.inf, '--rate', arguments.rate, 'more than 0, finite')
    rig = load_rig(arguments.rig)
    require_rclpy()
    from ...ros.peers.player import play

    with Bag(arguments.bag) as bag:
        require_topics(bag, rig)
        require_node_types(bag, rig, arguments.rig)
        topics = list_topics(rig)
        types = {topic: bag.topics[topic] for topic in topics}
        count = play(types, bag.messages_to_play(topics), arguments.rate)
        print(f'played {count} of {sum(map(bag.count, topics))} messages', flush=True)
    return 0


def require_node_types(bag: Bag, rig: CameraRig, name: str) -> None:
    """Raise BadInput when the node subscribes to another type than the bag has.

    name: of the rig, as the user has given it.
    """
    for camera in rig.cameras:
        recorded = bag.topics[camera.topic]
        if recorded != camera.message_type:
            raise BadInput(
                f'{bag.path}: {camera.topic} is {recorded}, but from its name the node expects '
                f'{camera.message_type}: add `type: {recorded}` to {camera.name} in the rig {name}'
            )


if __name__ == '__main__':
    sys.exit(main())
