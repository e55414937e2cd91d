"""A second oracle: transformers' own Qwen3-VL at a random configuration, same weights.

Other sizes than the golden model, other section split, non-square images of two sizes.
"""

import pytest
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from alpamayo_ros.model.config import TextConfig, VisionConfig
from alpamayo_ros.model.kv_cache import KVCache, build_decode_window, build_prompt_window
from alpamayo_ros.model.prefill import compute_prompt_positions
from alpamayo_ros.model.text import LanguageModel
from alpamayo_ros.model.vision import VisionTower

IMAGE, START = 90, 91
VISION = {
    'depth': 4,
    'hidden_size': 48,
    'intermediate_size': 80,
    'num_heads': 4,
    'patch_size': 16,
    'temporal_patch_size': 2,
    'spatial_merge_size': 2,
    'out_hidden_size': 40,
    'num_position_embeddings': 64,
    'deepstack_visual_indexes': [0, 2],
}
TEXT = {
    'hidden_size': 40,
    'intermediate_size': 72,
    'num_hidden_layers': 4,
    'num_attention_heads': 6,
    'num_key_value_heads': 2,
    'head_dim': 24,
    'rms_norm_eps': 1e-6,
    'rope_theta': 1e6,
}
SECTION = (6, 3, 3)
GRIDS = [(4, 6), (4, 6), (8, 2)]


@pytest.fixture(scope='module')
def theirs():
    torch.manual_seed(0)
    config = Qwen3VLConfig(
        vision_config=VISION,
        text_config={
            **TEXT,
            'vocab_size': 100,
            'rope_scaling': {
                'rope_type': 'default',
                'rope_theta': TEXT['rope_theta'],
                'mrope_section': list(SECTION),
                'mrope_interleaved': True,
            },
        },
        image_token_id=IMAGE,
        vision_start_token_id=START,
        vision_end_token_id=92,
        video_token_id=93,
        tie_word_embeddings=False,
    )
    model = Qwen3VLForConditionalGeneration._from_config(config, attn_implementation='sdpa')
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope='module')
def ours(theirs):
    tower = VisionTower(VisionConfig(**VISION))
    language = LanguageModel(TextConfig(**TEXT, mrope_section=SECTION), 100)
    tower.load_state_dict(theirs.model.visual.state_dict())
    language.load_state_dict(theirs.model.language_model.state_dict())
    return tower.eval(), language.eval()


@pytest.fixture(scope='module')
def scene():
    generator = torch.Generator().manual_seed(3)
    patches = torch.randn(sum(h * w for h, w in GRIDS), 1536, generator=generator)
    ids = [1, 2]
    for h, w in GRIDS:
        ids += [START, *[IMAGE] * (h * w // 4), 92]
    ids += [5, 6, 7, 8, 9, 10]
    return patches, torch.tensor([ids])


@torch.inference_mode()
def run_theirs(theirs, patches, ids, **more):
    grid = torch.tensor([(1, h, w) for h, w in GRIDS])
    types = (ids == IMAGE).int()
    return theirs(
        input_ids=ids,
        pixel_values=patches,
        image_grid_thw=grid,
        mm_token_type_ids=types,
        **more,
    )


@torch.inference_mode()
def run_ours(ours, theirs, patches, ids, chunk, extra=()):
    """Logits of the prompt in chunks, then of extra tokens one by one: (1, P + extra, vocab)."""
    tower, language = ours
    embeds, levels = tower(patches, GRIDS, chunk_images=1)
    is_image = ids == IMAGE
    positions, delta = compute_prompt_positions(is_image, GRIDS, 2)
    cache = KVCache(language.config, 1, ids.shape[1] + len(extra), torch.float32, 'cpu')
    hidden, seen = [], 0
    for start in range(0, ids.shape[1], chunk):
        part = slice(start, start + chunk)
        x = language.embed_tokens(ids[:, part])
        where = is_image[:, part]
        count = int(where.sum())
        rows = slice(seen, seen + count)
        x[where] = embeds[rows]
        window = build_prompt_window(x.shape[1], cache.length, 'cpu')
        deepstack = [torch.zeros_like(x).masked_scatter(where[..., None], v[rows]) for v in levels]
        hidden.append(language(x, positions[:, :, part], cache, window, deepstack))
        cache.length += x.shape[1]
        seen += count
    for token in extra:
        at = (delta + cache.length).view(1, 1, 1).expand(3, 1, 1)
        x = language.embed_tokens(torch.tensor([[token]]))
        window = build_decode_window(ids.shape[1], cache.length, 1, cache.length + 1, 'cpu')
        hidden.append(language(x, at, cache, window))
        cache.length += 1
    return theirs.lm_head(language.norm(torch.cat(hidden, 1)))


def test_vision_tower_gives_the_same_features(theirs, ours, scene):
    patches, _ = scene
    grid = torch.tensor([(1, h, w) for h, w in GRIDS])
    with torch.inference_mode():
        out = theirs.model.visual(patches, grid_thw=grid)
        merged, deep = (
            (out.pooler_output, out.deepstack_features) if hasattr(out, 'pooler_output') else out
        )
        embeds, levels = ours[0](patches, GRIDS)
    scale = float(merged.abs().max())
    assert (embeds - merged).abs().max() < 2e-5 * scale
    for level, want in zip(levels, deep, strict=True):
        assert (level - want).abs().max() < 2e-5 * float(want.abs().max())


@pytest.mark.parametrize('chunk', [1000, 7])
def test_prompt_gives_the_same_logits_whole_and_in_chunks(theirs, ours, scene, chunk):
    patches, ids = scene
    want = run_theirs(theirs, patches, ids).logits
    got = run_ours(ours, theirs, patches, ids, chunk)
    assert (got - want).abs().max() < 1e-4 * float(want.abs().max())


def test_cached_decode_gives_the_same_logits(theirs, ours, scene):
    patches, ids = scene
    out = run_theirs(theirs, patches, ids, use_cache=True)
    past, want = out.past_key_values, []
    delta = theirs.model.rope_deltas
    extra = [11, 12, 13]
    with torch.inference_mode():
        for i, token in enumerate(extra):
            at = (ids.shape[1] + i + delta).view(1, 1, 1).expand(3, 1, 1)
            step = theirs(
                input_ids=torch.tensor([[token]]),
                position_ids=at,
                past_key_values=past,
                use_cache=True,
            )
            want.append(step.logits[:, -1])
    got = run_ours(ours, theirs, patches, ids, 1000, extra)[:, -len(extra) :]
    want = torch.stack(want, 1)
    assert (got - want).abs().max() < 1e-4 * float(want.abs().max())


def test_positions_behind_images_equal_theirs(theirs, scene):
    patches, ids = scene
    run_theirs(theirs, patches, ids)
    _, delta = compute_prompt_positions(ids == IMAGE, GRIDS, 2)
    assert delta.tolist() == theirs.model.rope_deltas.flatten().tolist()
