"""Starts and ends rclpy, in the same way for every process of the package.

A signal ends the process quietly, and arguments that cannot be used raise BadInput. Knows no node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.qos_overriding_options import InvalidQosOverridesError

from ..errors import BadInput


def initialise_rclpy(args: Sequence[str] | None, **options: Any) -> None:
    """rclpy.init; raises BadInput for arguments and an environment that it cannot use."""
    try:
        rclpy.init(args=args, **options)
    except RuntimeError as error:  # rclpy's own errors are of this type
        raise BadInput(_join_lines(error)) from error


@contextmanager
def session(args: Sequence[str] | None = None) -> Iterator[None]:
    """Initialise rclpy with command line arguments, and shut it down after the block.

    SIGINT and SIGTERM end the block, and that is no error. Raises BadInput for arguments, names,
    parameters and QoS that cannot be used.
    """
    try:
        initialise_rclpy(args)
        yield
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ParameterException, NameValidationException, InvalidQosOverridesError) as error:
        raise BadInput(_join_lines(error)) from error
    except RuntimeError:  # a signal between two calls, where rclpy does not name it
        if rclpy.ok():
            raise
    finally:
        rclpy.try_shutdown()


@contextmanager
def blame_inputs_while_starting() -> Iterator[None]:
    """Raise BadInput for errors of the layers below rclpy: at a start they are about arguments."""
    try:
        yield
    except RuntimeError as error:
        if rclpy.ok():
            raise BadInput(_join_lines(error)) from error
        raise


def _join_lines(error: Exception) -> str:
    return ' '.join(str(error).split())
