"""The rows of an evaluation's table: which planners are measured, and what they are made from.

Rows are the evaluated checkpoint, the same in 16 bits, baselines, the expert, and the checkpoint
with pictures by which it should not drive.
"""

from __future__ import annotations

from dataclasses import dataclass
import functools
from typing import Any

from ..data_types import SamplingOptions
from ..errors import BadInput
from ..profiles import DEFAULT, PROFILES, Profile, split_names
from ..runtime.constant_turn_rate import ConstantTurnRateEngine
from ..runtime.constant_velocity import ConstantVelocityEngine
from ..world.camera import CAMERAS
from .edits import EDITS
from .planners import (
    BaselinePlanner,
    CheckpointPlanner,
    ExpertPlanner,
    Planner,
    StandingPlanner,
    find_other_drive,
)
from .scene import blacken, shuffle_cameras
from .settings import EvaluationSettings, choose_profile, make_options

REFERENCE_BITS = 16
EXACT = PROFILES[DEFAULT]
PICTURE_CHANGES = {'cameras shuffled': shuffle_cameras, 'black images': blacken}
OTHER_PICTURES = "another drive's pictures"
_RULE_BREAKERS = {'ignores pedestrians': EDITS[0], 'ignores lights': EDITS[2]}


@dataclass(frozen=True)
class EvaluationRow:
    """One row of the table: `kind` is model, reference, baseline, expert or ablation.

    planner: in the open loop; closed: in the closed one, None where that is left out. about: what
    its figures depend on. size: height and width of the pictures. is_edited: whether it is planned
    with edited pictures too.
    """

    name: str
    kind: str
    planner: Planner
    closed: Planner | None
    about: dict[str, Any]
    size: tuple[int, int] = (0, 0)
    is_edited: bool = False


def make_rows(settings: EvaluationSettings) -> list[EvaluationRow]:
    """Make the rows of an evaluation; checkpoints are checked now and loaded at the first plan.

    Raises BadInput for a checkpoint that cannot be used as the settings ask.
    """
    rows = _make_blind_baselines()
    if not settings.clips:
        rows += _make_world_baselines()
    evaluated = _Checkpoint(
        settings.checkpoint, settings, settings.bits, settings.recipe, choose_profile(settings)
    )
    compared = settings.reference or (None if evaluated.packed else settings.checkpoint)
    reference = None
    if compared is not None:
        reference = _Checkpoint(compared, settings, REFERENCE_BITS, None, EXACT)
    if reference is not None and (reference.about != evaluated.about):
        rows.append(reference.make_row('reference'))
    is_exact = evaluated.chosen == EXACT
    is_reference = evaluated.plan.bits == REFERENCE_BITS and not evaluated.plan.rules and is_exact
    rows.append(evaluated.make_row('reference' if is_reference else 'model'))
    if settings.ablations and not settings.clips:
        rows += [evaluated.make_ablation(name) for name in PICTURE_CHANGES]
        rows.append(evaluated.make_misled())
    return rows


def _make_blind_baselines() -> list[EvaluationRow]:
    """Rows that look at the history alone; each plans one sample."""
    one = SamplingOptions(num_samples=1)
    rows = []
    for name, engine in (
        ('constant velocity', ConstantVelocityEngine(one)),
        ('constant turn rate', ConstantTurnRateEngine(one)),
    ):
        blind = BaselinePlanner(engine)
        rows.append(EvaluationRow(name, 'baseline', blind, blind, {'engine': engine.name}))
    return rows


def _make_world_baselines() -> list[EvaluationRow]:
    """Rows that know the world, or its state; each plans one sample."""
    rows = []
    planners: dict[str, Planner] = {'stands': StandingPlanner()}
    planners |= {name: ExpertPlanner(edit) for name, edit in _RULE_BREAKERS.items()}
    for name, planner in planners.items():
        rows.append(EvaluationRow(name, 'baseline', planner, planner, {'engine': name}))
    expert = ExpertPlanner()
    rows.append(EvaluationRow('expert', 'expert', expert, expert, {'engine': 'expert'}))
    return rows


