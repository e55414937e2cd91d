"""Options that several commands share: the engine and its sampling, and parameters of the node."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any

from ..data_types import LONGEST_DRAFT, REASONING, SAMPLE_CHOICES, SamplingOptions
from ..errors import BadInput
from ..limits import ContextLimits
from ..profiles import DEFAULT, PROFILES, Profile, choose, split_names
from ..rig import CameraRig, select_cameras
from ..ros.parameters import NodeParameters

LIMITS = tuple(row.name for row in fields(ContextLimits))
BOOLEANS = {'true': True, 'false': False}


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the engine and how it samples."""
    engine = parser.add_argument_group('engine')
    engine.add_argument(
        '--engine',
        choices=('alpamayo', 'constant_velocity'),
        default='alpamayo',
        help='the model (default), or a path straight on at the measured speed',
    )
    engine.add_argument(
        '--checkpoint',
        type=Path,
        metavar='DIR',
        help='required by alpamayo: a folder, a hub id, or small (a synthetic world only)',
    )
    add_device_argument(engine)
    engine.add_argument(
        '--bits',
        type=float,
        help='width that a quantized checkpoint must have; a plain one is quantized to it on load',
    )
    engine.add_argument(
        '--recipe',
        help='recipe that a quantized checkpoint must have; a plain one is quantized with it '
        '(default: that of alpamayo_quantize)',
    )
    engine.add_argument(
        '--host-embedding',
        action='store_true',
        help='read rows of the token embedding from its file, to save memory of the device',
    )
    engine.add_argument(
        '--samples', type=int, default=1, metavar='K', help='trajectories per t0 (default 1)'
    )
    engine.add_argument(
        '--seed', type=int, default=0, help='with t0 the seed of an inference (default 0)'
    )
    engine.add_argument(
        '--greedy', action='store_true', help='take the likeliest token of the reasoning text'
    )
    for name, kind, text in (
        ('temperature', float, 'sampling temperature of the reasoning text'),
        ('top-p', float, 'probability mass that the reasoning text is sampled from'),
        ('max-tokens', int, 'longest reasoning text of a sample, in tokens'),
        ('draft-tokens', int, 'longest draft of that text: the same text in less time; 0: none'),
        ('noise-temperature', float, 'factor of the noise that a path begins as'),
        ('guidance-weight', float, 'weight of the route text of Alpamayo 1.5; 1 is off'),
    ):
        value = getattr(SamplingOptions, name.replace('-', '_'))
        text = f'{text} (default %(default)s)'
        engine.add_argument(f'--{name}', type=kind, default=value, help=text)
    engine.add_argument(
        '--sample-choice',
        choices=SAMPLE_CHOICES,
        default=SamplingOptions.sample_choice,
        help='which of the samples counts as the path: that nearest to the others, the mean of '
        'those within 2 m of it, or the first (default %(default)s)',
    )
    add_profile_arguments(parser)


def add_device_argument(parser: argparse._ActionsContainer) -> None:
    """Add the device, to a parser or one of its groups."""
    parser.add_argument('--device', default='cpu', help='cpu (default), cuda or cuda:N')


def add_profile_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the profile, and an option for each of its fields: one that is given wins over it."""
    group = parser.add_argument_group('accuracy for time (default: those of the profile)')
    group.add_argument('--profile', choices=tuple(PROFILES), default=DEFAULT)
    for name, text in (
        ('activations', 'bits of the activations in the products'),
        ('kv-bits', 'bits of keys and values'),
    ):
        group.add_argument(f'--{name}', type=int, choices=(16, 8), default=0, help=text)
    group.add_argument(
        '--reasoning',
        choices=REASONING,
        default='profile',
        help='before a path: all, up to --max-tokens (short), or none',
    )
    group.add_argument(
        '--flow-steps',
        type=int,
        default=0,
        metavar='N',
        help="steps of flow matching (exact: the checkpoint's own number)",
    )
    group.add_argument(
        '--cameras', default='', metavar='NAMES', help='that are used, with commas between them'
    )
    group.add_argument('--pixels', type=int, default=0, metavar='N', help='of an image, at most')


def resolve_profile(arguments: argparse.Namespace) -> Profile:
    """The profile with the options that are given beside it."""
    own = {row.name: getattr(arguments, row.name) for row in fields(Profile)}
    return choose(arguments.profile, Profile(**own))


def check_engine_arguments(arguments: argparse.Namespace) -> None:
    """Raise BadInput for a value that no engine can use; write the profile's choices in."""
    vars(arguments).update(vars(resolve_profile(arguments)))
    steps, weight = arguments.flow_steps, arguments.guidance_weight
    noise = arguments.noise_temperature
    require(arguments.samples >= 1, '--samples', arguments.samples, '1 or more')
    require(arguments.temperature > 0, '--temperature', arguments.temperature, 'more than 0')
    require(0 < arguments.top_p <= 1, '--top-p', arguments.top_p, 'more than 0, at most 1')
    require(arguments.max_tokens >= 1, '--max-tokens', arguments.max_tokens, '1 or more')
    drafted = arguments.draft_tokens
    require(0 <= drafted <= LONGEST_DRAFT, '--draft-tokens', drafted, f'0 to {LONGEST_DRAFT}')
    require(steps >= 0, '--flow-steps', steps, '1 or more')
    require(arguments.pixels >= 0, '--pixels', arguments.pixels, '0 or more')
    require(weight >= 0, '--guidance-weight', weight, '0 or more')
    require(noise > 0, '--noise-temperature', noise, 'more than 0')
    if arguments.engine == 'alpamayo' and arguments.checkpoint is None:
        raise BadInput('--checkpoint: expected a folder, small or a hub id for --engine alpamayo')


