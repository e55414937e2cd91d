"""A model block by block: the order in which lessons pass through it, and what each block does.

An expert layer reads the keys and values of the language layer of its number, so it follows that
layer at once and no other keys have to be kept. Knows no quantization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..model.action_expert import compute_expert_positions
from ..model.alpamayo import AlpamayoModel
from ..model.config import AlpamayoConfig
from ..model.prompt.image_processor import to_patches
from ..model.teacher_forcing import (
    Prefix,
    embed_actions,
    make_mask,
    make_turns,
    normalize,
    run_layer,
)
from .lessons import Lessons

_VISION, _LANGUAGE = 'vlm.model.visual', 'vlm.model.language_model'


@dataclass(frozen=True)
class Block:
    """A part of the model that is quantized at once. kind: see `run_block`; path: its module."""

    kind: str
    path: str
    index: int = 0


@dataclass(frozen=True)
class HiddenState:
    """Where B lessons are on their way through a model.

    patches: hidden states of the vision tower (B * images, patches, V); levels: deepstack features
    (B, tokens, H) each; embeds like them; hidden (B, P + N, H): of prompt and words; past: keys
    and values (B, kv, P + N, d) of the last language layer; waypoints (B, D * T, E): of the
    expert; logits (B, N, vocab) and velocity (B, D, T, 2) float32.
    """

    patches: Tensor | None = None
    levels: tuple[Tensor, ...] = ()
    embeds: Tensor | None = None
    hidden: Tensor | None = None
    past: tuple[Tensor, Tensor] | None = None
    waypoints: Tensor | None = None
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


def begin(model: AlpamayoModel, lessons: Lessons) -> HiddenState:
    """Return the state before the first block: embedded patches and noisy actions."""
    tower, config = model.vlm.model.visual, model.config.vision
    images = lessons.batch.images.flatten(0, 1)
    patches = to_patches(
        images, config.patch_size, config.temporal_patch_size, config.spatial_merge_size
    )
    x = tower.patch_embed(patches.unflatten(0, (len(images), -1)))
    positions, _, _ = tower.compute_positions(_find_grid(model, lessons))
    actions = embed_actions(
        model.action_in_proj, lessons.x.flatten(0, 1), lessons.t.reshape(-1, 1, 1)
    )
    return HiddenState(
        x + positions.to(x.dtype), waypoints=actions.reshape(len(lessons), -1, actions.shape[-1])
    )


def run_block(
    block: Block, module: Any, model: AlpamayoModel, lessons: Lessons, state: HiddenState
) -> tuple[Tensor, ...]:
    """Run one block, given as a module, on a state; outputs depend on its kind.

    model: whose embedding, norms and positions stand before the blocks.
    """
    if block.kind == 'vision':
        _, cos, sin = model.vlm.model.visual.compute_positions(_find_grid(model, lessons))
        total, branch = module(state.patches, None, cos, sin)
        return (total + branch,)
    if block.kind in ('deepstack', 'merger'):
        merged = module(state.patches)
        return (merged.reshape(len(lessons), -1, merged.shape[-1]),)
    if block.kind == 'language':
        return _run_language(block, module, model, lessons, state)
    if block.kind == 'expert':
        return (_run_expert(module, model, lessons, state),)
    if block.kind == 'head':
        assert state.hidden is not None
        start = lessons.batch.prompt.shape[1] - 1
        x = normalize(model.vlm.model.language_model.norm, state.hidden[:, start:-1])
        return (module(x).to(torch.float32),)
    assert state.waypoints is not None
    x = module(normalize(model.expert.norm, state.waypoints))
    return (x.reshape(lessons.x.shape).to(torch.float32),)


def advance_state(block: Block, state: HiddenState, outputs: tuple[Tensor, ...]) -> HiddenState:
    """Return the state behind a block, without what no later block reads."""
    if block.kind == 'vision':
        return replace(state, patches=outputs[0])
    if block.kind == 'deepstack':
        return replace(state, levels=(*state.levels, outputs[0]))
    if block.kind == 'merger':
        return replace(state, embeds=outputs[0], patches=None)
    if block.kind == 'language':
        levels = () if block.index + 1 >= len(state.levels) else state.levels
        past = outputs[1], outputs[2]
        return replace(state, hidden=outputs[0], past=past, levels=levels, embeds=None)
    if block.kind == 'expert':
        return replace(state, waypoints=outputs[0], past=None)
    if block.kind == 'head':
        return replace(state, logits=outputs[0], hidden=None)
    return replace(state, velocity=outputs[0], waypoints=None)


def map_state(state: HiddenState, change: Callable[[Tensor], Tensor]) -> HiddenState:
    """Return a state in which `change` was applied to every tensor."""
    return HiddenState(**{name: _map(value, change) for name, value in vars(state).items()})


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, tuple):
        return tuple(change(x) for x in value)
    return None if value is None else change(value)


def _find_grid(model: AlpamayoModel, lessons: Lessons) -> tuple[int, int]:
    patch = model.config.vision.patch_size
    height, width = lessons.batch.images.shape[-2:]
    return height // patch, width // patch


def _run_language(
    block: Block, module: Any, model: AlpamayoModel, lessons: Lessons, state: HiddenState
) -> tuple[Tensor, Tensor, Tensor]:
    language, layout = model.vlm.model.language_model, lessons.batch.layout
    hidden = state.hidden
    if hidden is None:
        assert state.embeds is not None
        words = torch.cat([lessons.batch.prompt, lessons.batch.rest], 1)
        hidden = language.embed_tokens(words)
        hidden = hidden.index_copy(1, layout.image_columns, state.embeds.to(hidden.dtype))
    turns = make_turns(language, layout.positions, hidden.dtype)
    hidden, keys, values = run_layer(module, hidden, turns, None)
    if block.index < len(state.levels):
        level = state.levels[block.index].to(hidden.dtype)
        hidden = hidden.index_add(1, layout.image_columns, level)
    return hidden, keys, values


def _run_expert(module: Any, model: AlpamayoModel, lessons: Lessons, state: HiddenState) -> Tensor:
    assert state.past is not None and state.waypoints is not None
    batch = lessons.batch
    draws, waypoints = lessons.x.shape[1:3]
    delta = batch.layout.rope_delta.expand(len(lessons))
    offset = batch.prompt.shape[1] + batch.marker + 1
    positions = compute_expert_positions(delta, offset, waypoints).repeat(1, 1, draws)
    keys, values = state.past
    mask = make_mask(Prefix([keys], [values], offset, delta), draws, waypoints)
    turns = make_turns(model.expert, positions, state.waypoints.dtype)
    hidden, _, _ = run_layer(module, state.waypoints, turns, (keys, values, mask))
    return hidden
