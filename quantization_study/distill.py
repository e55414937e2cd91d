"""Trains scales, shifts and norms of a quantized checkpoint towards 16-bit outputs.

Run: `python -m quantization_study.distill SOURCE QUANTIZED NEW`.
The student sees training drives and learns the teacher's velocities and logits;
codes stay, unless --codes lets them move too (straight-through:
Bengio et al. 2013). The result is an ordinary quantized checkpoint. Knows no width and no recipe.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
import json
import math
from pathlib import Path
import shutil
import sys
from typing import Any

from safetensors.torch import load_file, save_file
import torch
from torch import Tensor, nn
from tqdm import tqdm

from alpamayo_ros.cli.entry import command
from alpamayo_ros.conversion.quantize import REPORT
from alpamayo_ros.errors import BadInput
from alpamayo_ros.files import create_folder, read_json, refuse_existing
from alpamayo_ros.model.alpamayo import AlpamayoModel
from alpamayo_ros.model.checkpoint import INDEX, hash_file, list_shard_files
from alpamayo_ros.model.small.vlm_files import write_json
from alpamayo_ros.quantization.packed_weight import PackedWeight
from alpamayo_ros.quantization.record import KEY
from alpamayo_ros.runtime.load import load_model
from quantization_study.dense import codes_in, packed_bytes, unpack
from quantization_study.forced import Lesson, compare_answers, generate_lessons, settings_for

_PATH_WEIGHT, _KL_WEIGHT = 0.3, 0.3  # beside the velocity, as training weighs them
_PLAIN_RATE = 0.1  # of the learning rate: for what is not a scale or a shift
_PER_DRIVE, _DRIVES = 16, 16  # of a chunk: samples of each drive, drives
_FILE = 'model-00001-of-00001.safetensors'


class Taught(nn.Module):
    """A packed weight whose scales and shifts are learned, as changes relative to the scale.

    wanted (N, K): the 16-bit weight, with which codes can move; None if they stay.
    """

    def __init__(self, packed: PackedWeight, wanted: Tensor | None) -> None:
        super().__init__()
        self.packed, self.levels = packed, packed.levels
        _, scale, shift, _ = packed.stored
        self.own = codes_in(packed).unflatten(1, (scale.numel() // packed.rows, -1))  # (N, G, g)
        self.scale = scale.to(torch.float32).view(packed.rows, -1, 1)
        self.shift = None if shift is None else shift.to(torch.float32).view(packed.rows, -1, 1)
        self.stretch = nn.Parameter(torch.zeros_like(self.scale))
        self.move = nn.Parameter(torch.zeros_like(self.scale)) if packed.shifted else None
        self.within = None if wanted is None else nn.Parameter(self._within(wanted))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Both (N, G, 1), as they will be stored; without a shift zero is the middle level."""
        scale = _rounded(self.scale * (1 + self.stretch))
        if self.move is None or self.shift is None:
            return scale, scale * (1 if self.levels == 3 else 0)
        return scale, _rounded(self.shift + self.scale * self.move)

    def codes(self) -> Tensor:
        """Codes (N, G, g), to their position within the levels when these are learned."""
        if self.within is None:
            return self.own
        lowest = -127 if self.levels == 256 else 0
        place = (self.own + self.within).clamp(lowest, lowest + self.levels - 1)
        return place + (place.round() - place).detach()

    def forward(self) -> Tensor:
        """The matrix (N, K)."""
        scale, shift = self.scale_and_shift()
        return (scale * self.codes() - shift).flatten(1)

    @torch.no_grad()
    def stored(self, name: str) -> dict[str, Tensor]:
        """Tensors of a checkpoint, by name."""
        scale, shift = self.scale_and_shift()
        data = packed_bytes(self.codes().round().flatten(1), self.packed)
        ending = '._data' if self.levels == 256 else '._data._data'
        found = {f'{name}{ending}': data, f'{name}._scale': scale.view(-1, 1)}
        return found | ({f'{name}._shift': shift.view(-1, 1)} if self.move is not None else {})

    def _within(self, wanted: Tensor) -> Tensor:
        """Where the 16-bit weights lie between the levels, seen from their codes."""
        scale, shift = self.scale_and_shift()
        rows = nn.functional.pad(wanted, (0, 0, 0, len(self.own) - len(wanted)))
        place = (rows.view_as(self.own) + shift) / scale - self.own
        return place.clamp(-0.45, 0.45).detach()


class Student:
    """A quantized model whose matrices come from `Taught` weights; everything else is plain."""

    def __init__(
        self, folder: Path, teacher: AlpamayoModel, device: str, move_codes: bool
    ) -> None:
        self.model = load_model(folder, device)
        self.taught: dict[str, Taught] = {}
        for name, packed in unpack(self.model).items():
            like: Any = teacher.get_submodule(name)
            self.taught[name] = Taught(packed, like.weight if move_codes else None)
            del self.model.get_submodule(name).weight
        self.plain = dict(self.model.named_parameters())
        for parameter in self.plain.values():
            parameter.requires_grad_(parameter.is_floating_point())

    def assemble(self) -> AlpamayoModel:
        """The model with the matrices of now."""
        for name, taught in self.taught.items():
            layer: Any = self.model.get_submodule(name)
            is_table = isinstance(layer, nn.Embedding)
            rows = layer.num_embeddings if is_table else layer.out_features
            layer.weight = taught()[:rows]
        return self.model

    def groups(self, rate: float) -> list[dict[str, object]]:
        """Parameters with their learning rates, as optimizers want them."""
        own = [p for taught in self.taught.values() for p in taught.parameters()]
        return [
            {'params': own, 'lr': rate},
            {'params': list(self.plain.values()), 'lr': rate * _PLAIN_RATE},
        ]

    def tensors(self) -> dict[str, Tensor]:
        """What changed, by name in the checkpoint."""
        found = {name: parameter.detach() for name, parameter in self.plain.items()}
        for name, taught in self.taught.items():
            found |= taught.stored(f'{name}.weight')
        return found


