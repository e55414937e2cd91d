"""Record what alpamayo_node publishes and say every second how it goes: a process of `live`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
import sys

from ..errors import BadInput
from ..evaluation.recording import Recording
from .entry import command


@command
def main(argv: list[str] | None = None) -> int:
    """Record until a signal; 0 then, 2 for bad input."""
    parser = argparse.ArgumentParser(prog='alpamayo_record', description=__doc__)
    parser.add_argument('out', type=Path, metavar='OUT', help='new rosbag2 folder')
    parser.add_argument('--node', default='/alpamayo', help='full name of the node (/alpamayo)')
    arguments = parser.parse_args(argv)
    if arguments.out.exists():
        raise BadInput(f'{arguments.out}: exists, expected a new folder')
    import rclpy  # with the rest of ROS 2 only where something is really recorded
    from rclpy.executors import ExternalShutdownException

    from ..ros.recorder import Recorder

    with Recording(arguments.out) as recording:
        rclpy.init(args=[])
        try:
            recorder = Recorder(arguments.node, recording.write, partial(print, flush=True))
            print(f'recording to {arguments.out}', flush=True)
            rclpy.spin(recorder)
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
        except RuntimeError:  # a signal between two waits, where rclpy does not name it
            if rclpy.ok():
                raise
        finally:
            rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
