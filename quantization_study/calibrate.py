"""Records the inputs that the linear layers of a checkpoint see while it drives.

Run: `python -m quantization_study.calibrate`.

The checkpoint plans moments of training drives as it would in an evaluation, and the second
moments of every layer's inputs are summed up, for `alpamayo_quantize --importance FILE`. Knows no
solver and no width.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
import json
from pathlib import Path
import sys
from typing import Any

from safetensors.torch import save_file
import torch
from torch import Tensor, nn
from tqdm import tqdm

from alpamayo_ros.cli.entry import command
from alpamayo_ros.conversion.input_statistics import linear_inputs
from alpamayo_ros.data_types import SamplingOptions
from alpamayo_ros.drives.open_loop import OpenLoop
from alpamayo_ros.drives.planners import CheckpointPlanner
from alpamayo_ros.drives.scene import Scene
from alpamayo_ros.files import refuse_existing
from alpamayo_ros.model.config import AlpamayoConfig
from alpamayo_ros.model.prompt.image_processor import smart_resize
from alpamayo_ros.runtime.engine import AlpamayoEngine
from alpamayo_ros.world.camera import CAMERAS

LARGEST = 1024  # inputs of a layer whose second moments are kept; of a wider one mean squares are
SPLIT, SECONDS, MOMENTS, SEED = 'train', 60.0, 8, 0
_BATCH = 16


def picture_size(config: AlpamayoConfig) -> tuple[int, int]:
    """Height and width of the pictures of the world as a checkpoint sees them."""
    camera, vision = CAMERAS[0], config.vision
    return smart_resize(
        camera.height, camera.width, config.min_pixels, config.max_pixels,
        vision.patch_size * vision.spatial_merge_size,
    )  # fmt: skip


def scenes_of(drives: int, size: tuple[int, int]) -> Iterator[Scene]:
    """MOMENTS scenes of each training drive, with pictures of a height and width."""
    loop = OpenLoop(SPLIT, drives, SECONDS, MOMENTS, SEED)
    for number in range(drives):
        yield from loop.scenes(number, size)


def input_moments(
    engine: AlpamayoEngine, scenes: Sequence[Scene], advance: Callable[[int], object]
) -> dict[str, Tensor]:
    """Means of x x^T (K, K) over the inputs x of every linear layer, float32; (K) above LARGEST.

    Every scene is planned once, with seeds of its own. advance is called with the scenes planned.
    """
    planner = CheckpointPlanner(lambda: engine, SamplingOptions(), _BATCH)
    with _summing(engine.model) as sums:
        for start in range(0, len(scenes), _BATCH):
            part = scenes[start : start + _BATCH]
            planner.plan(part, SEED)
            advance(len(part))
    return {name: (sum_.total / sum_.count).to(torch.float32) for name, sum_ in sums.items()}


class _Sum:
    """Sum over the inputs of a layer, in float64."""

    def __init__(self, inputs: int) -> None:
        self.wide = inputs > LARGEST
        self.count = 0
        self.total = torch.zeros((inputs,) if self.wide else (inputs, inputs), dtype=torch.float64)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Take in what a layer is about to read."""
        x = inputs[0].detach().to(torch.float32).flatten(0, -2)
        self.count += len(x)
        self.total += (x.square().sum(0) if self.wide else x.T @ x).cpu()


@contextmanager
def _summing(model: nn.Module) -> Iterator[Mapping[str, _Sum]]:
    """Sums of all linear layers, which grow while this lasts."""
    sums = {name: _Sum(inputs) for name, inputs in linear_inputs(model).items()}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(own) for name, own in sums.items()
    ]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


@command
def main(argv: list[str] | None = None) -> int:
    """Write second moments of the inputs of every linear layer of a checkpoint."""
    parser = argparse.ArgumentParser(
        description=main.__doc__, prog='python -m quantization_study.calibrate'
    )
    parser.add_argument('checkpoint', type=Path, help='folder of a release in full precision')
    parser.add_argument('file', type=Path, help='new safetensors file')
    parser.add_argument('--drives', type=int, default=32, help=f'of {MOMENTS} moments each')
    parser.add_argument('--device', default='cpu', help='cpu (default), cuda or cuda:N')
    arguments = parser.parse_args(argv)
    refuse_existing(arguments.file)
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    engine = AlpamayoEngine(arguments.checkpoint, arguments.device, None, 16)
    scenes = list(scenes_of(arguments.drives, picture_size(engine.config)))
    with tqdm(desc='calibrate', total=len(scenes), unit='scene', dynamic_ncols=True) as bar:
        moments = input_moments(engine, scenes, bar.update)
    save_file(moments, arguments.file, {'scenes': str(len(scenes)), 'split': SPLIT})
    print(json.dumps({'layers': len(moments), 'scenes': len(scenes)}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
