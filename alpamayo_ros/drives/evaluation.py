"""An evaluation: which rows are measured in which loops, and what they are made from.

Rows are the asked model, the same in 16 bits, the baselines, the expert, and the asked model with
pictures that it should not drive by. Several evaluations may share a folder: its table then holds
the rows of all. Knows no table and no page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
import functools
import hashlib
import multiprocessing
import os
from pathlib import Path
from typing import Any

from ..data_types import SamplingOptions
from ..errors import BadInput
from ..ros.policy import EXPIRED_PATH, ON_INVALID, Policies
from ..runtime.constant_turn_rate import ConstantTurnRateEngine
from ..runtime.constant_velocity import ConstantVelocityEngine
from ..world.camera import CAMERAS
from ..world.moments import SIMULATION_STEP_S
from ..world.samples import HORIZON_S
from ..world.scenario import SPLITS
from . import closed_loop, open_loop, parts
from .closed_loop import LONGEST_LATENCY_S, ClosedLoop
from .open_loop import OpenLoop
from .planners import BaselinePlanner, CheckpointPlanner, ExpertPlanner, Planner
from .scene import blacken, keep_pictures, shuffle_cameras

REFERENCE_BITS = 16
Progress = Callable[[str, float, float], Callable[[float], object]]
Record = dict[str, Any]


@dataclass
class EvaluationSettings:
    """What `alpamayo_evaluate` may be told as key=value.

    reference: the checkpoint of the 16-bit row, the asked one if that is not packed. moments: t0s
    of each drive in the open loop. closed_drives: None for all. latencies_s: [] for no closed
    loop. batch: scenes that share a forward pass. workers: processes that share the drives; with
    one core each that is faster on a CPU. rounds: of the bootstrap.
    """

    checkpoint: str = 'small'
    bits: float | None = None
    recipe: str | None = None
    reference: str | None = None
    device: str = 'cpu'
    out: str = 'out/evaluation'
    split: str = 'test'
    drives: int = 200
    seconds: float = 60.0
    moments: int = 4
    samples: int = 6
    seed: int = 0
    ablations: bool = True
    latencies_s: list[float] = field(default_factory=lambda: [0.0, 0.5, 1.0, 2.0, 5.0])
    closed_drives: int | None = None
    closed_samples: int = 6
    expired_path: str = 'drop'
    on_invalid: str = 'stop'
    batch: int = 16
    workers: int = 1
    rounds: int = 2000


@dataclass(frozen=True)
class EvaluationRow:
    """One row of the table: `kind` is model, reference, baseline, expert or ablation.

    planner: in the open loop; closed: in the closed one, None where that is left out. about: what
    its figures depend on. size: height and width of the pictures.
    """

    name: str
    kind: str
    planner: Planner
    closed: Planner | None
    about: dict[str, Any]
    size: tuple[int, int] = (0, 0)


def check_settings(settings: EvaluationSettings) -> None:
    """Raise BadInput for values that make no evaluation."""
    _require(
        bool(settings.checkpoint), 'checkpoint', settings.checkpoint, 'a folder, small or a hub id'
    )
    for name in ('drives', 'moments', 'samples', 'closed_samples', 'batch', 'workers', 'rounds'):
        _require(getattr(settings, name) >= 1, name, getattr(settings, name), '1 or more')
    _require(settings.seed >= 0, 'seed', settings.seed, '0 or more')
    shortest = HORIZON_S + 2.0
    _require(
        shortest <= settings.seconds <= 600, 'seconds', settings.seconds, f'{shortest:g} to 600'
    )
    for name, known in (
        ('split', SPLITS), ('expired_path', EXPIRED_PATH), ('on_invalid', ON_INVALID),
    ):  # fmt: skip
        value = getattr(settings, name)
        _require(value in known, name, value, f'one of {", ".join(known)}')
    for latency_s in settings.latencies_s:
        even = abs(latency_s / SIMULATION_STEP_S - round(latency_s / SIMULATION_STEP_S)) < 1e-9
        wanted = f'0 to {LONGEST_LATENCY_S:g} in steps of {SIMULATION_STEP_S:g}'
        _require(0 <= latency_s <= LONGEST_LATENCY_S and even, 'latencies_s', latency_s, wanted)
    closed = settings.closed_drives
    _require(
        closed is None or 1 <= closed <= settings.drives, 'closed_drives', closed, '1 to drives'
    )


def make_rows(settings: EvaluationSettings) -> list[EvaluationRow]:
    """The rows that an evaluation needs; checkpoints are checked, and loaded when planned with.

    Raises BadInput for a checkpoint that cannot be used as asked.
    """
    samples = SamplingOptions(num_samples=settings.samples)
    rows = [
        EvaluationRow(
            name,
            'baseline',
            BaselinePlanner(engine),
            BaselinePlanner(engine),
            {'engine': engine.name},
        )
        for name, engine in (
            ('constant velocity', ConstantVelocityEngine(samples)),
            ('constant turn rate', ConstantTurnRateEngine(samples)),
        )
    ]
    rows.append(
        EvaluationRow(
            'expert',
            'expert',
            ExpertPlanner(settings.samples),
            ExpertPlanner(),
            {'engine': 'expert'},
        )
    )
    asked = _Model(settings.checkpoint, settings, settings.bits, settings.recipe)
    if settings.reference is not None:
        reference = _Model(settings.reference, settings, REFERENCE_BITS, None)
    elif asked.packed:
        reference = None
    else:
        reference = _Model(settings.checkpoint, settings, REFERENCE_BITS, None)
    if reference is not None and (reference.about != asked.about):
        rows.append(reference.row('reference'))
    is_reference = asked.plan.bits == REFERENCE_BITS and not asked.plan.rules
    rows.append(asked.row('reference' if is_reference else 'model'))
    if settings.ablations:
        rows += [asked.ablated('cameras shuffled'), asked.ablated('black images')]
    return rows


PICTURE_CHANGES = {'cameras shuffled': shuffle_cameras, 'black images': blacken}


class _Model:
    """A checkpoint at some width, as rows; its weights are loaded once, when they are needed."""

    def __init__(
        self, checkpoint: str, settings: EvaluationSettings, bits: float | None, recipe: str | None
    ) -> None:
        from ..hub import resolve_checkpoint
        from ..model.checkpoint import hash_checkpoint  # torch takes seconds to import
        from ..model.prompt.image_processor import smart_resize
        from ..runtime.engine import AlpamayoEngine
        from ..runtime.load import plan_load

        folder = resolve_checkpoint(checkpoint)
        self.settings = settings
        self.plan = plan_load(folder, settings.device, bits, recipe)
        self.packed = bool(self.plan.rules) and not self.plan.on_the_fly
        config, camera = self.plan.model.config, CAMERAS[0]
        vision = config.vision
        self.size = smart_resize(
            camera.height, camera.width, config.min_pixels, config.max_pixels,
            vision.patch_size * vision.spatial_merge_size,
        )  # fmt: skip
        self.name = f'{self.plan.bits:g} bits {self.plan.recipe}'.strip()
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
        }
        self._load = functools.cache(
            lambda: AlpamayoEngine(folder, settings.device, None, bits, recipe)
        )

    def row(self, kind: str) -> EvaluationRow:
        """The model, in both loops."""
        return EvaluationRow(
            self.name, kind, self._planner(self.settings.samples),
            self._planner(self.settings.closed_samples), self.about, self.size,
        )  # fmt: skip

    def ablated(self, look: str) -> EvaluationRow:
        """The model with other pictures, in the open loop alone."""
        planner = self._planner(self.settings.samples, PICTURE_CHANGES[look])
        about = {**self.about, 'look': look}
        return EvaluationRow(f'{self.name}, {look}', 'ablation', planner, None, about, self.size)

    def _planner(self, samples: int, look: Any = keep_pictures) -> CheckpointPlanner:
        options = SamplingOptions(num_samples=samples)
        return CheckpointPlanner(self._load, options, self.settings.batch, look)


def run(settings: EvaluationSettings, rows: list[EvaluationRow], progress: Progress) -> None:
    """Measure every part of the rows that is not yet in the folder `out`; BadInput if others are.

    progress: name of a part, its amount of work and what of it is known to a function that is
    called with what has been done since.
    """
    folder, wanted = Path(settings.out), list(_list_parts(settings, rows))
    parts.require_same_settings(folder, [made_from for _, _, made_from in wanted])
    with _start_workers(settings) as pool:
        for row, loop, made_from in wanted:
            if isinstance(loop, OpenLoop):
                group, each = max(settings.batch // settings.moments, 1), float(settings.moments)
                name = f'{row.name}, open loop'
            else:
                group, each = settings.batch, loop.seconds
                name = f'{row.name}, {loop.latency_s:g} s late'
            known = parts.count_known_drives(folder, made_from)
            advance = progress(name, each * loop.drives, each * known)
            measure = (
                _measure if pool is None else functools.partial(_measure_with_workers, pool, each)
            )
            parts.complete_part(
                folder, made_from, group, functools.partial(measure, row, loop, advance)
            )


def _measure(
    row: EvaluationRow,
    loop: OpenLoop | ClosedLoop,
    advance: Callable[[float], object],
    groups: Iterable[Sequence[int]],
) -> Iterator[list[Record]]:
    for drives in groups:
        if isinstance(loop, OpenLoop):
            yield open_loop.measure(row.planner, loop, drives, row.size, advance)
        else:
            assert row.closed is not None
            yield closed_loop.measure(row.closed, loop, drives, row.size, advance)


def _start_workers(
    settings: EvaluationSettings,
) -> AbstractContextManager[ProcessPoolExecutor | None]:
    """Processes that measure groups of drives, or None where there is to be one alone."""
    if settings.workers == 1:
        return nullcontext()
    # torch's threads do not survive a fork
    context = multiprocessing.get_context('spawn')
    return ProcessPoolExecutor(settings.workers, context, _begin_worker, (settings,))


_rows_of_worker: dict[str, EvaluationRow] = {}


def _begin_worker(settings: EvaluationSettings) -> None:
    import torch

    torch.set_num_threads(max((os.cpu_count() or 1) // settings.workers, 1))
    _rows_of_worker.update({row.name: row for row in make_rows(settings)})


def _measure_group(name: str, loop: OpenLoop | ClosedLoop, drives: Sequence[int]) -> list[Record]:
    return next(_measure(_rows_of_worker[name], loop, lambda amount: None, [drives]))


def _measure_with_workers(
    pool: ProcessPoolExecutor,
    each: float,
    row: EvaluationRow,
    loop: OpenLoop | ClosedLoop,
    advance: Callable[[float], object],
    groups: list[range],
) -> Iterator[list[Record]]:
    """As _measure, by workers; each: the work of a drive."""
    coming = [pool.submit(_measure_group, row.name, loop, drives) for drives in groups]
    try:
        for drives, found in zip(groups, coming, strict=True):
            yield found.result()
            advance(each * len(drives))
    finally:
        for future in coming:
            future.cancel()


def _list_parts(
    settings: EvaluationSettings, rows: list[EvaluationRow]
) -> Iterator[tuple[EvaluationRow, OpenLoop | ClosedLoop, dict[str, Any]]]:
    """Each row in each of its loops, and what that is made from."""
    world = hash_world()
    opened = OpenLoop(
        settings.split, settings.drives, settings.seconds, settings.moments, settings.seed
    )
    policies = Policies(on_invalid=settings.on_invalid, expired_path=settings.expired_path)
    drives = settings.closed_drives or settings.drives
    closed = [
        ClosedLoop(settings.split, drives, settings.seconds, x, policies, settings.seed)
        for x in settings.latencies_s
    ]
    for row in rows:
        about = {'row': row.name, 'kind': row.kind, 'planner': row.about, 'world': world}
        samples = {'samples': settings.samples}
        yield row, opened, about | {'loop': {'kind': 'open'} | asdict(opened) | samples}
        samples = {'samples': settings.closed_samples}
        for loop in closed if row.closed is not None else ():
            yield row, loop, about | {'loop': {'kind': 'closed'} | asdict(loop) | samples}


def hash_world() -> str:
    """Hash of the code that makes the drives: with other code they are other drives."""
    digest = hashlib.sha256()
    for file in sorted((Path(__file__).parents[1] / 'world').rglob('*.py')):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise BadInput(f'{name}={value}: expected {expected}')