def teach(
    student: Student,
    given: Iterable[Lesson],
    steps: int,
    rate: float,
    advance: Callable[[dict[str, float]], object],
) -> None:
    """Go through the lessons once. advance is called with the losses of each."""
    optimizer = torch.optim.Adam(student.groups(rate), betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2
    )
    for lesson in given:
        divergence, error = compare_answers(student.assemble(), lesson)
        count = torch.arange(1, error.shape[-2] + 1, device=error.device).unsqueeze(-1)
        path = (error.cumsum(-2).square() / count).mean()
        velocity, kl = error.square().mean(), divergence.mean()
        loss = velocity + _PATH_WEIGHT * path + _KL_WEIGHT * kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        parts = {'velocity': velocity, 'path': path, 'kl': kl}
        advance({name: float(part.detach()) for name, part in parts.items()})


def write(student: Student, quantized: Path, target: Path, solver: str) -> None:
    """Write the student as a copy of `quantized` with other tensors, and the solver's name."""
    tensors = {k: v for file in list_shard_files(quantized) for k, v in load_file(file).items()}
    for name, tensor in student.tensors().items():
        tensors[name] = tensor.to('cpu', tensors[name].dtype).contiguous()
    with create_folder(target) as place:
        kept = shutil.ignore_patterns('*.safetensors', INDEX, REPORT)
        shutil.copytree(quantized, place, ignore=kept)
        config = read_json(place / 'config.json')
        write_json(place / 'config.json', config | {KEY: config[KEY] | {'solver': solver}})
        save_file(tensors, place / _FILE, metadata={'format': 'pt'})
        size = sum(tensor.nbytes for tensor in tensors.values())
        hashes = {_FILE: hash_file(place / _FILE)}
        index = {'metadata': {'total_size': size, 'sha256': hashes},
                 'weight_map': dict.fromkeys(tensors, _FILE)}  # fmt: skip
        write_json(place / INDEX, index)


def distill(
    source: Path,
    quantized: Path,
    target: Path,
    device: str,
    steps: int,
    batch: int,
    passes: int,
    rate: float,
    move_codes: bool = False,
) -> None:
    """Make `target` from `quantized`, taught by `source`; progress is shown."""
    refuse_existing(target)
    entry = read_json(quantized / 'config.json').get(KEY)
    if entry is None:
        raise BadInput(f'{quantized}: not quantized, nothing is to be learned')
    teacher = load_model(source, device, 16)
    student = Student(quantized, teacher, device, move_codes)
    settings = settings_for(teacher, batch, steps, passes, _PER_DRIVE, _DRIVES)
    name = 'distilled with codes' if move_codes else 'distilled'
    with tqdm(desc=name, total=steps, dynamic_ncols=True) as bar:

        def advance(losses: dict[str, float]) -> None:
            bar.set_postfix({key: f'{value:.4f}' for key, value in losses.items()}, refresh=False)
            bar.update()

        given = generate_lessons(teacher, source, 'train', settings, device)
        teach(student, given, steps, rate, advance)
    write(student, quantized, target, f'{entry["solver"]}, {name}')


def _rounded(x: Tensor) -> Tensor:
    """Values as bfloat16 holds them; gradients pass."""
    return x + (x.to(torch.bfloat16).to(torch.float32) - x).detach()


@command
def main(argv: list[str] | None = None) -> int:
    """Teach a quantized checkpoint, and write it as a new one."""
    parser = argparse.ArgumentParser(
        description=main.__doc__, prog='python -m quantization_study.distill'
    )
    add = parser.add_argument
    add('source', type=Path, help='the checkpoint in full precision')
    add('quantized', type=Path, help='a quantized checkpoint of it')
    add('target', type=Path, help='new folder')
    add('--device', default='cpu', help='cpu (default), cuda or cuda:N')
    add('--steps', type=int, default=300)
    add('--batch', type=int, default=16, help='scenes of a step')
    add('--passes', type=int, default=4, help='how often a painted scene is gone through')
    add('--rate', type=float, default=0.002, help='learning rate, relative to the scales')
    add('--codes', action='store_true', help='let the codes move too')
    arguments = parser.parse_args(argv)
    distill(
        arguments.source, arguments.quantized, arguments.target, arguments.device,
        arguments.steps, arguments.batch, arguments.passes, arguments.rate, arguments.codes,
    )  # fmt: skip
    print(json.dumps({'checkpoint': str(arguments.target), 'steps': arguments.steps}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
