"""Arguments that choose an engine and how it samples, for every command that runs one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..data_types import SamplingOptions
from ..errors import BadInput


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that choose the engine and how it samples."""
    engine = parser.add_argument_group('engine')
    engine.add_argument('--engine', choices=('alpamayo', 'constant_velocity'), default='alpamayo')
    engine.add_argument(
        '--checkpoint',
        type=Path,
        metavar='DIR',
        help='needed by alpamayo: folder, hub id, or small, which knows a synthetic world only',
    )
    engine.add_argument('--device', default='cpu', help='cpu (default), cuda or cuda:N')
    engine.add_argument(
        '--bits',
        type=float,
        help='expected of a quantized checkpoint; a plain one is quantized while it is loaded',
    )
    engine.add_argument(
        '--recipe', help='likewise (default for a plain one: as alpamayo_quantize)'
    )
    engine.add_argument(
        '--host-embedding', action='store_true', help='leave the embedding in its file'
    )
    engine.add_argument('--samples', type=int, default=1, metavar='K', help='per t0 (default 1)')
    engine.add_argument('--seed', type=int, default=0)
    engine.add_argument('--greedy', action='store_true', help='reasoning by argmax')
    engine.add_argument('--temperature', type=float, default=SamplingOptions.temperature)
    engine.add_argument('--top-p', type=float, default=SamplingOptions.top_p)
    engine.add_argument('--max-tokens', type=int, default=SamplingOptions.max_tokens)
    engine.add_argument('--flow-steps', type=int, help="default: the checkpoint's")


def check_engine_arguments(arguments: argparse.Namespace) -> None:
    """Raise BadInput for a value that no engine can use."""
    steps = arguments.flow_steps
    require(arguments.samples >= 1, '--samples', arguments.samples, '1 or more')
    require(arguments.temperature > 0, '--temperature', arguments.temperature, 'more than 0')
    require(0 < arguments.top_p <= 1, '--top-p', arguments.top_p, 'more than 0, at most 1')
    require(arguments.max_tokens >= 1, '--max-tokens', arguments.max_tokens, '1 or more')
    require(steps is None or steps >= 1, '--flow-steps', steps, '1 or more')
    if arguments.engine == 'alpamayo' and arguments.checkpoint is None:
        raise BadInput('--checkpoint: expected a folder, small or a hub id for --engine alpamayo')


def make_engine(arguments: argparse.Namespace) -> Any:
    """Engine that the arguments ask for, loaded."""
    options = SamplingOptions(
        num_samples=arguments.samples,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        greedy=arguments.greedy,
        max_tokens=arguments.max_tokens,
        flow_steps=arguments.flow_steps,
    )
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
    )


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise BadInput unless the condition on an argument holds."""
    if not condition:
        raise BadInput(f'{name} {value}: expected {expected}')
