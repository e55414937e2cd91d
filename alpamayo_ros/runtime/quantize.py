"""A checkpoint to a quantized checkpoint: tensor by tensor, in parts that a later run continues.

Reads releases in full precision, and what optimum-quanto wrote (also quanto 0.2.0, whose integer
zero-points become shifts). Knows no inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
import json
from pathlib import Path
import shutil
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
import torch
from torch import Tensor

from ..errors import BadInput
from ..folders import refuse_existing
from ..model.checkpoint import (
    INDEX,
    check_names,
    checkpoint_sha256,
    file_sha256,
    tensor_shapes,
)
from ..model.config import (
    CARD,
    card_limits,
    load_config,
    parse_config,
    read_json,
    vlm_folder,
)
from ..model.hub import TOKENIZER_FILES
from ..model.processor import Processor
from ..quantization import feedback
from ..quantization.linear import UNUSED, replace_linears
from ..quantization.matrix import quantize_matrix
from ..quantization.record import KEY, Quantization
from ..quantization.scheme import Rule, rule_of, rule_of_tensor, rules_of
from ..quantization.solver import SOLVERS
from .input_statistics import InputStatistics, read_input_statistics
from .load import build_on_meta, check_device

REPORT = 'quantization_report.json'
PART_BYTES = 500_000_000  # of a file: what is lost when a run is interrupted, and held in memory
_PLAN = 'plan.json'
_PACKED = '.weight._data'  # in names of quanto
_ZERO_POINT = '._zeropoint'

Progress = Callable[[str, int], object]  # what is worked on, bytes that were read for it


@dataclass(frozen=True)
class Step:
    """One tensor of the source: what it becomes, and the rule for it."""

    source: str
    rule: Rule
    read_bytes: int
    shapes: Mapping[str, tuple[int, ...]]
    stored_bytes: int

    @property
    def solved(self) -> bool:
        """Whether it is a matrix that is quantized here, to codes and their scales."""
        return len(self.shapes) > 1


@dataclass(frozen=True)
class Job:
    """What is to be done: the arguments of `quantize_checkpoint`, checked, and the steps."""

    source: Path
    target: Path
    quantization: Quantization
    device: str
    files: Mapping[str, Path]
    parts: tuple[tuple[Step, ...], ...]
    statistics: InputStatistics | None = None

    @property
    def unfinished(self) -> Path:
        """Where the result is put together, beside its place."""
        return self.target.with_name(f'.{self.target.name}.unfinished')

    def read(self, name: str) -> Tensor:
        """A tensor of the source, mapped from its file."""
        with safe_open(self.files[name], framework='pt') as shard:
            return shard.get_tensor(name)

    def part_name(self, part: int) -> str:
        """File of a part."""
        return f'model-{part + 1:05d}-of-{len(self.parts):05d}.safetensors'


def quantize_checkpoint(job: Job, vlm: Path | None, progress: Progress) -> dict[str, Any]:
    """Do the job; what is finished of an earlier run with equal arguments is kept. The report.

    vlm: whose tokenizer, templates and config are copied; None: those of the source, if it has
    any. The target appears when it is complete. Raises BadInput for a vlm that the result could
    not be run with, weights that are not finite, a file that cannot be written, or a leftover of
    a run with other arguments.
    """
    vlm_files = _vlm_files(job.source, vlm)
    plan = job.quantization.entry() | {
        'parts': len(job.parts),
        'vlm': {path.name: file_sha256(path) for path in vlm_files},
    }
    folder = job.unfinished
    if not (folder / _PLAN).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write_json(folder / _PLAN, plan)
    elif (left := read_json(folder / _PLAN)) != plan:
        differs = ', '.join(k for k in {**plan, **left} if plan.get(k) != left.get(k))
        raise BadInput(
            f'{folder}: left by a run with other arguments or another source ({differs}); '
            'remove it to start anew'
        )
    shutil.rmtree(folder / 'vlm', ignore_errors=True)
    for path in vlm_files:
        (folder / 'vlm').mkdir(exist_ok=True)
        shutil.copyfile(path, folder / 'vlm' / path.name)
    if limits := card_limits(job.source):  # its figures are those of other weights
        _write_json(folder / CARD, {'limits': [limits]})
    config = read_json(job.source / 'config.json')
    _write_json(folder / 'config.json', config | {KEY: job.quantization.entry()})
    done = [_write_part(job, part, progress) for part in range(len(job.parts))]
    report = _summary(job, done)
    _write_json(folder / REPORT, report)
    _write_json(folder / INDEX, _index(job, done))
    for path in (*folder.glob('model-*.json'), folder / _PLAN):  # without a plan all begins anew
        path.unlink()
    folder.rename(job.target)
    return report


def plan_job(
    source: Path,
    target: Path,
    recipe: str,
    bits: float,
    solver: str = 'mse',
    device: str = 'cpu',
    progress: Progress = lambda what, size: None,
    importance: Path | None = None,
) -> Job:
    """Check everything that can be checked beforehand; nothing is written.

    importance: a file of input statistics, by which errors are weighed. Raises BadInput for
    arguments, a source that is not whole or not a release, too little space.
    """
    refuse_existing(target)
    rules = rules_of(recipe, bits)
    _check_solver(solver, importance)
    check_device(device)
    if KEY in read_json(source / 'config.json'):
        raise BadInput(f'{source}: quantized already, expected a release in full precision')
    found = tensor_shapes(source)
    files = {name: file for name, (file, _) in found.items()}
    statistics, weighed_by = None, ''
    if importance is not None:
        statistics = read_input_statistics(importance, build_on_meta(load_config(source)))
        weighed_by = statistics.sha256
    quantization = Quantization(recipe, rules, solver, '', weighed_by)
    job = Job(source, target, quantization, device, files, (), statistics)
    steps = [_step(job, name, shape) for name, (_, shape) in found.items()]
    packed = any(_PACKED in step.source for step in steps)
    if not any(step.solved for step in steps):  # then nothing is weighed either
        quantization = replace(
            quantization, solver='quanto' if packed else 'none', importance_sha256=''
        )
        job = replace(job, quantization=quantization)
    _check_steps(job, steps, packed)
    there = sum(file.stat().st_size for file in job.unfinished.glob('*.safetensors'))
    needed = sum(step.stored_bytes for step in steps) - there  # each is kept or replaced
    free = shutil.disk_usage(next(p for p in target.absolute().parents if p.exists())).free
    if needed > free:
        raise BadInput(f'{target}: needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free')
    digest = checkpoint_sha256(source, lambda size: progress('sha256 of the source', size))
    quantization = replace(quantization, source_sha256=digest)
    return replace(job, quantization=quantization, parts=tuple(_parts(steps)))


def _check_solver(solver: str, importance: Path | None) -> None:
    """Raise BadInput for a solver that is not there, or does not do with or without weighing."""
    known = (*SOLVERS, feedback.NAME)
    if solver not in known:
        raise BadInput(f'solver {solver!r} is not one of: {", ".join(known)}')
    if importance is None and solver == feedback.NAME:
        raise BadInput(f'solver {solver!r} needs input statistics (--importance FILE)')
    if importance is not None and solver not in (feedback.NAME, 'mse'):
        raise BadInput(f'solver {solver!r} weighs no errors: no importance was expected')


def _step(job: Job, name: str, shape: tuple[int, ...]) -> Step:
    """What a tensor becomes. A zero-point becomes a shift; quanto's unused scalars nothing."""
    tensor = job.read(name)
    rule = rule_of_tensor(name, shape, job.quantization.rules)
    if rule.scheme.levels:
        shapes = rule.scheme.tensors(rule.rows(shape[0]), shape[1])
        stored = rule.scheme.bytes(rule.rows(shape[0]), shape[1])
        named = {name + ending: value for ending, value in shapes.items()}
        return Step(name, rule, tensor.nbytes, named, stored)
    module = name.partition('.weight.')[0]
    if name != module:
        rule = rule_of(module, job.quantization.rules)
    if name.endswith(UNUSED):
        return Step(name, rule, tensor.nbytes, {}, 0)
    if name.endswith(_ZERO_POINT):
        name_of_shift = name.removesuffix(_ZERO_POINT) + '._shift'
        return Step(name, rule, tensor.nbytes, {name_of_shift: shape}, 2 * tensor.numel())
    return Step(name, rule, tensor.nbytes, {name: shape}, tensor.nbytes)


