"""Lessons on their way through the 16-bit model and through the quantized one, block by block.

Hidden states wait on the host; a block is on the device only while lessons pass it. Knows no
quantization but the embedding's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..model.alpamayo import AlpamayoModel
from ..model.checkpoint import set_tensor
from ..quantization.codes import dequantize
from ..quantization.matrix import quantize_matrix
from ..quantization.scheme import Rules, find_rule
from ..runtime.load import EMBEDDING, build_on_meta
from .block_walk import Block, HiddenState, advance_state, begin, list_blocks, map_state, run_block
from .lessons import Lessons

CHUNK_TOKENS = 2500  # that pass a block at a time: one lesson of the release, eight of a small one

Outputs = tuple[Tensor, ...]


@dataclass
class Streams:
    """All lessons in front of one block, in chunks; the first chunks are learned from.

    plain, quantized: everything of both models that is in no block, on the device.
    """

    source: AlpamayoModel
    plain: AlpamayoModel
    quantized: AlpamayoModel
    lessons: list[Lessons]
    plain_states: list[HiddenState]
    quantized_states: list[HiddenState]
    device: torch.device

    def take_block(self, block: Block) -> nn.Module:
        """Return a copy of a block in 16 bits on the device."""
        return copy.deepcopy(self.source.get_submodule(block.path)).to(self.device)

    def run_plain(self, block: Block, module: nn.Module, chunk: int) -> Outputs:
        """Run a block on what the 16-bit model gives."""
        return self._run(block, module, self.plain, self.plain_states[chunk], chunk)

    def run_quantized(self, block: Block, module: nn.Module, chunk: int) -> Outputs:
        """Run a block on what the quantized model gives."""
        return self._run(block, module, self.quantized, self.quantized_states[chunk], chunk)

    def move(self, block: Block, module: nn.Module, targets: Sequence[Outputs]) -> None:
        """Let all lessons pass a block; targets: what it gives in 16 bits."""
        for chunk, target in enumerate(targets):
            outputs = to_host(self.run_quantized(block, module, chunk))
            self.plain_states[chunk] = advance_state(block, self.plain_states[chunk], target)
            self.quantized_states[chunk] = advance_state(
                block, self.quantized_states[chunk], outputs
            )

    def finish(
        self, states: Sequence[HiddenState], chunks: Sequence[int], rest: Sequence[Block]
    ) -> list[HiddenState]:
        """Run states of some chunks through 16-bit blocks to the end."""
        found = [states[chunk] for chunk in chunks]
        for block in rest:
            module = self.take_block(block)
            for i, chunk in enumerate(chunks):
                outputs = self._run(block, module, self.plain, found[i], chunk)
                found[i] = advance_state(block, found[i], to_host(outputs))
        return found

    def _run(
        self, block: Block, module: nn.Module, model: AlpamayoModel, state: HiddenState, chunk: int
    ) -> Outputs:
        lessons = self.lessons[chunk].to(self.device)
        return run_block(block, module, model, lessons, map_state(state, self._to_device))

    def _to_device(self, x: Tensor) -> Tensor:
        return x.to(self.device, non_blocking=True)


def begin_streams(
    source: AlpamayoModel, rules: Rules, lessons: Sequence[Lessons], device: str
) -> Streams:
    """Return both streams before the first block.

    source: in 16 bits on the host, where weights may lie in their files.
    """
    plain, quantized = (copy_frame(source, device) for _ in range(2))
    _round_embedding(quantized, rules)
    plain_states, quantized_states = (
        [map_state(begin(frame, own.to(device)), to_host_tensor) for own in lessons]
        for frame in (plain, quantized)
    )
    return Streams(
        source,
        plain,
        quantized,
        list(lessons),
        plain_states,
        quantized_states,
        torch.device(device),
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


def to_host(outputs: Outputs) -> Outputs:
    """Move the outputs of a block to the host."""
    return tuple(to_host_tensor(x) for x in outputs)


def to_host_tensor(x: Tensor) -> Tensor:
    """Move a tensor to the host, without what made it."""
    return x.detach().to('cpu')


def _round_embedding(model: AlpamayoModel, rules: Rules) -> None:
    """Give the embedding the values of its quantized form; it has no inputs to calibrate on."""
    rule, table = find_rule(EMBEDDING, rules), model.vlm.model.language_model.embed_tokens
    if rule.scheme.levels:
        stored, _ = quantize_matrix(table.weight, rule, device=table.weight.device)
        dense = dequantize(stored, rule, *table.weight.shape).to(table.weight.dtype)
        table.weight = nn.Parameter(dense, requires_grad=False)
