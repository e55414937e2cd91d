"""Train the small Alpamayo: `python -m training.train RUN`; repeat until the last step.

A run is a folder with settings.yaml, losses.jsonl and state/; all other files in it can be made
again. Each call resumes where the last one ended and runs for --seconds.
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
from alpamayo_ros.files import create_folder
from alpamayo_ros.model.config import load_config

from .architecture import create_checkpoint_folder, load_weights, make_model
from .batches import Batches, TokenSequences, list_camera_sets, make_generator
from .compiled import make_compiled_step
from .drives import Drives
from .losses import draw_noise
from .optimizer import Optimizer
from .settings import EARLIER, INITIAL, TrainingSettings, change_settings, load_settings
from .state import has_state, load_state, save_state
from .step import choose_by_cameras, make_plain_step, record_step

_FLOW = 10  # key of a random generator, beside those of batches.py
_COMMON_SHARE = 0.5  # a GPU compiles the step of sets of cameras with at least this share
_DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
DEFAULT = Path(__file__).with_name('small.yaml')


def create_run(
    run: Path,
    config: Path,
    changes: Sequence[str] = (),
    earlier: Path | None = None,
    initial: Path | None = None,
) -> None:
    """Create the folder of a run. Raises BadInput for a wrong setting.

    changes: KEY=VALUE, with dots for nested keys. earlier: the run whose weights it begins with;
    initial: the checkpoint whose weights it begins with.
    """
    with create_folder(run) as place:
        place.mkdir()
        shutil.copy(config, place / 'settings.yaml')
        if changes:
            change_settings(place / 'settings.yaml', changes)
        load_settings(place / 'settings.yaml')
        if earlier is not None:
            if not has_state(earlier / 'state'):
                raise BadInput(f'{earlier}: no state yet, expected a run of training.train')
            _copy_history(earlier, place / EARLIER)
            shutil.copytree(earlier / 'state', place / EARLIER / 'state')
        if initial is not None:
            load_config(initial)
            shutil.copytree(initial, place / INITIAL)


def _copy_history(earlier: Path, place: Path) -> None:
    """Copy the settings and losses of a run, and those of the runs before it."""
    place.mkdir()
    for name in ('settings.yaml', 'losses.jsonl'):
        shutil.copy(earlier / name, place)
    if (earlier / EARLIER).is_dir():
        _copy_history(earlier / EARLIER, place / EARLIER)


class Trainer:
    """A run on a device: model, optimizer and the number of the next step.

    dtype: of the model's computation; None is bfloat16 on a GPU and float32 on a CPU. A CPU
    compiles the bfloat16 step first, which is too slow for short runs.
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
        checkpoint = create_checkpoint_folder(run, settings)
        self.model = make_model(checkpoint, settings.seed)
        if (run / INITIAL).is_dir():
            load_weights(self.model, checkpoint, run / INITIAL)
        drives = Drives('train', settings, self.model.action_space)
        words = TokenSequences(checkpoint, settings, list_camera_sets(settings))
        self._batches = Batches(words, drives, settings, device, workers)
        self.model = self.model.to(device)
        on_gpu = torch.device(device).type == 'cuda'
        # memory bounds a GPU here: half the bytes take nearly half the time
        dtype = dtype or (torch.bfloat16 if on_gpu else torch.float32)
        self.optimizer = Optimizer(self.model, settings, dtype)
        step = make_plain_step(self.model, settings)
        if dtype == torch.bfloat16:
            # on a GPU compiling takes longer than all batches of a rare set of cameras
            least_share = _COMMON_SHARE if on_gpu else 0.0
            step = choose_by_cameras(
                settings, make_compiled_step(self.model, settings), step, least_share
            )
        self._step = record_step(step, self.optimizer.gradient) if on_gpu else step
        self.step = 0
        if has_state(run / 'state'):
            self.step = load_state(run / 'state', self._list_state())
        elif (run / EARLIER).is_dir():
            load_state(run / EARLIER / 'state', {'weights': self.optimizer.weights})
        self.optimizer.copy_to_model()

    def train(
        self, seconds: float, finish: bool = False, save_every_s: float = float('inf')
    ) -> None:
        """Train until the last step, or for `seconds`.

        finish: move the last step so that the learning rate ends with `seconds`.
        """
        start = saved = time.monotonic()
        first = since = self.step
        sums = torch.zeros(5, device=self.device)
        progress = tqdm(total=self.settings.steps, initial=self.step, dynamic_ncols=True)
        for batch in self._batches.iterate_from(self.step):
            if self.step == self.settings.steps or time.monotonic() - start > seconds:
                break
            random = make_generator(self.device, self.settings.seed, _FLOW, self.step)
            losses = self._step(batch, *draw_noise(batch, self.settings.flow_draws, random))
            sums[:4] += losses
            sums[4] += self.optimizer.update(self.step)
            self.step += 1
            progress.update()
            if self.step % self.settings.log_every == 0 or self.step == self.settings.steps:
                spent = time.monotonic() - start
                self._log(sums / (self.step - since), spent)
                if finish:
                    left = (seconds - spent) * (self.step - first) / spent
                    self._set_last_step(self.step + max(int(left), 1))
                if time.monotonic() - saved > save_every_s:
                    self.save()
                    saved = time.monotonic()
                sums, since = torch.zeros_like(sums), self.step
        progress.close()

    def save(self) -> None:
        """Write the state, at most 64 MiB."""
        save_state(self.run / 'state', self.step, self._list_state())

    def _set_last_step(self, step: int) -> None:
        self.settings = self.optimizer.settings = replace(self.settings, steps=step)

    def _list_state(self) -> dict[str, torch.Tensor]:
        optimizer = self.optimizer
        vectors = {'first': optimizer.first, 'second': optimizer.second}
        return {'weights': optimizer.weights} | vectors

    def _log(self, means: torch.Tensor, seconds: float) -> None:
        language, flow, path, aside, norm = means.tolist()
        row = {
            'step': self.step,
            'language': round(language, 5),
            'flow': round(flow, 5),
            'path': round(path, 5),
            'aside': round(aside, 5),
            'gradient_norm': round(norm, 4),
            'learning_rate': self.optimizer.compute_learning_rate(self.step - 1),
            'seconds': round(seconds, 2),
            'device': self.device,
        }
        with (self.run / 'losses.jsonl').open('a', encoding='utf-8') as file:
            file.write(json.dumps(row) + '\n')


