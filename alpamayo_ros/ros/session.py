"""rclpy from its start to its end, the same for every process of the package.

A signal ends one quietly, and what its user gave wrongly is BadInput. Knows no node.
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
        raise BadInput(_line(error)) from error


@contextmanager
def session(args: Sequence[str] | None = None) -> Iterator[None]:
    """Initialise rclpy with command line arguments, and shut it down behind the block.

    SIGINT and SIGTERM end the block, and that is no error. Raises BadInput for arguments, names,
    parameters and QoS that cannot be used.
    """
    try:
        initialise_rclpy(args)
        yield
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ParameterException, NameValidationException, InvalidQosOverridesError) as error:
        raise BadInput(_line(error)) from error
    except RuntimeError:  # a signal between two calls, where rclpy does not name it
        if rclpy.ok():
            raise
    finally:
        rclpy.try_shutdown()


@contextmanager
def blame_inputs_while_starting() -> Iterator[None]:
    """While a node comes up, an error of the layers below rclpy is about what it was given."""
    try:
        yield
    except RuntimeError as error:
        if rclpy.ok():
            raise BadInput(_line(error)) from error
        raise


def _line(error: Exception) -> str:
    return ' '.join(str(error).split())
