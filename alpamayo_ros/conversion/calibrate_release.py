"""The calibration of a planned quantization: contexts, the 16-bit answers, all blocks.

Everything that is finished lies in the unfinished folder of the plan. Knows no bags.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
import hashlib
import math
from pathlib import Path
import shutil

from safetensors.torch import load_file

from ..data_types import Context
from ..errors import BadInput
from ..model.alpamayo import AlpamayoModel
from ..model.checkpoint import list_shard_files, read_tensor_shapes
from ..quantization.scheme import TABLES, Rules
from ..runtime.engine import AlpamayoEngine
from ..runtime.load import DTYPES, load, load_model, plan_load
from ..runtime.memory import require_memory
from .answers import make_lessons
from .block_walk import list_blocks
from .calibrate import Calibration, calibrate, count_steps
from .calibration_files import save_tensors
from .fit_widths import fit_rules, measure_harms
from .lessons import Curriculum, curriculum_from_tensors
from .plan import QuantizationPlan
from .quantize import CALIBRATION, begin_unfinished
from .streams import LARGE, split_chunks

SEED = 0
SPEAKER_BYTES = 8_000_000_000  # so that a GPU of 12 GB will do
_LESSONS = 'lessons.safetensors'
# Bytes for each weight of a block at work: two copies in 16 bits, and in float32 the matrix, its
# gradient, its place between the levels with gradient and two means of the optimizer.
_BLOCK_BYTES = 2 * 2 + 6 * 4
# In and behind a layer of a block, for each value of a hidden state.
_ACTIVATION_BYTES = 200


def hash_contexts(contexts: Sequence[Context]) -> str:
    """Hash what a calibration reads of contexts."""
    digest = hashlib.sha256()
    for context in contexts:
        digest.update(repr((context.t0_ns, context.camera_indices)).encode())
        for part in (context.history_xyz_m, context.history_rot):
            digest.update(part.tobytes())
        for row in context.frames.values():
            for frame in row:
                digest.update(frame.data.tobytes())
    return digest.hexdigest()


def speak(
    source: Path, device: str, contexts: Sequence[Context], advance: Callable[[int], object]
) -> Curriculum:
    """Let a release speak and plan at each context; advance is called with their number.

    In 16 bits, or in 4 if it is larger than SPEAKER_BYTES: what it says is only where logits and
    velocities are compared, and those are of 16 bits.
    """
    size = sum(file.stat().st_size for file in list_shard_files(source))
    bits = 16 if size <= SPEAKER_BYTES else 4
    return make_lessons(AlpamayoEngine(source, device, None, bits), contexts, SEED, advance)


def keep_lessons(
    job: QuantizationPlan, vlm: Path | None, make: Callable[[], Curriculum]
) -> Curriculum:
    """Make lessons and keep them in a file, or read those of an earlier run.

    Raises BadInput as begin_unfinished and `make` do.
    """
    folder = begin_unfinished(job, vlm) / CALIBRATION
    folder.mkdir(exist_ok=True)
    if (file := folder / _LESSONS).is_file():
        return curriculum_from_tensors(load_file(file))
    lessons = make()
    save_tensors(lessons.to_tensors(), file, {})
    return lessons


def fit_release(
    source: Path,
    device: str,
    lessons: Curriculum,
    bits_per_weight: float,
    advance: Callable[[int], object],
) -> Rules:
    """Measure the harm of each layer at each width, and return the rules that fit a budget.

    The whole release is on the device in 16 bits. advance is called with the lessons that were
    gone through.
    """
    shapes = {name: shape for name, (_, shape) in read_tensor_shapes(source).items()}
    chunks = list(split_chunks(lessons.learned))
    model = load_model(source, device, 16)
    harms = measure_harms(model, chunks, SEED, advance)
    return fit_rules(shapes, harms, bits_per_weight, str(source))


def load_source(job: QuantizationPlan, lessons: Curriculum) -> tuple[AlpamayoModel, int]:
    """Return the source in 16 bits on the host, and the number of steps of `calibrate_release`.

    Raises BadInput where the host, the device or the disk has too little room for the calibration.
    """
    source = load(plan_load(job.source, 'cpu', 16))  # mapped from its files
    needed, in_files = estimate_calibration(source, job.device, lessons)
    for device, own in needed.items():
        require_memory(f'{job.source}: calibration', own, device)
    in_files += count_training_bytes(job)
    if in_files > (free := shutil.disk_usage(job.unfinished).free):
        raise BadInput(
            f'{job.unfinished}: the calibration needs {in_files / 1e9:.3f} GB, '
            f'{free / 1e9:.3f} GB are free'
        )
    return source, count_steps(source, lessons)


def calibrate_release(
    job: QuantizationPlan,
    source: AlpamayoModel,
    lessons: Curriculum,
    advance: Callable[[str], object],
) -> Calibration:
    """Calibrate all blocks; what an earlier run finished is kept."""
    rules, folder = job.quantization.rules, job.unfinished / CALIBRATION
    return calibrate(source, rules, lessons, folder, job.device, SEED, advance)


def count_training_bytes(job: QuantizationPlan) -> int:
    """Count the bytes of the file of the training of all blocks, which the next one replaces.

    It has the value, the best one and both means, in float32, of all that is no code and no table.
    """
    trained = [
        math.prod(shape)
        for part in job.parts
        for step in part
        for name, shape in step.shapes.items()
        if not any(fnmatchcase(step.source.removesuffix('.weight'), table) for table in TABLES)
        and (not step.is_quantized or name.endswith(('._scale', '._shift')))
    ]
    return 2 * 4 * 4 * sum(trained)


def estimate_calibration(
    source: AlpamayoModel, device: str, lessons: Curriculum
) -> tuple[dict[str, dict[str, int]], int]:
    """Bytes by device and purpose that a calibration takes beside the files of the source.

    The second number: bytes of the hidden states that wait in files.
    """
    config, size = source.config, DTYPES[source.config.dtype].itemsize
    weights = {
        block.path: sum(p.numel() for p in source.get_submodule(block.path).parameters())
        for block in list_blocks(config)
    }
    frame = sum(p.numel() for p in source.parameters()) - sum(weights.values())
    batch = lessons.learned.batch
    tokens = batch.prompt.shape[1] + batch.rest.shape[1]
    hidden, pixels = tokens * config.text.hidden_size, batch.images[0].numel()
    vision = pixels // (3 * config.vision.patch_size**2) * config.vision.hidden_size
    levels = (1 + len(config.vision.deepstack_visual_indexes)) * hidden
    waiting = 2 * (max(vision + levels, 2 * hidden + levels) + hidden) * len(lessons) * size
    chunk = len(next(split_chunks(lessons.learned)))
    in_files = waiting if size * hidden * chunk >= LARGE else 0
    needed = {
        device: {
            'a block': _BLOCK_BYTES * max(weights.values()),
            'its activations': _ACTIVATION_BYTES * max(hidden, vision),
            'tables': 2 * size * frame,
        }
    }
    host = {'hidden states': waiting - in_files, 'pictures': pixels * len(lessons)}
    needed['cpu'] = needed.get('cpu', {}) | host
    return needed, in_files
