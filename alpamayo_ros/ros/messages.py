"""Message factory over the installed message classes: `make(type_name, **fields)`.

The live counterpart of `bags/messages.py`, for every code that fills messages. rclpy fills
in what is not named; numpy arrays become array.array, which all versions of rclpy take. Classes
are found by name, so no package is imported before a message of it is made.
"""

from __future__ import annotations

from array import array
from functools import cache
import importlib
from typing import Any

import numpy as np

from ..errors import BadInput


@cache
def interface(type_name: str) -> Any:
    """Class of 'package/msg/Name' or 'package/srv/Name'; BadInput when it is not installed."""
    package, kind, name = type_name.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.{kind}'), name)
    except (ImportError, AttributeError):
        raise BadInput(f'{type_name}: the package {package} is not installed') from None


def make(type_name: str, **fields: Any) -> Any:
    """Message of a type with these fields."""
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            fields[name] = array(value.dtype.char, value.tobytes())
    return interface(type_name)(**fields)
