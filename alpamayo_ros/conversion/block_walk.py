"""A model block by block: the order in which lessons pass through it, and what each block does.

An expert layer reads the keys and values of the language layer of its number, so it follows that
layer at once and no keys have to be kept. Knows no quantization.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..model.action_expert import compute_expert_positions
from ..model.alpamayo import AlpamayoModel
from ..model.config import AlpamayoConfig
from ..model.teacher_forcing import (
    Prefix,
    embed_actions,
    make_layout,
    make_mask,
    make_turns,
    normalize,
    run_layer,
)
from .lessons import Lesson

_VISION, _LANGUAGE = 'vlm.model.visual', 'vlm.model.language_model'


@dataclass(frozen=True)
class Block:
    """A part of the model that is quantized at once. kind: see `run_block`; path: its module."""

    kind: str
    path: str
    index: int = 0


@dataclass
class State:
    """Where one lesson is on its way through a model. Tensors are those of teacher_forcing.

    patches: hidden states of the vision tower (images, patches, V); levels: deepstack features;
    hidden: of prompt and words; waypoints: of the expert.
    """

    lesson: Lesson
    patches: Tensor
    rotary: tuple[Tensor, Tensor]
    waypoints: Tensor
    levels: list[Tensor] = field(default_factory=list)
    embeds: Tensor | None = None
    hidden: Tensor | None = None
    past: tuple[Tensor, Tensor] | None = None
    logits: Tensor | None = None
    velocity: Tensor | None = None


def list_blocks(config: AlpamayoConfig) -> Iterator[Block]:
    """Yield all blocks in the order of the computation."""
    levels = config.vision.deepstack_visual_indexes
    for i in range(config.vision.depth):
        yield Block('vision', f'{_VISION}.blocks.{i}', i)
        if i in levels:
            at = levels.index(i)
            yield Block('deepstack', f'{_VISION}.deepstack_merger_list.{at}', at)
    yield Block('merger', f'{_VISION}.merger')
    for i in range(config.text.num_hidden_layers):
        yield Block('language', f'{_LANGUAGE}.layers.{i}', i)
        yield Block('expert', f'expert.layers.{i}', i)
    yield Block('head', 'vlm.lm_head')
    yield Block('actions', 'action_out_proj')


def begin(model: AlpamayoModel, lesson: Lesson) -> State:
    """Return the state before the first block: embedded patches and noisy actions."""
    tower = model.vlm.model.visual
    grid = lesson.grids[0]
    x = tower.patch_embed(lesson.patches.unflatten(0, (len(lesson.grids), grid[0] * grid[1])))
    positions, *rotary = tower.compute_positions(grid)
    draws, waypoints = lesson.x.shape[1:3]
    embedded = embed_actions(
        model.action_in_proj, lesson.x.flatten(0, 1), lesson.t.reshape(-1, 1, 1)
    )
    return State(
        lesson,
        x + positions.to(x.dtype),
        (rotary[0], rotary[1]),
        embedded.reshape(1, draws * waypoints, -1),
    )


def run_block(block: Block, module: Any, model: AlpamayoModel, state: State) -> tuple[Tensor, ...]:
    """Run one block, given as a module, on a state; outputs depend on its kind.

    model: whose norms stand before the heads.
    """
    if block.kind == 'vision':
        total, branch = module(state.patches, None, *state.rotary)
        return (total + branch,)
    if block.kind in ('deepstack', 'merger'):
        return (module(state.patches).flatten(0, 1),)
    if block.kind == 'language':
        hidden = _embed(model, state) if state.hidden is None else state.hidden
        layout = _layout(model, state)
        turns = make_turns(
            model.vlm.model.language_model, layout.positions.to(hidden.device), hidden.dtype
        )
        hidden, keys, values = run_layer(module, hidden, turns, None)
        if block.index < len(state.levels):
            where = layout.image_columns.to(hidden.device)
            level = state.levels[block.index].to(hidden.dtype).unsqueeze(0)
            hidden = hidden.index_add(1, where, level)
        return hidden, keys, values
    if block.kind == 'expert':
        return (_run_expert(module, model, state),)
    if block.kind == 'head':
        assert state.hidden is not None
        start = state.lesson.prompt.shape[1] - 1
        x = normalize(model.vlm.model.language_model.norm, state.hidden[:, start:-1])
        return (module(x).to(torch.float32),)
    x = module(normalize(model.expert.norm, state.waypoints))
    return (x.reshape(state.lesson.x.shape).to(torch.float32),)


def store_outputs(block: Block, state: State, outputs: tuple[Tensor, ...]) -> None:
    """Move a state behind a block."""
    if block.kind == 'vision':
        (state.patches,) = outputs
    elif block.kind == 'deepstack':
        state.levels.append(outputs[0])
    elif block.kind == 'merger':
        (state.embeds,) = outputs
    elif block.kind == 'language':
        state.hidden, *past = outputs
        state.past = (past[0], past[1])
    elif block.kind == 'expert':
        (state.waypoints,) = outputs
    elif block.kind == 'head':
        (state.logits,) = outputs
    else:
        (state.velocity,) = outputs


def run_model(
    model: AlpamayoModel, lesson: Lesson, blocks: list[Block], state: State | None = None
) -> State:
    """Run the given blocks of a model, from the first one or from a state, to the end."""
    state = state or begin(model, lesson)
    for block in blocks:
        outputs = run_block(block, model.get_submodule(block.path), model, state)
        store_outputs(block, state, outputs)
    return state


def _layout(model: AlpamayoModel, state: State) -> Any:
    lesson = state.lesson
    return make_layout(
        model.config, lesson.prompt[0].cpu(), lesson.grids[0], lesson.words.shape[1]
    )


def _embed(model: AlpamayoModel, state: State) -> Tensor:
    """Return the embeddings of prompt and words, those of images in their columns."""
    assert state.embeds is not None
    lesson = state.lesson
    x = model.vlm.model.language_model.embed_tokens(torch.cat([lesson.prompt, lesson.words], 1))
    where = _layout(model, state).image_columns.to(x.device)
    return x.index_copy(1, where, state.embeds.to(x.dtype).unsqueeze(0))


def _run_expert(module: nn.Module, model: AlpamayoModel, state: State) -> Tensor:
    assert state.past is not None
    lesson, layout = state.lesson, _layout(model, state)
    draws, waypoints = lesson.x.shape[1:3]
    device = state.waypoints.device
    offset = torch.tensor([lesson.prompt.shape[1] + lesson.words.shape[1]], device=device)
    delta = layout.rope_delta.to(device)
    positions = compute_expert_positions(delta, offset, waypoints).repeat(1, 1, draws)
    keys, values = state.past
    mask = make_mask(Prefix([keys], [values], offset, delta), draws, waypoints)
    turns = make_turns(model.expert, positions, state.waypoints.dtype)
    hidden, _, _ = run_layer(module, state.waypoints, turns, (keys, values, mask))
    return hidden