def _check_steps(job: Job, steps: list[Step], packed: bool) -> None:
    """Raise BadInput unless the source is the model of its config, and the result will be."""
    config = load_config(job.source)
    model = build_on_meta(config)
    if not packed:
        shapes = {step.source: tuple(job.read(step.source).shape) for step in steps}
        check_names(model, shapes, str(job.source))
    replace_linears(model, job.quantization.rules)
    for step in steps if job.quantization.solver == feedback.NAME else ():
        _second_moments(job, step)
    stored = {name: shape for step in steps for name, shape in step.shapes.items()}
    where = f'{job.source} as {job.quantization.recipe} of {job.quantization.bits:g} bits'
    check_names(model, stored, where)


def _parts(steps: list[Step]) -> Iterator[tuple[Step, ...]]:
    """Steps in groups of at most PART_BYTES, or of a single larger one."""
    part: list[Step] = []
    for step in steps:
        if part and sum(s.stored_bytes for s in part) + step.stored_bytes > PART_BYTES:
            yield tuple(part)
            part = []
        part.append(step)
    yield tuple(part)


def _write_part(job: Job, part: int, progress: Progress) -> dict[str, Any]:
    """Write a file and a note of what the report says of it; or keep what has the note's hash."""
    file = job.unfinished / job.part_name(part)
    record = file.with_suffix('.json')
    if record.is_file() and file.is_file():
        done = read_json(record)
        if done.get('sha256') == file_sha256(file):
            progress('finished earlier', sum(step.read_bytes for step in job.parts[part]))
            return done
    file.unlink(missing_ok=True)  # its place was counted as free
    tensors: dict[str, Tensor] = {}
    modules: dict[str, Any] = {}
    for step in job.parts[part]:
        made, error = _make(job, step)
        tensors |= made
        if error is not None:
            modules[step.source.removesuffix('.weight')] = {
                'bits': step.rule.bits,
                'bytes': step.stored_bytes,
                'relative_error': round(error, 6),
            }
        progress(step.source, step.read_bytes)
    try:
        save_file(tensors, file, metadata={'format': 'pt'})
    except SafetensorError as error:  # a full disk too: it is no OSError
        raise BadInput(f'{file}: cannot be written: {error}') from None
    shutil.copymode(job.unfinished / 'config.json', file)  # safetensors makes it the owner's only
    size = sum(tensor.nbytes for tensor in tensors.values())
    done = {'sha256': file_sha256(file), 'bytes': size, 'names': list(tensors), 'modules': modules}
    _write_json(record, done)
    return done