class _Checkpoint:
    """A checkpoint at some width, as rows; its weights are loaded once, when they are needed."""

    def __init__(
        self,
        checkpoint: str,
        settings: EvaluationSettings,
        bits: float | None,
        recipe: str | None,
        chosen: Profile,
    ) -> None:
        from ..hub import resolve_checkpoint
        from ..model.checkpoint import hash_checkpoint  # torch takes seconds to import
        from ..model.prompt.image_processor import smart_resize
        from ..runtime.engine import AlpamayoEngine
        from ..runtime.load import plan_load

        folder = resolve_checkpoint(checkpoint)
        self.settings, self.chosen = settings, chosen
        self.plan = plan_load(folder, settings.device, bits, recipe)
        self.packed = bool(self.plan.rules) and not self.plan.on_the_fly
        config, camera = self.plan.model.config, CAMERAS[0]
        vision = config.vision
        self.size = smart_resize(
            camera.height, camera.width, config.min_pixels, config.max_pixels,
            vision.patch_size * vision.spatial_merge_size,
        )  # fmt: skip
        if settings.navigation != 'none' and not config.version.has_routes:
            raise BadInput(
                f'navigation={settings.navigation}: {config.model_type} knows no route texts'
            )
        changed = {
            name: value for name, value in vars(chosen).items() if value != getattr(EXACT, name)
        }
        width = f'{self.plan.bits:g} bits {self.plan.recipe}'.strip()
        self.name = ', '.join([width, *(f'{name} {value}' for name, value in changed.items())])
        also = {
            name: value
            for name in ('navigation', 'guidance_weight', 'noise_temperature', 'sample_choice')
            if (value := getattr(settings, name)) != getattr(EvaluationSettings, name)
        }
        self.about = {
            'engine': AlpamayoEngine.name,
            'checkpoint_sha256': hash_checkpoint(folder),
            'bits': self.plan.bits,
            'recipe': self.plan.recipe,
            'weight_bytes': self.plan.weight_bytes,
            'device': settings.device.partition(':')[0],
            'untrained': config.untrained,
            'batch': settings.batch,
            'picture': list(self.size),
            **changed,
            **also,
        }
        self._load = functools.cache(
            lambda: AlpamayoEngine(
                folder,
                settings.device,
                make_options(settings, chosen, settings.samples),
                bits,
                recipe,
                activations=chosen.activations,
                kv_bits=chosen.kv_bits,
                cameras=split_names(chosen.cameras),
                pixels=chosen.pixels,
            )
        )

    def make_row(self, kind: str) -> EvaluationRow:
        """Row of the checkpoint as it is, in all loops."""
        return EvaluationRow(
            self.name, kind, self._plan_with(self.settings.samples),
            self._plan_with(self.settings.closed_samples), self.about, self.size, is_edited=True,
        )  # fmt: skip

    def make_ablation(self, name: str) -> EvaluationRow:
        """Row with changed pictures, in the open loop alone."""
        planner = self._plan_with(self.settings.samples, change=PICTURE_CHANGES[name])
        return self._make_variant(name, planner, None)

    def make_misled(self) -> EvaluationRow:
        """Row that sees the pictures of another drive."""
        planners = [
            self._plan_with(samples, donor=find_other_drive)
            for samples in (self.settings.samples, self.settings.closed_samples)
        ]
        return self._make_variant(OTHER_PICTURES, planners[0], planners[1])

    def _make_variant(self, name: str, planner: Planner, closed: Planner | None) -> EvaluationRow:
        about = {**self.about, 'pictures': name}
        return EvaluationRow(f'{self.name}, {name}', 'ablation', planner, closed, about, self.size)

    def _plan_with(self, samples: int, **changes: Any) -> CheckpointPlanner:
        options = make_options(self.settings, self.chosen, samples)
        if self.settings.navigation == 'route':
            changes['has_routes'] = True
        return CheckpointPlanner(self._load, options, self.settings.batch, **changes)
