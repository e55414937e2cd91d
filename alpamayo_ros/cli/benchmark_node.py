"""The part of alpamayo_benchmark that runs the live node."""

from __future__ import annotations

import argparse
from pathlib import Path
import tempfile
from typing import Any

from tqdm import tqdm

from ..errors import BadInput
from .launcher import launcher, require_rclpy


def add_node(parts: Any) -> None:
    """Add the part `node`."""
    text = 'what the live node costs without a model: a process of its own, fed over the wire'
    part = parts.add_parser('node', help=text, description=text)
    part.add_argument('--seconds', type=int, default=20, help='how long (default: 20)')
    part.set_defaults(run=benchmark_node, packages=('numpy',))


def benchmark_node(arguments: argparse.Namespace) -> dict[str, Any]:
    """In real time; the node is started as this process was."""
    if arguments.seconds < 1:
        raise BadInput(f'--seconds {arguments.seconds}: expected 1 or more')
    require_rclpy()
    from ..benchmark import node as node_benchmark  # imports rclpy

    with tempfile.TemporaryDirectory() as folder:
        seconds = tqdm(range(arguments.seconds), desc='seconds', dynamic_ncols=True)
        return node_benchmark.measure(launcher(), Path(folder), seconds)
