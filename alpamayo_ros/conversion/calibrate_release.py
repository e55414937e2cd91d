"""The calibration of a planned quantization: contexts, the 16-bit answers, all blocks.

Everything that is finished lies in the unfinished folder of the plan. Knows no bags.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import hashlib
from pathlib import Path

from safetensors.torch import load_file

from ..data_types import Context
from ..model.alpamayo import AlpamayoModel
from ..model.checkpoint import list_shard_files, read_tensor_shapes
from ..quantization.scheme import Rules
from ..runtime.engine import AlpamayoEngine
from ..runtime.load import DTYPES, load, load_model, plan_load
from ..runtime.memory import require_memory
from .block_walk import list_blocks
from .calibrate import Calibration, calibrate, count_steps, save_tensors
from .fit_widths import fit_rules, measure_harms
from .lessons import Lessons, lessons_from_tensors, make_lessons
from .plan import QuantizationPlan
from .quantize import CALIBRATION, begin_unfinished
from .streams import split_chunks

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
) -> Lessons:
    """Let a release speak and plan at each context; advance is called with their number.

    In 16 bits, or in 4 if it is larger than SPEAKER_BYTES: what it says is only where logits and
    velocities are compared, and those are of 16 bits.
    """
    size = sum(file.stat().st_size for file in list_shard_files(source))
    bits = 16 if size <= SPEAKER_BYTES else 4
    return make_lessons(AlpamayoEngine(source, device, None, bits), contexts, SEED, advance)


def keep_lessons(job: QuantizationPlan, vlm: Path | None, make: Callable[[], Lessons]) -> Lessons:
    """Make lessons and keep them in a file, or read those of an earlier run.

    Raises BadInput as begin_unfinished and `make` do.
    """
    folder = begin_unfinished(job, vlm) / CALIBRATION
    folder.mkdir(exist_ok=True)
    if (file := folder / _LESSONS).is_file():
        return lessons_from_tensors(load_file(file))
    lessons = make()
    save_tensors(lessons.to_tensors(), file, {})
    return lessons


def fit_release(
    source: Path,
    device: str,
    lessons: Lessons,
    bits_per_weight: float,
    advance: Callable[[int], object],
) -> Rules:
    """Measure the harm of each layer at each width, and return the rules that fit a budget.

    The whole release is on the device in 16 bits. advance is called with the lessons that were
    gone through.
    """
    shapes = {name: shape for name, (_, shape) in read_tensor_shapes(source).items()}
    chunks = list(split_chunks(lessons))
    model = load_model(source, device, 16)
    harms = measure_harms(model, chunks, SEED, advance)
    return fit_rules(shapes, harms, bits_per_weight, str(source))


def load_source(job: QuantizationPlan, lessons: Lessons) -> tuple[AlpamayoModel, int]:
    """Return the source in 16 bits on the host, and the number of steps of `calibrate_release`.

    Raises BadInput where the host or the device has too little memory for the calibration.
    """
    source = load(plan_load(job.source, 'cpu', 16))  # mapped from its files
    for device, needed in estimate_calibration_memory(source, job.device, lessons).items():
        require_memory(f'{job.source}: calibration', needed, device)
    return source, count_steps(source, lessons)


def calibrate_release(
    job: QuantizationPlan,
    source: AlpamayoModel,
    lessons: Lessons,
    advance: Callable[[str], object],
) -> Calibration:
    """Calibrate all blocks; what an earlier run finished is kept."""
    rules, folder = job.quantization.rules, job.unfinished / CALIBRATION
    return calibrate(source, rules, lessons, folder, job.device, SEED, advance)


def estimate_calibration_memory(
    source: AlpamayoModel, device: str, lessons: Lessons
) -> dict[str, dict[str, int]]:
    """Bytes by device and purpose that a calibration takes beside the files of the source."""
    config, size = source.config, DTYPES[source.config.dtype].itemsize
    weights = {
        block.path: sum(p.numel() for p in source.get_submodule(block.path).parameters())
        for block in list_blocks(config)
    }
    frame = sum(p.numel() for p in source.parameters()) - sum(weights.values())
    tokens = lessons.batch.prompt.shape[1] + lessons.batch.rest.shape[1]
    hidden, images = tokens * config.text.hidden_size, lessons.batch.images[0].numel()
    vision = images // (3 * config.vision.patch_size**2) * config.vision.hidden_size
    levels = (1 + len(config.vision.deepstack_visual_indexes)) * hidden
    waiting = 2 * (max(vision + levels, 2 * hidden + levels) + hidden) * len(lessons)
    needed = {
        device: {
            'a block': _BLOCK_BYTES * max(weights.values()),
            'its activations': _ACTIVATION_BYTES * max(hidden, vision),
            'tables': 2 * size * frame,
        }
    }
    host = {'hidden states': size * waiting, 'pictures': lessons.batch.images.numel()}
    needed['cpu'] = needed.get('cpu', {}) | host
    return needed
