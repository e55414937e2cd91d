"""All parameters of the node: as a Markdown table, as help text and as a parameter file.

`python -m alpamayo_ros.ros.parameter_tables > config/alpamayo.param.yaml` writes the file.
"""

from __future__ import annotations

from dataclasses import Field, fields
import json
import textwrap
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


def format_parameter_file() -> str:
    """A ROS parameter file with every parameter, its description and its default."""
    lines = [
        '# Every parameter of alpamayo_node with its default. Copy the file, keep the lines that',
        '# differ, and start with params_file:=FILE.',
        '/**:',
        '  ros__parameters:',
    ]
    for row in fields(NodeParameters):
        facts = [row.metadata['description']]
        choices = ', '.join(
            f'{x:g}' if row.type == 'float' else str(x) for x in row.metadata['choices']
        )
        facts += [f'One of: {choices}.'] if choices else []
        if row.metadata['low'] is not None:
            facts.append(f'{row.metadata["low"]} to {row.metadata["high"]}.')
        facts += ['Can change at run time.'] if row.metadata['live'] else []
        comment = textwrap.wrap(' '.join(facts), 92, break_long_words=False)
        lines += [f'    # {line}' for line in comment]
        default = row.default or "''" if row.type == 'str' else json.dumps(row.default)
        lines.append(f'    {row.name}: {default}')
    return '\n'.join(lines) + '\n'


def _default(row: Field[Any]) -> str:
    return str(row.default).lower()


def _allowed(row: Field[Any]) -> str:
    if row.metadata['low'] is not None:
        return f'{row.metadata["low"]} ... {row.metadata["high"]}'
    return ', '.join(str(choice) for choice in row.metadata['choices'])


if __name__ == '__main__':
    print(format_parameter_file(), end='')