@command
def main(argv: list[str] | None = None) -> int:
    """Begin a run or resume it."""
    parser = argparse.ArgumentParser(description=main.__doc__, prog='python -m training.train')
    parser.add_argument('run', type=Path, help='folder of the run')
    parser.add_argument('--config', type=Path, default=DEFAULT, help='settings of a new run')
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='KEY=VALUE',
        help='change a setting, as in data.passes=3',
    )
    parser.add_argument(
        '--earlier', type=Path, metavar='RUN', help='begin with the weights of that run'
    )
    parser.add_argument(
        '--initial', type=Path, metavar='CHECKPOINT', help='begin with the weights of that folder'
    )
    parser.add_argument('--seconds', type=float, default=float('inf'), help='stop after this time')
    parser.add_argument(
        '--finish', action='store_true', help='end the learning rate with --seconds'
    )
    parser.add_argument(
        '--save-every', type=float, default=60.0, help='seconds between states on disk'
    )
    parser.add_argument('--steps', type=int, help='last step (default: that of the settings)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--dtype',
        choices=_DTYPES,
        help='of the computation (default: bfloat16 on a GPU, float32 on a CPU); a CPU compiles '
        'the bfloat16 step first, which is then fast if the CPU has AMX',
    )
    parser.add_argument('--workers', type=int, default=0, help='processes that make drives')
    arguments = parser.parse_args(argv)
    if not arguments.run.is_dir():
        begin = arguments.earlier, arguments.initial
        create_run(arguments.run, arguments.config, arguments.set, *begin)
    settings = load_settings(arguments.run / 'settings.yaml')
    if arguments.steps:
        settings = replace(settings, steps=arguments.steps)
    if arguments.device == 'cuda' and not torch.cuda.is_available():
        raise BadInput('--device cuda: this machine has no CUDA device, expected cpu')
    # the default opens one file for each tensor of a worker: more than a process may open
    torch.multiprocessing.set_sharing_strategy('file_system')
    dtype = _DTYPES.get(arguments.dtype)
    trainer = Trainer(arguments.run, settings, arguments.device, arguments.workers, dtype)
    trainer.train(arguments.seconds, arguments.finish, arguments.save_every)
    trainer.save()
    print(json.dumps({'step': trainer.step, 'of': trainer.settings.steps}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
