"""A checkpoint to a quantized checkpoint: tensor by tensor, in parts that a later run continues.

Reads releases in full precision, and what optimum-quanto wrote (also quanto 0.2.0, whose integer
zero-points become shifts). Knows no inference.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
import shutil
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
import torch
from torch import Tensor

from ..errors import BadInput
from ..files import read_json
from ..hub import TOKENIZER_FILES
from ..model.checkpoint import INDEX, hash_file
from ..model.config import (
    CARD,
    load_config,
    parse_config,
    read_card_limits,
)
from ..model.processor import Processor
from ..model.prompt.phrases import PHRASES
from ..model.prompt.vlm_folder import find_vlm_folder
from ..quantization.codes import measure_error
from ..quantization.matrix import quantize_matrix
from ..quantization.record import KEY
from ..runtime.weight_values import require_sound_values
from .calibrate import Calibration
from .plan import Progress, QuantizationPlan, TensorStep
from .quanto_source import ZERO_POINT

REPORT = 'quantization_report.json'
CALIBRATION = 'calibration'  # folder of its files, until the target is complete
_PLAN = 'plan.json'


def begin_unfinished(job: QuantizationPlan, vlm: Path | None) -> Path:
    """Make the folder of the job, or keep that of an earlier run with equal arguments.

    Raises BadInput for a vlm that the result could not be run with, and for a leftover of a run
    with other arguments.
    """
    plan = job.quantization.to_json() | {
        'parts': len(job.parts),
        'vlm': {path.name: hash_file(path) for path in find_vlm_files(job.source, vlm)},
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
    return folder


def quantize_checkpoint(
    job: QuantizationPlan,
    vlm: Path | None,
    progress: Progress,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Do the job; what is finished of an earlier run with equal arguments is kept. The report.

    vlm: whose tokenizer, templates and config are copied; None: those of the source, if it has
    any. calibration: whose tensors take the place of what would be solved. The target appears when
    it is complete. Raises BadInput as `begin_unfinished`, and for weights that are not finite and
    a file that cannot be written.
    """
    folder = begin_unfinished(job, vlm)
    shutil.rmtree(folder / 'vlm', ignore_errors=True)
    for path in find_vlm_files(job.source, vlm):
        (folder / 'vlm').mkdir(exist_ok=True)
        shutil.copyfile(path, folder / 'vlm' / path.name)
    if (job.source / PHRASES).is_file():
        shutil.copyfile(job.source / PHRASES, folder / PHRASES)
    if limits := read_card_limits(job.source):  # its figures are those of other weights
        _write_json(folder / CARD, {'limits': [limits]})
    config = read_json(job.source / 'config.json')
    _write_json(folder / 'config.json', config | {KEY: job.quantization.to_json()})
    tensors = _CalibratedTensors(calibration)
    done = [_write_part(job, part, progress, tensors) for part in range(len(job.parts))]
    report = _summarise(job, done)
    if calibration is not None:
        report['calibration'] = calibration.to_json()
    _write_json(folder / REPORT, report)
    _write_json(folder / INDEX, _make_index(job, done))
    shutil.rmtree(folder / CALIBRATION, ignore_errors=True)
    for path in (*folder.glob('model-*.json'), folder / _PLAN):  # without a plan all begins anew
        path.unlink()
    folder.rename(job.target)
    return report


class _CalibratedTensors:
    """Tensors of a calibration by name; none without one."""

    def __init__(self, calibration: Calibration | None) -> None:
        self._file = None if calibration is None else calibration.file
        self.names: frozenset[str] = frozenset()
        if self._file is not None:
            with safe_open(self._file, framework='pt') as opened:
                self.names = frozenset(opened.keys())

    def read(self, step: TensorStep) -> dict[str, Tensor]:
        """Return the stored tensors of a step; {} for what was not calibrated."""
        if self._file is None or not self.names.issuperset(step.shapes):
            return {}
        with safe_open(self._file, framework='pt') as opened:
            return {name: opened.get_tensor(name) for name in step.shapes}


def _write_part(
    job: QuantizationPlan, part: int, progress: Progress, calibrated: _CalibratedTensors
) -> dict[str, Any]:
    """Write a file and a note of what the report says of it; or keep what has the note's hash."""
    file = job.unfinished / job.part_name(part)
    record = file.with_suffix('.json')
    if record.is_file() and file.is_file():
        done = read_json(record)
        if done.get('sha256') == hash_file(file):
            progress('finished earlier', sum(step.read_bytes for step in job.parts[part]))
            return done
    file.unlink(missing_ok=True)  # its place was counted as free
    tensors: dict[str, Tensor] = {}
    modules: dict[str, Any] = {}
    for step in job.parts[part]:
        made, error = _convert_tensor(job, step, calibrated.read(step))
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
    done = {'sha256': hash_file(file), 'bytes': size, 'names': list(tensors), 'modules': modules}
    _write_json(record, done)
    return done


def _convert_tensor(
    job: QuantizationPlan, step: TensorStep, calibrated: dict[str, Tensor]
) -> tuple[dict[str, Tensor], float | None]:
    """The stored tensors of a step on the host, and the error of what was quantized here."""
    tensor = job.read_tensor(step.source)
    if not step.shapes:
        return {}, None
    try:
        require_sound_values(job.files[step.source], step.source, tensor, torch.bfloat16)
    except BadInput:
        shutil.rmtree(job.unfinished)  # of no use to a repaired source, which has another hash
        raise
    if step.source.endswith(ZERO_POINT):
        scale = job.read_tensor(step.source.removesuffix(ZERO_POINT) + '._scale')
        (name,) = step.shapes
        shift = scale.to(torch.float32) * tensor.to(torch.float32)
        return {name: shift.to(scale.dtype)}, None
    if list(step.shapes) == [step.source]:
        return {
            step.source: calibrated.get(step.source, tensor).to(tensor.dtype).contiguous()
        }, None
    if calibrated:
        stored = {name.removeprefix(step.source): x for name, x in calibrated.items()}
        error = measure_error(stored, step.rule, tensor)
    else:
        stored, error = quantize_matrix(tensor, step.rule, job.quantization.solver, job.device)
    if error != error:  # squares of values near the limit of float32
        shutil.rmtree(job.unfinished)
        raise BadInput(
            f'{job.files[step.source]}: {step.source} holds values too large to quantize'
        )
    return {step.source + ending: part.cpu() for ending, part in stored.items()}, error


def _summarise(job: QuantizationPlan, done: list[dict[str, Any]]) -> dict[str, Any]:
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


def _make_index(job: QuantizationPlan, done: list[dict[str, Any]]) -> dict[str, Any]:
    """Which tensor is in which file, and the hashes that loading checks."""
    names = {job.part_name(i): part for i, part in enumerate(done)}
    return {
        'metadata': {
            'total_size': sum(part['bytes'] for part in done),
            'sha256': {name: part['sha256'] for name, part in names.items()},
        },
        'weight_map': {tensor: name for name, part in names.items() for tensor in part['names']},
    }


def find_vlm_files(source: Path, vlm: Path | None) -> list[Path]:
    """Tokenizer, chat template, preprocessor and config, so that a vehicle needs no network.

    Raises BadInput unless the source is the same model with them, and its ids those of the
    tokenizer.
    """
    raw = read_json(source / 'config.json')
    vlm = vlm or find_vlm_folder(str(raw.get('vlm_name_or_path')), source)
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
