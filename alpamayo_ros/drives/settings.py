"""Settings of alpamayo_evaluate: which checkpoint, which drives, how late plans come."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ..cluster.workers import LOCAL, Cluster
from ..data_types import REASONING, SAMPLE_CHOICES, SamplingOptions
from ..errors import BadInput
from ..profiles import DEFAULT, Profile, choose
from ..ros.publishing.policy import EXPIRED_PATH, ON_INVALID, ON_TOO_FAST, TRUSTED_DISTANCE_M
from ..world.moments import SIMULATION_STEP_S
from ..world.samples import HORIZON_S
from ..world.towns import SPLITS
from .closed_loop import LONGEST_LATENCY_S

FARTHEST_ASIDE_M = 0.8  # a car there still stands in its lane
NAVIGATION = ('none', 'route')


@dataclass
class EvaluationSettings:
    """Settings that the command takes as key=value.

    reference: the checkpoint of the 16-bit row; by default the evaluated one, if that is not
    packed; its row is of the profile exact. profile, and the six settings behind it: those of the
    node, 0, '' and 'profile' mean the profile's. navigation: 'route' puts the next turn of the
    drive into the prompt, for Alpamayo 1.5. clips: a folder of the makers' data set, whose clips
    are then measured in place of drives; clip_list: a file of the ids to take. moments: t0s per
    drive in the open loop.
    closed_drives: None for all. latencies_s: [] for no closed loop. counterfactuals: whether
    pictures are edited and planned again. displaced_m: how far aside of its lane's
    middle a closed loop begins. retime, on_too_fast, trusted_distance_m and sample_choice: as the
    node's parameters.
    batch: scenes per forward pass. cluster: empty for this process, local for Ray on this
    machine, or ray://HOST. workers: processes that share the drives; 2 or more
    without a cluster are a local one. rounds: of the bootstrap.
    """

    checkpoint: str = 'small'
    bits: float | None = None
    recipe: str | None = None
    reference: str | None = None
    device: str = 'cpu'
    profile: str = DEFAULT
    activations: int = 0
    kv_bits: int = 0
    reasoning: str = 'profile'
    flow_steps: int = 0
    cameras: str = ''
    pixels: int = 0
    navigation: str = 'none'
    guidance_weight: float = 1.0
    noise_temperature: float = 1.0
    sample_choice: str = 'medoid'
    out: str = 'out/evaluation'
    clips: str = ''
    clip_list: str = ''
    split: str = 'test'
    drives: int = 200
    seconds: float = 60.0
    moments: int = 4
    samples: int = 6
    seed: int = 0
    ablations: bool = True
    counterfactuals: bool = True
    latencies_s: list[float] = field(default_factory=lambda: [0.0, 0.5, 1.0, 2.0, 5.0])
    closed_drives: int | None = None
    closed_samples: int = 6
    displaced_m: float = 0.0
    expired_path: str = 'drop'
    on_invalid: str = 'stop'
    retime: bool = False
    on_too_fast: str = 'keep'
    trusted_distance_m: float = TRUSTED_DISTANCE_M
    batch: int = 16
    cluster: str = ''
    workers: int | None = None
    rounds: int = 2000


def check_settings(settings: EvaluationSettings) -> None:
    """Raise BadInput for values that make no evaluation."""
    _require(
        bool(settings.checkpoint), 'checkpoint', settings.checkpoint, 'a folder, small or a hub id'
    )
    for name in ('drives', 'moments', 'samples', 'closed_samples', 'batch', 'rounds'):
        _require(getattr(settings, name) >= 1, name, getattr(settings, name), '1 or more')
    chosen = choose_profile(settings)
    for name, widths in (('activations', (8, 16)), ('kv_bits', (8, 16))):
        _require(getattr(chosen, name) in widths, name, getattr(chosen, name), '8 or 16')
    words = ', '.join(REASONING)
    _require(chosen.reasoning in REASONING, 'reasoning', chosen.reasoning, f'one of {words}')
    _require(settings.navigation in NAVIGATION, 'navigation', settings.navigation, 'none or route')
    for name in ('flow_steps', 'pixels', 'guidance_weight'):
        _require(getattr(settings, name) >= 0, name, getattr(settings, name), '0 or more')
    words, choice = ', '.join(SAMPLE_CHOICES), settings.sample_choice
    _require(choice in SAMPLE_CHOICES, 'sample_choice', choice, f'one of {words}')
    aside = settings.displaced_m
    _require(0 <= aside <= FARTHEST_ASIDE_M, 'displaced_m', aside, f'0 to {FARTHEST_ASIDE_M:g}')
    _require(
        settings.trusted_distance_m > 0, 'trusted_distance_m', settings.trusted_distance_m,
        'more than 0',
    )  # fmt: skip
    noise = settings.noise_temperature
    _require(noise > 0, 'noise_temperature', noise, 'more than 0')
    workers = settings.workers
    _require(workers is None or workers >= 1, 'workers', workers, '1 or more')
    make_cluster(settings)
    _require(settings.seed >= 0, 'seed', settings.seed, '0 or more')
    shortest = HORIZON_S + 2.0
    _require(
        shortest <= settings.seconds <= 600, 'seconds', settings.seconds, f'{shortest:g} to 600'
    )
    for name, known in (
        ('split', SPLITS), ('expired_path', EXPIRED_PATH), ('on_invalid', ON_INVALID),
        ('on_too_fast', ON_TOO_FAST),
    ):  # fmt: skip
        value = getattr(settings, name)
        _require(value in known, name, value, f'one of {", ".join(known)}')
    for latency_s in settings.latencies_s:
        even = abs(latency_s / SIMULATION_STEP_S - round(latency_s / SIMULATION_STEP_S)) < 1e-9
        wanted = f'0 to {LONGEST_LATENCY_S:g} in steps of {SIMULATION_STEP_S:g}'
        _require(0 <= latency_s <= LONGEST_LATENCY_S and even, 'latencies_s', latency_s, wanted)
    _require(
        not settings.clip_list or bool(settings.clips),
        'clip_list',
        settings.clip_list,
        'clips=FOLDER beside it',
    )
    if settings.clips:
        _require(
            settings.navigation == 'none',
            'navigation',
            settings.navigation,
            'none: clips have no routes',
        )
    closed = settings.closed_drives
    _require(
        closed is None or 1 <= closed <= settings.drives, 'closed_drives', closed, '1 to drives'
    )


def choose_profile(settings: EvaluationSettings) -> Profile:
    """The profile with what is set beside it; raises BadInput for an unknown one."""
    own = {row.name: getattr(settings, row.name) for row in fields(Profile)}
    return choose(settings.profile, Profile(**own))


def make_options(settings: EvaluationSettings, chosen: Profile, samples: int) -> SamplingOptions:
    """How so many samples are drawn."""
    return SamplingOptions(
        num_samples=samples,
        reasoning=chosen.reasoning,
        flow_steps=chosen.flow_steps or None,
        guidance_weight=settings.guidance_weight,
        noise_temperature=settings.noise_temperature,
        sample_choice=settings.sample_choice,
    )


def make_cluster(settings: EvaluationSettings) -> Cluster:
    """Where the drives are measured; raises BadInput for a cluster that there cannot be."""
    address = settings.cluster or (LOCAL if (settings.workers or 1) > 1 else '')
    return Cluster(address, settings.workers, settings.device)


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise BadInput(f'{name}={value}: expected {expected}')
