"""alpamayo_drive_server: drive in the simulator AlpaSim, as its driver service."""

from __future__ import annotations

import argparse
import functools
import signal
import sys
import threading

from ..errors import BadInput
from ..limits import ContextLimits
from ..profiles import split_names
from ..rig import DATASET_NAMES
from .engine_arguments import (
    add_engine_arguments,
    add_limits,
    check_engine_arguments,
    make_engine,
    read_limits,
    require,
)
from .entry import command

PORT = 6789  # where AlpaSim looks for a driver that it does not start itself


@command
def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM (0) or Ctrl-C (130); 2 bad input."""
    arguments = parse(argv)
    limits = read_limits(arguments, ContextLimits())
    try:
        from carla_driver_interface.server import serving

        from ..alpasim.driver import AlpamayoDriver
        from ..alpasim.session import make_session_rig
    except ImportError as error:
        raise BadInput(
            f"{error.name} is not installed: pip install 'alpamayo_ros[alpasim]'"
        ) from None
    names = split_names(arguments.cameras)
    make_rig = functools.partial(make_session_rig, names=names, limits=limits)
    make_rig(DATASET_NAMES.values())  # names that no session can have are an error now
    driver = AlpamayoDriver(
        functools.partial(make_engine, arguments), make_rig, functools.partial(print, flush=True)
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        with serving(driver, arguments.port, arguments.host, mode='alpasim') as port:
            print(f'serving on {arguments.host}:{port}', flush=True)
            stop.wait()
    except RuntimeError as error:
        raise BadInput(f'--host {arguments.host} --port {arguments.port}: {error}') from error
    finally:
        driver.close()
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Arguments of the command, checked."""
    parser = argparse.ArgumentParser(
        prog='alpamayo_drive_server', description=__doc__, epilog=main.__doc__
    )
    parser.add_argument(
        '--host', default='127.0.0.1', help='to listen on (default: for this machine alone)'
    )
    parser.add_argument('--port', type=int, default=PORT, help=f'default {PORT}; 0: a free one')
    add_engine_arguments(parser)
    add_limits(parser)
    arguments = parser.parse_args(argv)
    require(0 <= arguments.port < 1 << 16, '--port', arguments.port, '0 to 65535')
    check_engine_arguments(arguments)
    return arguments


if __name__ == '__main__':
    sys.exit(main())
