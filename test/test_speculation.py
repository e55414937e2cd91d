"""Drafts of a reasoning: what a trie proposes, and that no draft changes a token."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import golden_scene
import numpy as np
import pytest
import torch

from alpamayo_ros.data_types import Navigation, SamplingOptions
from alpamayo_ros.errors import BadInput
from alpamayo_ros.model.prefill import Prompt
from alpamayo_ros.model.prompt.phrases import PHRASES, read_phrases
from alpamayo_ros.model.prompt.tokens import TokenIds
from alpamayo_ros.model.reasoning import drafts
from alpamayo_ros.model.reasoning.drafts import PhraseTrie
from alpamayo_ros.model.reasoning.generation import ReasoningRows, generate_reasoning
from alpamayo_ros.model.reasoning.speculation import speculate_reasoning
from alpamayo_ros.runtime.engine import AlpamayoEngine
from alpamayo_ros.runtime.graphs.recorder import GraphRecorder
from alpamayo_ros.runtime.graphs.steps import StaticSteps
from alpamayo_ros.runtime.load import load_model
from alpamayo_ros.world.reasons import REASONS

VOCABULARY, PROMPT = 9, 100
IDS = TokenIds(
    image=0, history=0, future_start=6, eos=7, pad=8, discrete_start=0, discrete_end=1,
    history_offset=0,
)  # fmt: skip


def test_a_trie_proposes_what_followed_the_longest_phrase_last():
    trie = PhraseTrie([[1, 2, 3, 4], [5, 2, 3, 9]])
    assert trie.propose([1, 2], 5) == [3, 4]
    assert trie.propose([5], 2) == [2, 3]
    assert trie.propose([7, 2, 3], 5) == [9]  # of both, the text that came last
    assert trie.propose([], 1) == [5]
    assert trie.propose([7], 5) == []
    trie.add([1, 2, 8])
    assert trie.propose([], 5) == [1, 2, 8]


def test_a_full_trie_keeps_the_texts_of_its_start(monkeypatch):
    monkeypatch.setattr(drafts, 'MOST_PHRASES', 12)
    trie = PhraseTrie([[1, 2, 3]])
    trie.add([4, 5, 6])
    assert trie.propose([4], 2) == [5, 6]
    trie.add([7, 8, 9])
    trie.add([7, 8, 9])
    assert trie.propose([4], 2) == []
    assert (trie.propose([1], 2), trie.propose([7], 2)) == ([2, 3], [8, 9])


class ToySteps:
    """Logits that depend on all tokens before, and what lies in the cache."""

    def __init__(self, samples, scenes=1, is_guided=False):
        self.samples, self.fed, self.calls = samples, [], []
        rows = scenes * (2 if is_guided else 1)
        first = torch.stack([self._draw_logits(scene % scenes, ()) for scene in range(rows)])
        cache = SimpleNamespace(length=PROMPT)
        self.prompt = Prompt(cache, PROMPT, torch.zeros(rows), first, is_guided=is_guided)

    def decode_step(self, prompt, tokens):
        """As AlpamayoModel.decode_step."""
        del self.fed[(prompt.cache.length - PROMPT) // self.samples :]
        self.fed.append(tokens)
        self.calls.append(1)
        prompt.cache.length += self.samples
        rows = torch.stack(self.fed, -1).tolist()
        scenes = prompt.sampled_scenes
        return torch.stack([
            torch.stack([self._draw_logits(scene % scenes, tuple(row)) for row in own])
            for scene, own in enumerate(rows)
        ])  # fmt: skip

    def verify_step(self, prompt, tokens):
        """As AlpamayoModel.verify_step."""
        before = len(self.calls)
        found = [self.decode_step(prompt, column) for column in tokens.unbind(2)]
        self.calls[before:] = [tokens.shape[2]]
        return torch.stack(found, 2)

    def cached(self):
        """Tokens in the cache."""
        count = (self.prompt.cache.length - PROMPT) // self.samples
        return [column.tolist() for column in self.fed[:count]]

    @staticmethod
    def _draw_logits(scene, row):
        generator = torch.Generator().manual_seed(hash((scene, row)) % 2**31)
        logits = 2 * torch.randn(VOCABULARY, generator=generator)
        logits[[IDS.future_start, IDS.eos]] -= 1.5  # so that some rows are long
        return logits


class RandomDrafts(PhraseTrie):
    """Drafts that are right now and then."""

    def propose(self, text, count):
        """Any tokens."""
        return torch.randint(0, VOCABULARY, (count,), generator=self.generator).tolist()

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)


def make_generators(options, scenes, seed):
    if options.greedy:
        return None
    found = [torch.Generator().manual_seed(seed + scene) for scene in range(scenes)]
    return found if scenes > 1 else found[0]


def read_states(generator):
    each = generator if isinstance(generator, list) else [generator]
    return [x.get_state().tolist() for x in each if x is not None]


CASES = {
    'one': {},
    'three samples': {'num_samples': 3},
    'greedy': {'greedy': True, 'num_samples': 2},
    'short': {'num_samples': 2, 'reasoning': 'short', 'max_tokens': 6},
    'budget': {'num_samples': 2, 'max_tokens': 4},
    'one token': {'max_tokens': 1},
    'two scenes': {'num_samples': 2, 'scenes': 2},
    'guided': {'num_samples': 2, 'is_guided': True, 'max_tokens': 7},
}


@pytest.mark.parametrize('source', ['said before', 'nothing', 'random'])
@pytest.mark.parametrize('case', CASES)
def test_tokens_cache_and_random_numbers_are_those_without_drafts(case, source):
    changes = {'max_tokens': 16, **CASES[case]}
    shape = {name: changes.pop(name) for name in ('scenes', 'is_guided') if name in changes}
    options = SamplingOptions(draft_tokens=3, **changes)
    sources = {'said before': PhraseTrie, 'nothing': PhraseTrie, 'random': RandomDrafts}
    phrases, spared = sources[source](), 0
    for seed in range(12):
        plain, fast = (ToySteps(options.num_samples, **shape) for _ in range(2))
        own, other = (make_generators(options, shape.get('scenes', 1), seed) for _ in range(2))
        want = generate_reasoning(plain.decode_step, plain.prompt, IDS, options, own)
        if source == 'said before':
            for row in want.tokens.flatten(0, 1).tolist():
                # pads that a draft goes on with are no tokens of a text
                phrases.add([token for token in row if token != IDS.pad] + 3 * [IDS.pad])
        if source == 'nothing':
            phrases = PhraseTrie()
        got = speculate_reasoning(fast, fast.prompt, IDS, options, other, phrases)
        for name in ('tokens', 'marker', 'eos', 'is_fed'):
            assert torch.equal(getattr(got, name), getattr(want, name)), (seed, name)
        assert got.length == want.length
        assert fast.cached() == plain.cached()
        assert read_states(own) == read_states(other)
        assert max(fast.calls, default=1) <= 4
        spared += len(plain.calls) - len(fast.calls)
    if source == 'said before' and options.max_tokens > 4:
        assert spared > 12


def test_rows_that_forget_a_column_forget_that_it_was_cut():
    options = SamplingOptions(reasoning='short', greedy=True, max_tokens=2)
    rows, logits = ReasoningRows(IDS, options, ToySteps(1).prompt), torch.zeros(1, 1, VOCABULARY)
    logits[..., 3] = 1
    for _ in range(2):
        rows.draw(logits, None)
    assert rows.is_full
    assert (rows.is_cut.tolist(), rows.has_ended.tolist()) == ([[True]], [[True]])
    rows.keep(1)
    assert (rows.room, rows.is_cut.tolist(), rows.has_ended.tolist()) == (1, [[False]], [[False]])


def test_texts_that_were_said_are_drafted_the_next_time():
    options = SamplingOptions(greedy=True, max_tokens=30, draft_tokens=8)
    phrases, calls = PhraseTrie(), []
    for _ in range(2):
        steps = ToySteps(1)
        reasoning = speculate_reasoning(steps, steps.prompt, IDS, options, None, phrases)
        calls.append(steps.calls)
    count = reasoning.tokens.shape[-1]
    assert len(calls[0]) >= count - 2
    assert len(calls[1]) == -(-count // 9)


def test_logits_that_are_no_numbers_are_noticed():
    steps = ToySteps(1)
    steps.verify_step = lambda prompt, tokens: torch.full((1, 1, tokens.shape[2], 9), torch.nan)
    options = SamplingOptions(greedy=True, max_tokens=3, draft_tokens=2)
    first = int(steps.prompt.logits.argmax())
    with pytest.raises(RuntimeError, match='not finite'):
        speculate_reasoning(
            steps, steps.prompt, IDS, options, None, PhraseTrie([[first, 1, 2, 3]])
        )


MODEL, ALPAMAYO15 = (Path(__file__).parent / name / 'model' for name in ('golden', 'golden15'))


@pytest.fixture(scope='module')
def engines():
    """Engines without and with drafts, and the passes of the second one."""
    found = [AlpamayoEngine(MODEL, options=SamplingOptions(draft_tokens=n)) for n in (0, 5)]
    passes = []
    for name in ('decode_step', 'verify_step'):
        setattr(found[1].model, name, _count(getattr(found[1].model, name), passes))
    return *found, passes


def _count(step, passes):
    def counted(prompt, tokens):
        passes.append(tokens.shape)
        return step(prompt, tokens)

    return counted


@pytest.mark.parametrize('samples', [1, 3])
@pytest.mark.parametrize('greedy', [True, False])
def test_engine_with_drafts_says_the_same_in_fewer_passes(engines, samples, greedy):
    plain, fast, passes = engines
    options = SamplingOptions(num_samples=samples, greedy=greedy, max_tokens=20)
    plain.options, fast.options = options, replace(options, draft_tokens=5)
    context = golden_scene.context()
    for seed in (0, 1, 1):
        passes.clear()
        want, got = plain.infer(context, seed), fast.infer(context, seed)
        assert (got.texts, got.tokens, got.end) == (want.texts, want.tokens, want.end)
        assert np.abs(got.actions - want.actions).max() < 1e-4
    assert len(passes) <= max(want.tokens) // 3


def test_guided_engine_with_drafts_says_the_same():
    context = replace(golden_scene.context(ALPAMAYO15), navigation=Navigation('Turn left in 11m'))
    options = SamplingOptions(num_samples=2, greedy=True, max_tokens=20, guidance_weight=1.5)
    found = []
    for count in (0, 5):
        engine = AlpamayoEngine(ALPAMAYO15, options=replace(options, draft_tokens=count))
        found.append([engine.infer(context, 0) for _ in range(2)][-1])
    assert found[0].texts == found[1].texts
    assert np.abs(found[0].actions - found[1].actions).max() < 1e-4


@pytest.mark.parametrize('name', ['small', 'small15', 'small-2bit'])
def test_checkpoints_that_ship_say_all_sentences_of_their_world(root, name):
    end = '<|cot_end|><|traj_future_start|>'
    want = [text + end for reason in REASONS.values() for text in reason.wordings]
    assert read_phrases(root / 'checkpoints' / name) == want


def test_phrases_of_a_checkpoint_become_tokens_up_to_the_marker(engines):
    processor = engines[1].processor
    text = 'Keep lane.<|cot_end|><|traj_future_start|>'
    rows = processor.tokenize_texts([text, 'Keep lane.'])
    assert processor.decode(rows[0]) == text
    assert rows[0][-1] == processor.ids.future_start
    assert rows[0][:-2] == rows[1]


def test_phrases_file_has_one_sentence_a_line(tmp_path):
    assert read_phrases(tmp_path) == []
    (tmp_path / PHRASES).write_text('Stop.\n\n  Turn left. \n')
    texts = [text.partition('<|cot_end|>')[0] for text in read_phrases(tmp_path)]
    assert texts == ['Stop.', 'Turn left.']


@pytest.mark.parametrize(
    ('content', 'fault'),
    [(b'\xff\xfe', 'expected UTF-8 text'), (bytes(2 << 20), 'at most 1048576')],
)
def test_phrases_that_are_no_text_are_refused(tmp_path, content, fault):
    (tmp_path / PHRASES).write_bytes(content)
    with pytest.raises(BadInput, match=f'phrases.txt: .*{fault}'):
        read_phrases(tmp_path)


def verify(device, samples, **recording):
    """Logits of a pass of three tokens, one at a time, in one pass, and from static steps."""
    model = load_model(MODEL, device)
    fields = np.load(MODEL / 'inputs.npz')
    ids = torch.from_numpy(fields['fused_input_ids']).long()
    patches = torch.from_numpy(fields['pixel_values']).to(device)
    grids = [(int(h), int(w)) for _, h, w in fields['image_grid_thw']]
    tokens = torch.arange(10, 10 + 3 * samples, device=device).view(1, samples, 3)
    cache = model.allocate_cache(1, ids.shape[1], samples, 40)
    static = StaticSteps(model, cache, samples, draft_tokens=4, **recording)
    found = []
    for steps in (model, static):
        cache.clear()
        prompt = model.prefill(ids, model.encode_images(patches, grids), grids, cache)
        single = torch.stack(
            [steps.decode_step(prompt, tokens[..., i]).clone() for i in range(3)], 2
        )
        end = cache.length
        cache.length = prompt.length
        joint = steps.verify_step(prompt, tokens).clone()
        assert cache.length == end
        cache.length -= samples  # as if the last one had been wrong
        again = steps.decode_step(prompt, tokens[..., 2]).clone()
        found += [single, joint, torch.cat([joint[:, :, :2], again.unsqueeze(2)], 2)]
    return found


def check_passes(found):
    for other in found[1:]:
        assert (other - found[0]).abs().max() < 2e-4


@torch.inference_mode()
@pytest.mark.parametrize('samples', [1, 2])
def test_a_pass_of_several_tokens_equals_passes_of_one(samples):
    check_passes(verify('cpu', samples))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@torch.inference_mode()
@pytest.mark.parametrize('samples', [1, 2])
def test_a_recorded_pass_of_several_tokens_equals_passes_of_one(samples):
    check_passes(verify('cuda', samples, record=GraphRecorder().record))
