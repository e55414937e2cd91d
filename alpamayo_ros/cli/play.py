"""Play the cameras and the odometry of a recorded drive, with /clock: a process of `live`."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

from ..errors import BadInput
from ..evaluation.bag import Bag
from ..evaluation.replay import require_topics
from ..rig import load_rig
from .entry import command


@command
def main(argv: list[str] | None = None) -> int:
    """Publish until the end of the drive or a signal; 0 then, 2 for bad input."""
    parser = argparse.ArgumentParser(prog='alpamayo_play', description=__doc__)
    parser.add_argument('bag', type=Path, metavar='BAG', help='rosbag2 folder, .mcap or .db3')
    parser.add_argument('--rig', required=True, metavar='NAME', help='which topics: a rig file')
    parser.add_argument('--rate', type=float, default=1.0, help='1 is real time (default)')
    arguments = parser.parse_args(argv)
    if not arguments.rate > 0:
        raise BadInput(f'--rate: {arguments.rate:g}, expected more than 0')
    rig = load_rig(arguments.rig)
    import rclpy  # with the rest of ROS 2 only where a drive is really played
    from rclpy.executors import ExternalShutdownException

    from ..ros.player import Player

    with Bag(arguments.bag) as bag:
        require_topics(bag, rig)
        topics = [*(camera.topic for camera in rig.cameras), rig.odometry_topic]
        rclpy.init(args=[])
        try:
            player = Player({topic: bag.topics[topic] for topic in topics}, arguments.rate)
            if player.wait_for_listeners():
                print(f'playing {arguments.bag} at {arguments.rate:g} x', flush=True)
                count = player.play(bag.messages(topics))
                print(f'played {count} of {sum(map(bag.count, topics))} messages', flush=True)
            player.destroy_node()
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
        finally:
            rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
