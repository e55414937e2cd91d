"""Train the small Alpamayo: `python -m training.train RUN`, again and again until it is done.

A run is a folder: settings.yaml, the state in shards, the losses; everything else in it can be
made anew. Each call goes on where the last one ended, for as long as it is told to.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
import json
from pathlib import Path
import shutil
import sys
import time

import torch
from tqdm import tqdm

from alpamayo_ros.cli.entry import command
from alpamayo_ros.errors import BadInput
from alpamayo_ros.files import new_folder

from .architecture import checkpoint_folder, new_model
from .batches import Batches, Words, camera_sets, generator
from .compiled import compiled_step
from .drives import Drives
from .losses import draws
from .optimizer import Optimizer
from .settings import EARLIER, TrainingSettings, change_settings, load_settings
from .state import has_state, load_state, save_state
from .step import by_cameras, plain_step, recorded_step

_FLOW = 10  # what random numbers are for, beside those of batches.py
_OFTEN = 0.5  # share of the batches from which on a step is compiled on a GPU
_DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}  # what a model computes in
DEFAULT = Path(__file__).with_name('small.yaml')


def new_run(
    run: Path, config: Path, changes: Sequence[str] = (), earlier: Path | None = None
) -> None:
    """Make the folder of a run; BadInput when a setting is wrong.

    changes: KEY=VALUE, with dots for what is inside. earlier: the run that it goes on from.
    """
    with new_folder(run) as place:
        place.mkdir()
        shutil.copy(config, place / 'settings.yaml')
        if changes:
            change_settings(place / 'settings.yaml', changes)
        load_settings(place / 'settings.yaml')
        if earlier is not None:
            if not has_state(earlier / 'state'):
                raise BadInput(f'{earlier}: nothing was trained there yet')
            _remember(earlier, place / EARLIER)
            shutil.copytree(earlier / 'state', place / EARLIER / 'state')


def _remember(earlier: Path, place: Path) -> None:
    """Copy what cards tell of a run, and of the run that it went on from itself."""
    place.mkdir()
    for name in ('settings.yaml', 'losses.jsonl'):
        shutil.copy(earlier / name, place)
    if (earlier / EARLIER).is_dir():
        _remember(earlier / EARLIER, place / EARLIER)


class Trainer:
    """A run on a device: model, optimizer and the step that comes next.

    dtype: what the model computes in, None for bfloat16 on a GPU and float32 on a CPU. Not by what
    the CPU can: bfloat16 is compiled there, which short runs do not wait for.
    """

    def __init__(
        self,
        run: Path,
        settings: TrainingSettings,
        device: str,
        workers: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.run, self.settings, self.device = run, settings, device
        checkpoint = checkpoint_folder(run, settings)
        self.model = new_model(checkpoint, settings.seed)
        drives = Drives('train', settings, self.model.action_space)
        words = Words(checkpoint, settings, camera_sets(settings))
        self._batches = Batches(words, drives, settings, device, workers)
        self.model = self.model.to(device)
        on_gpu = torch.device(device).type == 'cuda'
        # a GPU is bound by its memory here: half the bytes are nearly half the time
        dtype = dtype or (torch.bfloat16 if on_gpu else torch.float32)
        self.optimizer = Optimizer(self.model, settings, dtype)
        step = plain_step(self.model, settings)
        if dtype == torch.bfloat16:
            # on a GPU rare sets of cameras are over before theirs would be compiled
            often = _OFTEN if on_gpu else 0.0
            step = by_cameras(settings, compiled_step(self.model, settings), step, often)
        self._step = recorded_step(step, self.optimizer.gradient) if on_gpu else step
        self.step = 0
        if has_state(run / 'state'):
            self.step = load_state(run / 'state', self._vectors())
        elif (run / EARLIER).is_dir():
            load_state(run / EARLIER / 'state', {'weights': self.optimizer.weights})
        self.optimizer.spread()

    def train(
        self, seconds: float, finish: bool = False, save_every_s: float = float('inf')
    ) -> None:
        """Train until the last step or until the time is over.

        finish: the learning rate comes to its end with the time, whatever steps that takes.
        """
        start = saved = time.monotonic()
        first = since = self.step
        sums = torch.zeros(4, device=self.device)
        progress = tqdm(total=self.settings.steps, initial=self.step, dynamic_ncols=True)
        for batch in self._batches.since(self.step):
            if self.step == self.settings.steps or time.monotonic() - start > seconds:
                break
            random = generator(self.device, self.settings.seed, _FLOW, self.step)
            found = self._step(batch, *draws(batch, self.settings.flow_draws, random))
            sums[:3] += found
            sums[3] += self.optimizer.update(self.step)
            self.step += 1
            progress.update()
            if self.step % self.settings.log_every == 0 or self.step == self.settings.steps:
                spent = time.monotonic() - start
                self._log(sums / (self.step - since), spent)
                if finish:
                    left = (seconds - spent) * (self.step - first) / spent
                    self._end_at(self.step + max(int(left), 1))
                if time.monotonic() - saved > save_every_s:
                    self.save()
                    saved = time.monotonic()
                sums, since = torch.zeros_like(sums), self.step
        progress.close()

    def save(self) -> None:
        """Write the state; at most 64 MiB."""
        save_state(self.run / 'state', self.step, self._vectors())

    def _end_at(self, step: int) -> None:
        self.settings = self.optimizer.settings = replace(self.settings, steps=step)

    def _vectors(self) -> dict[str, torch.Tensor]:
        found = self.optimizer
        return {'weights': found.weights, 'first': found.first, 'second': found.second}

    def _log(self, means: torch.Tensor, seconds: float) -> None:
        language, flow, path, norm = means.tolist()
        row = {
            'step': self.step,
            'language': round(language, 5),
            'flow': round(flow, 5),
            'path': round(path, 5),
            'gradient_norm': round(norm, 4),
            'learning_rate': self.optimizer.learning_rate(self.step - 1),
            'seconds': round(seconds, 2),
            'device': self.device,
        }
        with (self.run / 'losses.jsonl').open('a', encoding='utf-8') as file:
            file.write(json.dumps(row) + '\n')


@command
def main(argv: list[str] | None = None) -> int:
    """Begin a run or go on with it."""
    parser = argparse.ArgumentParser(description=main.__doc__, prog='python -m training.train')
    parser.add_argument('run', type=Path, help='folder of the run')
    parser.add_argument('--config', type=Path, default=DEFAULT, help='settings of a new run')
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='KEY=VALUE',
        help='another setting, as data.passes=3',
    )
    parser.add_argument(
        '--earlier', type=Path, metavar='RUN', help='begin with the weights of that run'
    )
    parser.add_argument('--seconds', type=float, default=float('inf'), help='stop after so long')
    parser.add_argument(
        '--finish', action='store_true', help='let the learning rate end with --seconds'
    )
    parser.add_argument(
        '--save-every', type=float, default=60.0, help='seconds between states on disk'
    )
    parser.add_argument('--steps', type=int, help='last step, in place of the one in the settings')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--dtype',
        choices=_DTYPES,
        help='what the model computes in (default: bfloat16 on a GPU, float32 on a CPU); '
        'bfloat16 on a CPU is compiled first, and fast where there is AMX',
    )
    parser.add_argument('--workers', type=int, default=0, help='processes that make drives')
    arguments = parser.parse_args(argv)
    if not arguments.run.is_dir():
        new_run(arguments.run, arguments.config, arguments.set, arguments.earlier)
    settings = load_settings(arguments.run / 'settings.yaml')
    if arguments.steps:
        settings = replace(settings, steps=arguments.steps)
    if arguments.device == 'cuda' and not torch.cuda.is_available():
        raise BadInput('--device cuda: there is none')
    # one file for each tensor that a worker sends would be more than a process may open
    torch.multiprocessing.set_sharing_strategy('file_system')
    dtype = _DTYPES.get(arguments.dtype)
    trainer = Trainer(arguments.run, settings, arguments.device, arguments.workers, dtype)
    trainer.train(arguments.seconds, arguments.finish, arguments.save_every)
    trainer.save()
    print(json.dumps({'step': trainer.step, 'of': trainer.settings.steps}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
