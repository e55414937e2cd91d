"""Plans a quantization: a step for every tensor, checked before anything is written.

Knows no inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
import shutil

from safetensors import safe_open
from torch import Tensor

from ..errors import BadInput
from ..files import read_json, refuse_existing
from ..model.checkpoint import check_names, hash_checkpoint, read_tensor_shapes
from ..model.config import load_config
from ..quantization import matrix
from ..quantization.linear import UNUSED, replace_linears
from ..quantization.record import (
    KEY,
    Quantization,
    describe_foreign,
    find_packing_tool,
    read_method,
)
from ..quantization.scheme import Rule, Rules, find_rule, find_tensor_rule, make_rules
from ..quantization.solver import SOLVERS
from ..runtime.load import build_on_meta, check_device
from ..runtime.memory import require_memory
from .quanto_source import ZERO_POINT, list_exceptions, read_widths

PART_BYTES = 500_000_000  # of a file: what is lost when a run is interrupted, and held in memory

Progress = Callable[[str, int], object]  # what is worked on, bytes that were read for it


@dataclass(frozen=True)
class TensorStep:
    """One tensor of the source: what it becomes, and the rule for it."""

    source: str
    rule: Rule
    read_bytes: int
    shapes: Mapping[str, tuple[int, ...]]
    stored_bytes: int

    @property
    def is_quantized(self) -> bool:
        """Whether it is a matrix that is quantized here, to codes and their scales."""
        return len(self.shapes) > 1


@dataclass(frozen=True)
class QuantizationPlan:
    """What is to be done: the arguments of `quantize_checkpoint`, checked, and the steps."""

    source: Path
    target: Path
    quantization: Quantization
    device: str
    files: Mapping[str, Path]
    parts: tuple[tuple[TensorStep, ...], ...]

    @property
    def unfinished(self) -> Path:
        """Where the result is put together, beside its place."""
        return self.target.with_name(f'.{self.target.name}.unfinished')

    def read_tensor(self, name: str) -> Tensor:
        """A tensor of the source, mapped from its file."""
        with safe_open(self.files[name], framework='pt') as shard:
            return shard.get_tensor(name)

    def part_name(self, part: int) -> str:
        """File of a part."""
        return f'model-{part + 1:05d}-of-{len(self.parts):05d}.safetensors'


def plan_quantization(
    source: Path,
    target: Path,
    recipe: str,
    bits: float,
    solver: str = 'mse',
    device: str = 'cpu',
    progress: Progress = lambda what, size: None,
    calibration_sha256: str = '',
    rules: Rules | None = None,
) -> QuantizationPlan:
    """Check everything that can be checked beforehand; nothing is written.

    calibration_sha256: of the contexts that it will be calibrated on. rules: of the recipe
    'fitted'. Raises BadInput for
    arguments, a source that is not whole or not a release, too little space or memory.
    """
    refuse_existing(target)
    rules = rules or make_rules(recipe, bits)
    _check_solver(solver, calibration_sha256)
    check_device(device)
    config = read_json(source / 'config.json')
    method = read_method(config)
    if method not in ('', 'quanto'):
        raise BadInput(f'{source}: {describe_foreign(method, str(source))}')
    if config.get(KEY) is not None and not method:
        raise BadInput(f'{source}: quantized already, expected a release in full precision')
    found = read_tensor_shapes(source)
    if (tool := find_packing_tool(found)) not in ('', 'quanto'):
        raise BadInput(f'{source}: {describe_foreign(tool, str(source))}')
    files = {name: file for name, (file, _) in found.items()}
    quantization = Quantization(recipe, rules, solver, '', calibration_sha256)
    job = QuantizationPlan(source, target, quantization, device, files, ())
    widths = read_widths(found, job.read_tensor)
    exceptions = list_exceptions(
        {name: shape for name, (_, shape) in found.items()}, widths, rules, str(source)
    )
    quantization = replace(quantization, rules=exceptions + rules, exceptions=len(exceptions))
    job = replace(job, quantization=quantization)
    steps = [_plan_tensor(job, name, shape) for name, (_, shape) in found.items()]
    packed = bool(widths)
    if not any(step.is_quantized for step in steps):
        if calibration_sha256:
            raise BadInput(f'{source}: nothing is to be quantized, so nothing to be calibrated')
        quantization = replace(quantization, solver='quanto' if packed else 'none')
        job = replace(job, quantization=quantization)
    if packed and calibration_sha256:
        raise BadInput(f'{source}: packed by optimum-quanto: only a release can be calibrated')
    _check_steps(job, steps, packed)
    job = replace(job, parts=tuple(_group_steps(steps)))
    _check_space(job)
    digest = hash_checkpoint(source, lambda size: progress('sha256 of the source', size))
    quantization = replace(quantization, source_sha256=digest)
    return replace(job, quantization=quantization)


def _check_solver(solver: str, calibration_sha256: str) -> None:
    """Raise BadInput for a solver that is not there, or that a calibration does not use."""
    if solver not in SOLVERS:
        raise BadInput(f'solver {solver!r} is not one of: {", ".join(SOLVERS)}')
    if calibration_sha256 and solver != 'mse':
        raise BadInput(f'solver {solver!r}: a calibration (--drive) has its own')


def _plan_tensor(job: QuantizationPlan, name: str, shape: tuple[int, ...]) -> TensorStep:
    """What a tensor becomes. A zero-point becomes a shift; quanto's unused scalars nothing."""
    tensor = job.read_tensor(name)
    rule = find_tensor_rule(name, shape, job.quantization.rules)
    if rule.scheme.levels:
        shapes = rule.scheme.list_shapes(rule.pad(shape[0]), shape[1])
        stored = rule.scheme.count_bytes(rule.pad(shape[0]), shape[1])
        named = {name + ending: value for ending, value in shapes.items()}
        return TensorStep(name, rule, tensor.nbytes, named, stored)
    module = name.partition('.weight.')[0]
    if name != module:
        rule = find_rule(module, job.quantization.rules)
    if name.endswith(UNUSED):
        return TensorStep(name, rule, tensor.nbytes, {}, 0)
    if name.endswith(ZERO_POINT):
        name_of_shift = name.removesuffix(ZERO_POINT) + '._shift'
        return TensorStep(name, rule, tensor.nbytes, {name_of_shift: shape}, 2 * tensor.numel())
    return TensorStep(name, rule, tensor.nbytes, {name: shape}, tensor.nbytes)


