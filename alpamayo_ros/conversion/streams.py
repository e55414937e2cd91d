"""Lessons on their way through the 16-bit model and through the quantized one, block by block.

Hidden states wait on the host, large ones in files; a block is on the device only while lessons
pass it. Knows no quantization but the embedding's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import copy
from dataclasses import dataclass
import os
from pathlib import Path
import tempfile
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..model.alpamayo import AlpamayoModel
from ..model.checkpoint import set_tensor
from ..quantization.codes import dequantize
from ..quantization.matrix import quantize_matrix
from ..quantization.scheme import Rules, find_rule
from ..runtime.load import EMBEDDING, build_on_meta
from .block_walk import Block, HiddenState, advance_state, begin, list_blocks, map_state, run_block
from .lessons import Lessons

CHUNK_TOKENS = 2500  # that pass a block at a time: one lesson of the release, eight of a small one

LARGE = 1 << 22  # bytes of a hidden state from which on it waits in a file: those of a release

Outputs = tuple[Tensor, ...]


@dataclass
class Streams:
    """All lessons in front of one block, in chunks; only the first go through the quantized model.

    plain, quantized: everything of both models that is in no block, on the device. folder: for
    large hidden states.
    """

    source: AlpamayoModel
    plain: AlpamayoModel
    quantized: AlpamayoModel
    lessons: list[Lessons]
    plain_states: list[HiddenState]
    quantized_states: list[HiddenState]
    device: torch.device
    folder: Path

    def take_block(self, block: Block) -> nn.Module:
        """Return a copy of a block in 16 bits on the device."""
        module = self.source.get_submodule(block.path)
        copies: dict[int, Any] = {  # what deepcopy is told that it has copied
            id(x): nn.Parameter(x.detach().to(self.device, copy=True), requires_grad=False)
            for x in module.parameters()
        }
        copies |= {id(x): x.to(self.device, copy=True) for x in module.buffers()}
        return copy.deepcopy(module, copies)

    def run_plain(self, block: Block, module: nn.Module, chunk: int) -> Outputs:
        """Run a block on what the 16-bit model gives."""
        return self._run(block, module, self.plain, self.plain_states[chunk], chunk)

    def run_quantized(self, block: Block, module: nn.Module, chunk: int) -> Outputs:
        """Run a block on what the quantized model gives."""
        return self._run(block, module, self.quantized, self.quantized_states[chunk], chunk)

    def move(self, block: Block, module: nn.Module, targets: Sequence[Outputs]) -> None:
        """Let all lessons pass a block; targets: what it gives in 16 bits."""
        for chunk, target in enumerate(targets):
            self.plain_states[chunk] = advance_state(block, self.plain_states[chunk], target)
        for chunk, state in enumerate(self.quantized_states):
            outputs = self.to_host(self.run_quantized(block, module, chunk))
            self.quantized_states[chunk] = advance_state(block, state, outputs)

    def finish(
        self, states: Sequence[HiddenState], chunks: Sequence[int], rest: Sequence[Block]
    ) -> list[HiddenState]:
        """Run states of some chunks through 16-bit blocks to the end; they stay on the device."""
        found = [map_state(states[chunk], self._to_device) for chunk in chunks]
        for block in rest:
            module = self.take_block(block)
            for i, chunk in enumerate(chunks):
                outputs = self._run(block, module, self.plain, found[i], chunk)
                found[i] = advance_state(block, found[i], outputs)
        return [map_state(state, lambda x: x.to('cpu')) for state in found]

    def to_host(self, outputs: Outputs) -> Outputs:
        """Move the outputs of a block to the host."""
        return tuple(keep(x, self.folder) for x in outputs)

    def _run(
        self, block: Block, module: nn.Module, model: AlpamayoModel, state: HiddenState, chunk: int
    ) -> Outputs:
        lessons = self.lessons[chunk].to(self.device)
        return run_block(block, module, model, lessons, map_state(state, self._to_device))

    def _to_device(self, x: Tensor) -> Tensor:
        return x.to(self.device, non_blocking=True)


def begin_streams(
    source: AlpamayoModel,
    rules: Rules,
    lessons: Sequence[Lessons],
    followed: int,
    device: str,
    folder: Path,
) -> Streams:
    """Return both streams before the first block.

    source: in 16 bits on the host, where weights may lie in their files. followed: how many chunks
    go through the quantized model.
    """
    plain, quantized = (copy_frame(source, device) for _ in range(2))
    _round_embedding(quantized, rules)
    plain_states, quantized_states = (
        [map_state(begin(frame, own.to(device)), lambda x: keep(x, folder)) for own in some]
        for frame, some in ((plain, lessons), (quantized, lessons[:followed]))
    )
    return Streams(
        source,
        plain,
        quantized,
        list(lessons),
        plain_states,
        quantized_states,
        torch.device(device),
        folder,
    )


def copy_frame(source: AlpamayoModel, device: str) -> AlpamayoModel:
    """Return a copy on a device of everything that is in no block; blocks stay on meta."""
    frame = build_on_meta(source.config)
    paths = tuple(f'{block.path}.' for block in list_blocks(source.config))
    for name, tensor in source.state_dict().items():
        if not name.startswith(paths):
            set_tensor(frame, name, tensor.to(device, copy=True))
    return frame.eval()


def split_chunks(lessons: Lessons) -> Iterator[Lessons]:
    """Yield lessons in chunks of CHUNK_TOKENS."""
    tokens = lessons.batch.prompt.shape[1] + lessons.batch.rest.shape[1]
    size = max(1, CHUNK_TOKENS // tokens)
    for start in range(0, len(lessons), size):
        yield lessons.take(range(start, min(start + size, len(lessons))))


def keep(x: Tensor, folder: Path) -> Tensor:
    """Return a tensor on the host, a large one mapped from a file that goes with the tensor.

    Raises BadInput where the file has no room.
    """
    if x.nbytes < LARGE:
        return x.detach().to('cpu')
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, x.nbytes)  # a full disk is found out here
            kept = torch.from_file(file.name, shared=True, size=x.numel(), dtype=x.dtype)
    except OSError as error:
        raise BadInput(f'{folder}: a hidden state cannot be written: {error.strerror}') from None
    return kept.view(x.shape).copy_(x.detach())


def _round_embedding(model: AlpamayoModel, rules: Rules) -> None:
    """Give the embedding the values of its quantized form; it has no inputs to calibrate on."""
    rule, table = find_rule(EMBEDDING, rules), model.vlm.model.language_model.embed_tokens
    if rule.scheme.levels:
        stored, _ = quantize_matrix(table.weight, rule, device=table.weight.device)
        dense = dequantize(stored, rule, *table.weight.shape).to(table.weight.dtype)
        table.weight = nn.Parameter(dense, requires_grad=False)
