"""A run to a checkpoint folder that the package loads, with its card and loss curves.

`python -m training.export RUN FOLDER`. Weights are bfloat16 as those of the release; config.json
asks for float32 at run time, which CPUs are faster in.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import json
from pathlib import Path
import shutil
import sys

from safetensors.torch import save
import torch

from alpamayo_ros.cli.entry import command
from alpamayo_ros.errors import BadInput
from alpamayo_ros.files import new_folder
from alpamayo_ros.model.checkpoint import SINGLE, checkpoint_sha256
from alpamayo_ros.model.config import CARD
from alpamayo_ros.model.small_vlm import write_json

from .architecture import checkpoint_folder, new_model
from .card import Row, card, draw_losses
from .optimizer import Optimizer
from .settings import EARLIER, TrainingSettings, load_settings
from .state import has_state, load_state


def export(run: Path, folder: Path) -> None:
    """Make `folder` from the newest state of a run. Raises BadInput when there is none."""
    settings = load_settings(run / 'settings.yaml')
    if not has_state(run / 'state'):
        raise BadInput(f'{run}: nothing was trained here yet')
    empty = checkpoint_folder(run, settings)
    model = new_model(empty, settings.seed)
    load_state(run / 'state', {'weights': Optimizer(model, settings).weights})
    tensors = {name: t.to(torch.bfloat16).contiguous() for name, t in model.state_dict().items()}
    runs = list(_phases(run))
    with new_folder(folder) as place:
        shutil.copytree(empty, place)
        (place / SINGLE).write_bytes(save(tensors))
        count = sum(parameter.numel() for parameter in model.parameters())
        facts = card(runs, count) | {'sha256': checkpoint_sha256(place)}
        write_json(place / CARD, facts)
        draw_losses(runs, place / 'losses.png')


def _phases(run: Path) -> Iterator[tuple[TrainingSettings, list[Row]]]:
    """Settings and losses of a run, behind those of the run that it went on from."""
    if (run / EARLIER).is_dir():
        yield from _phases(run / EARLIER)
    losses = run / 'losses.jsonl'
    if not losses.is_file():
        raise BadInput(f'{run}: no losses yet, expected `log_every` steps or more')
    with losses.open(encoding='utf-8') as file:
        yield load_settings(run / 'settings.yaml'), [json.loads(line) for line in file]


@command
def main(argv: list[str] | None = None) -> int:
    """Write the checkpoint folder of a run."""
    parser = argparse.ArgumentParser(description=main.__doc__, prog='python -m training.export')
    parser.add_argument('run', type=Path, help='folder of the run')
    parser.add_argument('folder', type=Path, help='new checkpoint folder')
    arguments = parser.parse_args(argv)
    export(arguments.run, arguments.folder)
    return 0


if __name__ == '__main__':
    sys.exit(main())