def make_engine(arguments: argparse.Namespace) -> Any:
    """Load the engine that the arguments ask for."""
    values = {**vars(arguments), 'num_samples': arguments.samples}
    options = SamplingOptions.from_values(values)
    if arguments.engine == 'constant_velocity':
        from ..runtime.constant_velocity import ConstantVelocityEngine

        return ConstantVelocityEngine(options)
    from ..runtime.engine import AlpamayoEngine  # torch takes seconds to import

    return AlpamayoEngine(
        arguments.checkpoint,
        arguments.device,
        options,
        arguments.bits,
        arguments.recipe,
        arguments.host_embedding,
        activations=arguments.activations,
        kv_bits=arguments.kv_bits,
        cameras=split_names(arguments.cameras),
        pixels=arguments.pixels,
    )


def add_node_parameters(parser: argparse.ArgumentParser, title: str, names: Iterable[str]) -> None:
    """Add an option for each parameter of the node in `names`; '_' becomes '-'.

    The values are texts, None where the option is not given: see `parse_node_parameter`.
    """
    group = parser.add_argument_group(title)
    rows = {row.name: row for row in fields(NodeParameters)}
    for name in names:
        row = rows[name]
        optional: dict[str, Any] = {'nargs': '?', 'const': 'true'} if row.type == 'bool' else {}
        group.add_argument(
            f'--{name.replace("_", "-")}',
            metavar=_metavar(row),
            **optional,
            help=f'{row.metadata["description"]} {_describe_default(row)}'.replace('%', '%%'),
        )


def read_node_parameters(arguments: argparse.Namespace, names: Iterable[str]) -> Mapping[str, Any]:
    """Values of the parameters of the node that the command line sets, by name.

    Raises BadInput for a text that is no value of the type of its parameter.
    """
    texts = {name: getattr(arguments, name) for name in names}
    return {
        name: parse_node_parameter(name, text) for name, text in texts.items() if text is not None
    }


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add an option for each limit of the inputs, see `apply_limits`."""
    add_node_parameters(parser, 'limits of the inputs (default: those of the rig)', LIMITS)


def apply_limits(rig: CameraRig, arguments: argparse.Namespace) -> CameraRig:
    """The rig with the limits and cameras of the command line; raises BadInput for a bad value."""
    rig = replace(rig, limits=read_limits(arguments, rig.limits))
    return select_cameras(rig, split_names(arguments.cameras))


def read_limits(arguments: argparse.Namespace, defaults: ContextLimits) -> ContextLimits:
    """The limits with those of the command line; raises BadInput for a bad value."""
    values = read_node_parameters(arguments, LIMITS)
    NodeParameters(rig='r1', engine='constant_velocity', **values)  # checks their ranges
    return replace(defaults, **values)


def parse_node_parameter(name: str, text: str) -> Any:
    """Value of a parameter of the node; integers as the node reads them: 0x10 is 16."""
    kind = {row.name: row.type for row in fields(NodeParameters)}[name]
    try:
        if kind == 'int':
            return int(text, 0)
        if kind == 'float':
            return float(text)
        return BOOLEANS[text.lower()] if kind == 'bool' else text
    except (ValueError, KeyError):
        expected = {'int': 'an integer', 'float': 'a number', 'bool': 'true or false'}[str(kind)]
        raise BadInput(f'--{name.replace("_", "-")} {text}: expected {expected}') from None


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise BadInput unless the condition on an argument holds."""
    if not condition:
        raise BadInput(f'{name} {value}: expected {expected}')


def _metavar(row: Field[Any]) -> str:
    if row.metadata['choices']:
        choices = row.metadata['choices']
        return '|'.join(f'{x:g}' if row.type == 'float' else str(x) for x in choices)
    kinds = {'int': 'N', 'float': 'S' if row.name.endswith('_s') else 'X', 'bool': 'true|false'}
    return kinds.get(str(row.type), 'TEXT')


def _describe_default(row: Field[Any]) -> str:
    return f'(default {str(row.default).lower()})' if row.default != '' else ''
