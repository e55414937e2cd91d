"""Tells systemd what the node does, where systemd has started it: ready, alive, its state.

A unit with WatchdogSec then restarts a node whose executor is stuck (config/alpamayo.service).
Knows no rclpy.
"""

from __future__ import annotations

from contextlib import suppress
import os
import socket

READY, ALIVE = 'READY=1', 'WATCHDOG=1'


def notify(message: str) -> None:
    """Send READY, ALIVE or 'STATUS=text' as sd_notify(3) does; nothing without a NOTIFY_SOCKET."""
    address = os.environ.get('NOTIFY_SOCKET', '')
    if not address:
        return
    if address.startswith('@'):  # a name without a file
        address = '\0' + address[1:]
    # a node goes on when nobody supervises it any more
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.sendto(message.encode(), address)
