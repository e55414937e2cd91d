"""The parameters of the node: one field of NodeParameters is one ROS parameter.

Type, default, range or choices, description and whether it can change at run time stand in the
field; declaration, checks, the table of the README and the tests are made from there. Knows
rclpy only as a node that is passed in, and messages only through a factory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from ..data_types import SamplingOptions
from ..errors import BadInput
from ..limits import ContextLimits
from ..runtime.start import ENGINES, EngineChoice
from .outputs import FRAMES, Make
from .policy import EXPIRED_PATH, ON_INVALID, ON_UNHEALTHY, Policies

BITS = (1.58, 2.0, 4.0, 8.0, 16.0)


def parameter_field(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
    live: bool = False,
) -> Any:
    """Field of a parameter; `low` and `high` bound a number, `live` lets it change at run time."""
    facts = {'description': description, 'choices': choices, 'live': live}
    return field(default=default, metadata={**facts, 'low': low, 'high': high})


@dataclass(frozen=True)
class NodeParameters:
    """Values of all parameters, checked; BadInput names the parameter and what is allowed."""

    rig: str = parameter_field('', 'Cameras and topics: a name in config/rigs or a path. Required.')
    engine: str = parameter_field('alpamayo', 'What predicts.', choices=ENGINES)
    checkpoint: str = parameter_field(
        '',
        'Folder, hub id, or small, which knows a synthetic world only. '
        'Required for the engine alpamayo.',
    )
    bits: float = parameter_field(
        2.0,
        'Width of the weights; a plain checkpoint is quantized while it is loaded.',
        choices=BITS,
    )
    recipe: str = parameter_field('', 'Recipe of the weights; empty: any, or that of alpamayo_quantize.')
    device: str = parameter_field('cuda', 'cuda, cuda:N or cpu.')
    output_frame: str = parameter_field('odometry', 'Frame of the path.', choices=FRAMES)
    on_invalid: str = parameter_field(
        'stop',
        'When there is no valid path: no message, the last valid one, or the invalid one flagged.',
        choices=ON_INVALID,
    )
    on_unhealthy_reasoning: str = parameter_field(
        'drop', 'Path whose reasoning did not end or repeats.', choices=ON_UNHEALTHY
    )
    expired_path: str = parameter_field(
        'drop',
        'Path that is over; trim also leaves out the waypoints that are over.',
        choices=EXPIRED_PATH,
    )
    min_remaining_s: float = parameter_field(
        1.0, 'What must be left of a trimmed path.', low=0.1, high=6.4
    )
    max_rate_hz: float = parameter_field(
        10.0, 'Upper limit of inferences, by stamps.', low=0.01, high=100.0
    )
    max_input_age_s: float = parameter_field(
        0.5, 'Older input is not inferred any more.', low=0.05, high=10.0
    )
    odometry_max_gap_s: float = parameter_field(0.2, 'Longest gap in the odometry.', low=0.01, high=0.5)
    max_skew_s: float = parameter_field(
        0.05, 'Largest spread of the cameras at one grid time.', low=0.0, high=0.1
    )
    frame_lead_s: float = parameter_field(
        0.01, 'How much later than t0 a frame may be stamped.', low=0.0, high=0.05
    )
    num_samples: int = parameter_field(1, 'Trajectories per context.', low=1, high=64, live=True)
    seed: int = parameter_field(0, 'With t0 the seed of an inference.', low=0, high=2**31 - 1, live=True)
    temperature: float = parameter_field(0.6, 'Of the reasoning.', low=0.01, high=5.0, live=True)
    top_p: float = parameter_field(0.98, 'Of the reasoning.', low=0.01, high=1.0, live=True)
    greedy: bool = parameter_field(False, 'Reasoning by argmax.', live=True)
    max_tokens: int = parameter_field(
        256, 'Budget of the reasoning per sample.', low=1, high=4096, live=True
    )
    flow_steps: int = parameter_field(
        0, "Steps of the flow; 0: the checkpoint's own number.", low=0, high=100, live=True
    )
    inference_timeout_s: float = parameter_field(
        60.0, 'A longer inference is an error in the diagnostics.', low=0.01, high=3600.0
    )
    max_failures: int = parameter_field(
        3, 'Failed inferences in a row after which inference stops.', low=1, high=1000
    )
    autoware_trajectory: bool = parameter_field(
        False, 'Publish ~/output/autoware_trajectory too; needs autoware_planning_msgs.'
    )

    def __post_init__(self) -> None:
        for row in fields(self):
            _check(row, getattr(self, row.name))
        if not self.rig:
            raise BadInput('rig: required, a name in config/rigs or a path')
        if self.engine == 'alpamayo' and not self.checkpoint:
            raise BadInput('checkpoint: required for engine=alpamayo, a folder, small or a hub id')
        kind, _, number = self.device.partition(':')
        if kind not in ('cpu', 'cuda') or (kind == 'cpu' and number) or ':' in number:
            raise BadInput(f"device: '{self.device}' is not one of cpu, cuda, cuda:N")

    @property
    def sampling(self) -> SamplingOptions:
        """How an engine samples."""
        return SamplingOptions(
            num_samples=self.num_samples,
            temperature=self.temperature,
            top_p=self.top_p,
            greedy=self.greedy,
            max_tokens=self.max_tokens,
            flow_steps=self.flow_steps or None,
        )

    @property
    def limits(self) -> ContextLimits:
        """What the buffer accepts."""
        return ContextLimits(
            self.max_input_age_s, self.odometry_max_gap_s, self.max_skew_s, self.frame_lead_s
        )

    @property
    def policies(self) -> Policies:
        """What is done with predictions."""
        return Policies(
            self.on_invalid,
            self.on_unhealthy_reasoning,
            self.expired_path,
            self.min_remaining_s,
        )

    @property
    def choice(self) -> EngineChoice:
        """Which engine to start."""
        return EngineChoice(
            self.engine, self.checkpoint, self.device, self.bits, self.recipe, self.sampling
        )

    def with_changes(self, values: Mapping[str, Any]) -> NodeParameters:
        """Copy with other values; names that are no parameters of ours are left out."""
        known = {row.name for row in fields(self)}
        return replace(self, **{name: values[name] for name in values if name in known})


def declare(node: Any, make: Make) -> NodeParameters:
    """Declare every parameter on a node and return what files and arguments set them to.

    Raises BadInput; rclpy raises its ParameterException for a wrong type or range.
    """
    values = {}
    for row in fields(NodeParameters):
        described = make_descriptor(row, make)
        values[row.name] = node.declare_parameter(row.name, row.default, described).value
    if isinstance(values['bits'], int):
        values['bits'] = float(values['bits'])  # -p bits:=2 is an integer
    return NodeParameters(**values)


def make_descriptor(row: Field[Any], make: Make) -> Any:
    """rcl_interfaces/ParameterDescriptor of a field."""
    low, high = row.metadata['low'], row.metadata['high']
    kind = 'integer' if row.type == 'int' else 'floating_point'
    ranges = {}
    if low is not None:
        name = 'IntegerRange' if row.type == 'int' else 'FloatingPointRange'
        bounds = make(f'rcl_interfaces/msg/{name}', from_value=low, to_value=high)
        ranges[f'{kind}_range'] = [bounds]
    allowed = ', '.join(str(choice) for choice in row.metadata['choices'])
    return make(
        'rcl_interfaces/msg/ParameterDescriptor',
        description=row.metadata['description'],
        additional_constraints=f'one of: {allowed}' if allowed else '',
        read_only=not row.metadata['live'],
        dynamic_typing=row.name == 'bits',
        **ranges,
    )


def format_markdown_table() -> str:
    """Table of all parameters for the README."""
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


def _check(row: Field[Any], value: Any) -> None:
    choices, low, high = (row.metadata[key] for key in ('choices', 'low', 'high'))
    if choices and value not in choices:
        allowed = ', '.join(str(choice) for choice in choices)
        raise BadInput(f"{row.name}: '{value}' is not one of {allowed}")
    if low is not None and not low <= value <= high:
        raise BadInput(f'{row.name}: {value} is not in {low} ... {high}')