def _check_steps(job: QuantizationPlan, steps: list[TensorStep], packed: bool) -> None:
    """Raise BadInput unless the source is the model of its config, and the result will be."""
    config = load_config(job.source)
    model = build_on_meta(config)
    if not packed:
        shapes = {step.source: tuple(job.read_tensor(step.source).shape) for step in steps}
        check_names(model, shapes, str(job.source))
    replace_linears(model, job.quantization.rules)
    stored = {name: shape for step in steps for name, shape in step.shapes.items()}
    where = f'{job.source} as {job.quantization.recipe} of {job.quantization.bits:g} bits'
    check_names(model, stored, where)


def _check_space(job: QuantizationPlan) -> None:
    """Raise BadInput where the disk or a memory has too little room, before anything is made."""
    sizes = [sum(step.stored_bytes for step in part) for part in job.parts]
    there = sum(file.stat().st_size for file in job.unfinished.rglob('*.safetensors'))
    # a calibration keeps each block and then all of them; each file is kept or replaced
    needed = sum(sizes) * (3 if job.quantization.calibration_sha256 else 1) - there
    free = shutil.disk_usage(next(p for p in job.target.absolute().parents if p.exists())).free
    if needed > free:
        raise BadInput(f'{job.target}: needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free')
    needs = {'cpu': {'a file of the result': max(sizes)}}
    if solved := [step for part in job.parts for step in part if step.is_quantized]:
        largest = max(step.stored_bytes for step in solved)
        own = {'its largest matrix': largest, 'solving': matrix.estimate_memory()}
        needs[job.device] = needs.get(job.device, {}) | own
    for device, memory in needs.items():
        require_memory(job.source, memory, device)


def _group_steps(steps: list[TensorStep]) -> Iterator[tuple[TensorStep, ...]]:
    """Steps in groups of at most PART_BYTES, or of a single larger one."""
    part: list[TensorStep] = []
    for step in steps:
        if part and sum(s.stored_bytes for s in part) + step.stored_bytes > PART_BYTES:
            yield tuple(part)
            part = []
        part.append(step)
    yield tuple(part)