def _make(job: Job, step: Step) -> tuple[dict[str, Tensor], float | None]:
    """The stored tensors of a step on the host, and the error of what was quantized here."""
    tensor = job.read(step.source)
    if not step.shapes:
        return {}, None
    if step.source.endswith(_ZERO_POINT):
        scale = job.read(step.source.removesuffix(_ZERO_POINT) + '._scale')
        (name,) = step.shapes
        shift = scale.to(torch.float32) * tensor.to(torch.float32)
        return {name: shift.to(scale.dtype)}, None
    if list(step.shapes) == [step.source]:
        return {step.source: tensor.contiguous()}, None
    stored, error = _quantize(job, step, tensor)
    if error != error:
        shutil.rmtree(job.unfinished)  # of no use to a repaired source, which has another hash
        raise BadInput(f'{job.files[step.source]}: {step.source} holds values that are not finite')
    return {step.source + ending: part.cpu() for ending, part in stored.items()}, error


def _quantize(job: Job, step: Step, tensor: Tensor) -> tuple[dict[str, Tensor], float]:
    """Stored tensors of a matrix and its error; tables have no inputs, so nothing weighs there."""
    solver = job.quantization.solver
    if solver == feedback.NAME:
        moments = _second_moments(job, step)
        if moments is not None:
            return feedback.quantize_with_feedback(tensor, step.rule, moments, job.device)
        solver = 'mse'
    importance = None
    if job.statistics is not None:
        importance = job.statistics.mean_square(step.source.removesuffix('.weight'))
    return quantize_matrix(tensor, step.rule, solver, job.device, importance=importance)


def _second_moments(job: Job, step: Step) -> Tensor | None:
    assert job.statistics is not None
    if not step.rule.scheme.levels:
        return None
    return job.statistics.second_moments(step.source.removesuffix('.weight'))


def _summary(job: Job, done: list[dict[str, Any]]) -> dict[str, Any]:
    modules = {name: entry for part in done for name, entry in part['modules'].items()}
    errors = sorted(modules, key=lambda name: modules[name]['relative_error'])
    return {
        'recipe': job.quantization.recipe,
        'bits': job.quantization.bits,
        'solver': job.quantization.solver,
        'source_sha256': job.quantization.source_sha256,
        'bytes': sum(part['bytes'] for part in done),
        'worst_module': errors[-1] if errors else None,
        'modules': modules,
    }


def _index(job: Job, done: list[dict[str, Any]]) -> dict[str, Any]:
    """Which tensor is in which file, and the hashes that loading checks."""
    names = {job.part_name(i): part for i, part in enumerate(done)}
    return {
        'metadata': {
            'total_size': sum(part['bytes'] for part in done),
            'sha256': {name: part['sha256'] for name, part in names.items()},
        },
        'weight_map': {tensor: name for name, part in names.items() for tensor in part['names']},
    }


def _vlm_files(source: Path, vlm: Path | None) -> list[Path]:
    """Tokenizer, chat template, preprocessor and config, so that a vehicle needs no network.

    Raises BadInput unless the source is the same model with them, and its ids those of the
    tokenizer.
    """
    raw = read_json(source / 'config.json')
    vlm = vlm or vlm_folder(str(raw.get('vlm_name_or_path')), source)
    if vlm is None:
        return []
    where = f'{vlm}/config.json, expected the one of the VLM of {source}'
    wanted = load_config(source)
    config = parse_config(raw | {'vlm_name_or_path': str(vlm.absolute())}, where=where)
    keys = ('text', 'vision', 'image_token_id')
    if differs := [key for key in keys if getattr(config, key) != getattr(wanted, key)]:
        raise BadInput(f'{where}: another {", ".join(differs)}')
    Processor(config, vlm)
    return sorted({path for pattern in TOKENIZER_FILES for path in vlm.glob(pattern)})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A file that is there whole or not at all."""
    unfinished = path.with_name(f'{path.name}.unfinished')
    unfinished.write_text(json.dumps(value, indent=1) + '\n', encoding='utf-8')
    unfinished.rename(path)
