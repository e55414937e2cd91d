"""All parameters of the node as a Markdown table and as help text."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

from .parameters import NodeParameters


def format_markdown_table() -> str:
    """Table of all parameters for the documents."""
    lines = ['| parameter | default | allowed | what it is |', '|---|---|---|---|']
    for row in fields(NodeParameters):
        shown = f'`{_default(row)}`' if row.default != '' else ''
        live = ' (live)' if row.metadata['live'] else ''
        facts = f'{shown} | {_allowed(row)} | {row.metadata["description"]}'
        lines.append(f'| `{row.name}`{live} | {facts} |')
    return '\n'.join(lines)


def format_help() -> str:
    """All parameters for a terminal: one line for the facts, one for the description."""
    lines = []
    for row in fields(NodeParameters):
        facts = [f'default {_default(row)}'] if row.default != '' else []
        facts += [_allowed(row)] if _allowed(row) else []
        facts += ['live'] if row.metadata['live'] else []
        lines.append(f'  {row.name}' + (f' ({"; ".join(facts)})' if facts else ''))
        lines.append(f'      {row.metadata["description"]}')
    return '\n'.join(lines)


def _default(row: Field[Any]) -> str:
    return str(row.default).lower()


def _allowed(row: Field[Any]) -> str:
    if row.metadata['low'] is not None:
        return f'{row.metadata["low"]} ... {row.metadata["high"]}'
    return ', '.join(str(choice) for choice in row.metadata['choices'])
