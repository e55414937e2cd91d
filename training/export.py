"""Export a training run as a checkpoint folder with a card and loss curves.

`python -m training.export RUN FOLDER`. The weights are bfloat16, as in the release. config.json
asks for float32 at run time, since CPUs compute faster in it.
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
from alpamayo_ros.files import create_folder
from alpamayo_ros.model.checkpoint import SINGLE, hash_checkpoint
from alpamayo_ros.model.config import CARD
from alpamayo_ros.model.prompt.phrases import PHRASES
from alpamayo_ros.model.small.vlm_files import write_json
from alpamayo_ros.world.reasons import REASONS

from .architecture import create_checkpoint_folder, make_model
from .card import Run, draw_losses, make_card
from .optimizer import Optimizer
from .settings import EARLIER, INITIAL, load_settings
from .state import has_state, load_state


def export(run: Path, folder: Path) -> None:
    """Write `folder` from the newest state of a run. Raises BadInput if the run has no state."""
    settings = load_settings(run / 'settings.yaml')
    if not has_state(run / 'state'):
        raise BadInput(f'{run}: no state yet, expected a run of training.train')
    untrained = create_checkpoint_folder(run, settings)
    model = make_model(untrained, settings.seed)
    load_state(run / 'state', {'weights': Optimizer(model, settings).weights})
    tensors = {name: t.to(torch.bfloat16).contiguous() for name, t in model.state_dict().items()}
    runs = list(_list_runs(run))
    with create_folder(folder) as place:
        shutil.copytree(untrained, place)
        (place / SINGLE).write_bytes(save(tensors))
        count = sum(parameter.numel() for parameter in model.parameters())
        facts = make_card(runs, count) | {'sha256': hash_checkpoint(place)}
        if (run / INITIAL).is_dir():
            facts['began_with_sha256'] = hash_checkpoint(run / INITIAL)
        write_json(place / CARD, facts)
        texts = [text for reason in REASONS.values() for text in reason.wordings]
        (place / PHRASES).write_text('\n'.join(texts) + '\n', encoding='utf-8')
        draw_losses(runs, place / 'losses.png')


def _list_runs(run: Path) -> Iterator[Run]:
    """Yield settings and losses of the runs in order, `run` last."""
    if (run / EARLIER).is_dir():
        yield from _list_runs(run / EARLIER)
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
