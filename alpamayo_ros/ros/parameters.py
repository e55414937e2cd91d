"""The parameters of the node: one field of NodeParameters is one ROS parameter.

A field holds type, default, range or choices, description and whether it can change at run time.
Declaration, checks, the tables of the documents and the tests are made from the fields. Knows no
rclpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from ..context.navigation import MAX_AGE_S, ON_MISSING_NAVIGATION
from ..data_types import LONGEST_DRAFT, REASONING, SAMPLE_CHOICES, SamplingOptions
from ..errors import BadInput
from ..limits import ContextLimits
from ..profiles import DEFAULT, PROFILES, Profile, choose, split_names
from ..rig import CameraRig, load_rig, select_cameras
from ..runtime.start import ENGINES, EngineChoice
from .publishing.policy import (
    EXPIRED_PATH,
    ON_INVALID,
    ON_TOO_FAST,
    ON_UNHEALTHY,
    TRUSTED_DISTANCE_M,
    Policies,
)
from .publishing.stamped_prediction import FRAMES

BITS = (1.58, 2.0, 4.0, 8.0, 16.0)
MOST_PIXELS = 1 << 24
WIDTHS = (0, 16, 8)  # of activations and of keys and values; 0: that of the profile


def parameter_field(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
    live: bool = False,
) -> Any:
    """Field of a parameter; `low`, `high` bound a number, a `live` one can change at run time."""
    facts = {'description': description, 'choices': choices, 'live': live}
    return field(default=default, metadata={**facts, 'low': low, 'high': high})


def limit_field(name: str) -> Any:
    """Field of a limit of the buffer; the rig may set another default."""
    (row,) = (row for row in fields(ContextLimits) if row.name == name)
    facts = row.metadata
    return parameter_field(row.default, facts['description'], low=facts['low'], high=facts['high'])


@dataclass(frozen=True)
class NodeParameters:
    """Values of all parameters, checked; BadInput names the parameter and what is allowed."""

    rig: str = parameter_field(
        '', 'Rig file with cameras and topics: a name in config/rigs or a path. Required.'
    )
    engine: str = parameter_field(
        'alpamayo', 'Engine that predicts; constant_velocity needs no model.', choices=ENGINES
    )
    checkpoint: str = parameter_field(
        '',
        'Checkpoint: a folder, a hub id, or small, a model of a synthetic world that ships with '
        'the package. Required for the engine alpamayo.',
    )
    bits: float = parameter_field(
        2.0,
        'Bits per weight; a checkpoint in full precision is quantized while it is loaded.',
        choices=BITS,
    )
    recipe: str = parameter_field(
        '', 'Quantization recipe that the checkpoint must have; empty: any, or the default one.'
    )
    device: str = parameter_field('cuda', 'Device of the model: cuda, cuda:N or cpu.')
    profile: str = parameter_field(
        DEFAULT,
        'Accuracy for time: what activations, kv_bits, reasoning, flow_steps, cameras and pixels '
        'are where they are not set.',
        choices=tuple(PROFILES),
    )
    activations: int = parameter_field(
        0, "Bits of the activations in the products; 0: the profile's.", choices=WIDTHS
    )
    kv_bits: int = parameter_field(
        0, "Bits of keys and values in the cache; 0: the profile's.", choices=WIDTHS
    )
    cameras: str = parameter_field(
        '', "Names of the rig's cameras that are used, with commas between; empty: the profile's."
    )
    pixels: int = parameter_field(
        0, "Most pixels of an image; 0: the profile's.", low=0, high=MOST_PIXELS
    )
    output_frame: str = parameter_field('odometry', 'Frame of the published path.', choices=FRAMES)
    on_invalid: str = parameter_field(
        'stop',
        'What goes out in place of an invalid path: nothing (stop); the last valid path (hold); '
        'nothing, and the status calls the path flagged (flag); or the invalid path itself, '
        'unless it is not finite (publish_invalid).',
        choices=ON_INVALID,
    )
    on_unhealthy_reasoning: str = parameter_field(
        'drop',
        'Whether a path is published whose reasoning did not end or repeats itself.',
        choices=ON_UNHEALTHY,
    )
    expired_path: str = parameter_field(
        'drop',
        'What happens to a path whose waypoints are all in the past; trim also removes single '
        'waypoints that are in the past.',
        choices=EXPIRED_PATH,
    )
    min_remaining_s: float = parameter_field(
        1.0, 'Shortest rest of a trimmed path, s; a shorter one is dropped.', low=0.1, high=6.4
    )
    retime: bool = parameter_field(
        False, "Re-time a late path: same geometry, but it starts with the vehicle's speed."
    )
    on_too_fast: str = parameter_field(
        'keep',
        'What happens to a path while the vehicle is faster than paths can be trusted at, by how '
        'late they come: it goes out as it is (keep), or re-timed and slowed down (slow).',
        choices=ON_TOO_FAST,
    )
    trusted_distance_m: float = parameter_field(
        TRUSTED_DISTANCE_M,
        'How far from its t0 a path may be driven, m; over age and time to the next path it makes '
        'the trusted speed.',
        low=1.0,
        high=500.0,
    )
    max_rate_hz: float = parameter_field(
        10.0, 'Upper limit of inferences per second, by header stamps.', low=0.01, high=100.0
    )
    navigation_max_age_s: float = parameter_field(
        MAX_AGE_S,
        'Oldest route text of ~/input/navigation that stands in a prompt, s.',
        low=0.1,
        high=3600.0,
    )
    on_missing_navigation: str = parameter_field(
        'ignore',
        'What happens without a route text that is new enough: a plan without one, with a check '
        '(ignore), or none (reject).',
        choices=ON_MISSING_NAVIGATION,
    )
    lanelet_map: str = parameter_field(
        '',
        'Lanelet2 map of Autoware (.osm with local_x, local_y): ~/input/route then takes '
        'autoware_planning_msgs/LaneletRoute, in the frame of the map.',
    )
    max_input_age_s: float = limit_field('max_input_age_s')
    odometry_max_gap_s: float = limit_field('odometry_max_gap_s')
    max_skew_s: float = limit_field('max_skew_s')
    frame_lead_s: float = limit_field('frame_lead_s')
    num_samples: int = parameter_field(
        1, 'Number of trajectories per context.', low=1, high=64, live=True
    )
    seed: int = parameter_field(
        0, 'Seed of the samples; t0 is mixed in.', low=0, high=2**31 - 1, live=True
    )
    temperature: float = parameter_field(
        0.6, 'Sampling temperature of the reasoning text.', low=0.01, high=5.0, live=True
    )
    top_p: float = parameter_field(
        0.98, 'Nucleus sampling (top-p) of the reasoning text.', low=0.01, high=1.0, live=True
    )
    greedy: bool = parameter_field(
        False, 'Take the most likely token of the reasoning text (argmax).', live=True
    )
    max_tokens: int = parameter_field(
        256, 'Most tokens of the reasoning text per sample.', low=1, high=4096, live=True
    )
    reasoning: str = parameter_field(
        'profile',
        'How much reasoning comes before a path: all, up to max_tokens (short), or none.',
        choices=('profile', *REASONING),
        live=True,
    )
    draft_tokens: int = parameter_field(
        0,
        'Most tokens of a draft of the reasoning text, which one pass verifies: the same text in '
        'less time, where it resembles earlier ones; 0: no drafts.',
        low=0,
        high=LONGEST_DRAFT,
    )
    flow_steps: int = parameter_field(
        0,
        "Integration steps of the flow matching; 0: the profile's, or else the checkpoint's.",
        low=0,
        high=100,
        live=True,
    )
    noise_temperature: float = parameter_field(
        1.0, 'Factor of the noise that a path begins as.', low=0.01, high=5.0, live=True
    )
    sample_choice: str = parameter_field(
        'medoid',
        'Which of the sampled paths is published: the one nearest to the others (medoid), the '
        'mean of those within 2 m of it (mean), or the first.',
        choices=SAMPLE_CHOICES,
        live=True,
    )
    guidance_weight: float = parameter_field(
        1.0,
        'Weight of the route text: 1 takes it as it is, more follows it more closely at twice the '
        'cost. Alpamayo 1.5.',
        low=0.0,
        high=10.0,
        live=True,
    )
    inference_timeout_s: float = parameter_field(
        60.0,
        'Longest inference, s; a longer one is an error in the diagnostics, and the process of '
        'the engine is ended and started again.',
        low=0.01,
        high=3600.0,
    )
    autostart: bool = parameter_field(
        True,
        'Configure and activate at the start; false: wait for those transitions, or for ~/load.',
    )
    answer_while_active: bool = parameter_field(
        False, 'Answer ~/ask while active too, where a question delays the paths.', live=True
    )
    engine_process: bool = parameter_field(
        True,
        'Run the engine in a process of its own, which may hang or die; false: in a thread.',
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
        """Sampling options of the engine."""
        return SamplingOptions.from_values({**vars(self), **vars(self.chosen)})

    @property
    def chosen(self) -> Profile:
        """The profile with what is set beside it."""
        own = {row.name: getattr(self, row.name) for row in fields(Profile)}
        return choose(self.profile, Profile(**own))

    def load_rig(self, namespace: str = '/') -> CameraRig:
        """Read the rig, with the cameras that are used; namespace: that of the node."""
        return select_cameras(load_rig(self.rig, namespace), split_names(self.chosen.cameras))

    @property
    def limits(self) -> ContextLimits:
        """Limits of the context buffer."""
        return ContextLimits(
            self.max_input_age_s, self.odometry_max_gap_s, self.max_skew_s, self.frame_lead_s
        )

    @property
    def policies(self) -> Policies:
        """Policies of the publication."""
        return Policies(**{row.name: getattr(self, row.name) for row in fields(Policies)})

    @property
    def choice(self) -> EngineChoice:
        """The engine to start."""
        chosen = self.chosen
        return EngineChoice(
            self.engine,
            self.checkpoint,
            self.device,
            self.bits,
            self.recipe,
            self.sampling,
            chosen.activations,
            chosen.kv_bits,
            split_names(chosen.cameras),
            chosen.pixels,
        )

    def with_changes(self, values: Mapping[str, Any]) -> NodeParameters:
        """Copy with other values; names that are no parameters of the node are left out."""
        rows = {row.name: row for row in fields(self)}
        known = {name: values[name] for name in values if name in rows}
        return replace(self, **{name: convert(rows[name], x) for name, x in known.items()})


def convert(row: Field[Any], value: Any) -> Any:
    """A number for a floating-point parameter, which may be written without a point."""
    if row.type != 'float':
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadInput(f"{row.name}: '{value}' is not a number")
    return float(value)


def _check(row: Field[Any], value: Any) -> None:
    choices, low, high = (row.metadata[key] for key in ('choices', 'low', 'high'))
    if choices and value not in choices:
        allowed = ', '.join(str(choice) for choice in choices)
        raise BadInput(f"{row.name}: '{value}' is not one of {allowed}")
    if low is not None and not low <= value <= high:
        raise BadInput(f'{row.name}: {value} is not in {low} ... {high}')
