"""Many contexts at once give what each gives alone; none depends on the others."""

import numpy as np
import pytest

from alpamayo_ros.data_types import SamplingOptions
from alpamayo_ros.drives.open_loop import OpenLoop
from alpamayo_ros.drives.scene import keep_pictures, make_contexts
from alpamayo_ros.model.small.untrained import write_small_checkpoint
from alpamayo_ros.runtime.batch import infer_batch
from alpamayo_ros.runtime.engine import AlpamayoEngine

SAMPLED = SamplingOptions(num_samples=3, temperature=3.0, max_tokens=12)
GREEDY = SamplingOptions(num_samples=2, greedy=True, max_tokens=32)
SEEDS = (5, 6, 7)


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp('batch') / 'checkpoint'
    write_small_checkpoint(folder, seed=0)
    return AlpamayoEngine(folder, options=GREEDY)


@pytest.fixture(scope='module')
def seen():
    scenes = OpenLoop('test', 1, 12.0, 3, 0).scenes(0, (128, 224))
    return make_contexts(scenes, keep_pictures, [np.random.default_rng(0)] * 3)


def test_a_batch_is_what_the_engine_makes_of_each_context(engine, seen):
    together = infer_batch(engine, seen, SEEDS, GREEDY)
    for context, seed, found in zip(seen, SEEDS, together, strict=True):
        alone = engine.infer(context, seed)
        assert found.samples == pytest.approx(alone.samples, abs=1e-3)
        assert found.actions == pytest.approx(alone.actions, abs=1e-4)
        assert (found.texts, found.end, found.tokens) == (alone.texts, alone.end, alone.tokens)
        assert (found.t0_ns, found.seed, found.checks) == (context.t0_ns, seed, alone.checks)
        assert found.v0_mps == pytest.approx(alone.v0_mps, abs=1e-5)


def test_what_a_scene_draws_does_not_depend_on_its_company(engine, seen):
    """At a high temperature rows end at different lengths: draws of one do not shift another's."""
    together = infer_batch(engine, seen, SEEDS, SAMPLED)
    (alone,) = infer_batch(engine, seen[1:2], SEEDS[1:2], SAMPLED)
    assert len({one.partial_texts for one in together}) == 3
    assert together[1].partial_texts == alone.partial_texts
    assert together[1].samples == pytest.approx(alone.samples, abs=1e-3)


def test_live_and_batch_draw_the_same_words_and_noise(engine, seen, monkeypatch):
    """The engine drew words first and the batch noise first: one seed gave two results."""
    (together,) = infer_batch(engine, seen[1:2], SEEDS[1:2], SAMPLED)
    monkeypatch.setattr(engine, 'options', SAMPLED)
    alone = engine.infer(seen[1], SEEDS[1])
    assert (together.partial_texts, together.tokens) == (alone.partial_texts, alone.tokens)
    assert together.samples == pytest.approx(alone.samples, abs=1e-3)
