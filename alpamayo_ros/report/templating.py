"""Fills the HTML templates of the reports. Everything that a template inserts is escaped."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=PackageLoader(__package__, 'templates'),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters['base64'] = lambda data: base64.b64encode(data).decode()


def fill(template: str, **values: Any) -> str:
    """Text of a template in templates/ with its variables set to `values`."""
    return _ENVIRONMENT.get_template(template).render(values)
