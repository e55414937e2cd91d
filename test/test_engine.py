"""Context in, prediction out: the reference's trajectory from its images, and the health of it."""

from dataclasses import replace
import io
import pickle
import shutil
from types import SimpleNamespace
import weakref

import golden_scene
from golden_scene import MODEL, T0_NS
import numpy as np
import pytest
import torch

from alpamayo_ros import images
from alpamayo_ros.data_types import Context, Frame, SamplingOptions
from alpamayo_ros.errors import BadInput
from alpamayo_ros.images import ImageError
from alpamayo_ros.model import checkpoint
from alpamayo_ros.model.prompt.batching import PromptBatch
from alpamayo_ros.quantization.embedding import HostEmbedding
from alpamayo_ros.quantization.scheme import SCHEMES
from alpamayo_ros.runtime import engine as engine_module
from alpamayo_ros.runtime import memory
from alpamayo_ros.runtime.batch import infer_batch
from alpamayo_ros.runtime.engine import AlpamayoEngine


@pytest.fixture(scope='module')
def context() -> Context:
    """The reference's own images and history."""
    return golden_scene.context()


@pytest.fixture(scope='module')
def engine() -> AlpamayoEngine:
    options = SamplingOptions(num_samples=1, greedy=True, max_tokens=40)
    return AlpamayoEngine(MODEL, options=options)


def test_reference_images_and_noise_give_the_reference_trajectory(engine, context):
    case = np.load(MODEL / 'case_greedy.npz')
    prediction = engine.infer(context, seed=0, noise=torch.from_numpy(case['noise']))
    want = case['pred_xyz'][0, 0]
    assert np.abs(prediction.samples[..., :2] - want[..., :2]).max() < 2e-3
    yaw = np.arctan2(case['pred_rot'][0, 0, :, :, 1, 0], case['pred_rot'][0, 0, :, :, 0, 0])
    assert np.abs(prediction.samples[..., 2] - yaw).max() < 1e-3
    assert prediction.texts == ('Slow down because the lead vehicle is braking ahead.',)
    assert prediction.end == ('marker',)
    assert prediction.tokens == (12,)
    assert prediction.t0_ns == T0_NS


def test_speed_and_actions_belong_to_the_path(engine, context):
    prediction = engine.infer(context, seed=3)
    accel = prediction.actions[0, :, 0]
    speed = prediction.v0_mps + np.cumsum(accel) * 0.1
    assert np.allclose(prediction.samples[0, :, 3], speed, atol=1e-4)


def test_a_result_depends_on_its_seed_and_not_on_earlier_ones(engine, context):
    first = engine.infer(context, seed=1)
    engine.infer(context, seed=2)
    again = engine.infer(context, seed=1)
    assert np.array_equal(first.samples, again.samples)
    assert not np.array_equal(first.samples, engine.infer(context, seed=2).samples)


def test_checks_of_the_context_and_of_the_reasoning_are_carried(context):
    options = SamplingOptions(greedy=True, max_tokens=5)
    prediction = AlpamayoEngine(MODEL, options=options).infer(context, seed=0)
    assert prediction.end == ('budget',)
    assert prediction.texts == ('',)
    assert prediction.partial_texts == ('Slow down because the lead',)
    assert set(prediction.checks) >= {'camera_subset', 'marker_missing', 'budget'}


def test_the_current_gpu_is_that_of_the_engine(engine, context, monkeypatch):
    """Kernels and graphs of device=cuda:1 were launched on GPU 0."""

    def select(device):
        raise RuntimeError(f'selected {device}')

    monkeypatch.setattr(torch.cuda, 'set_device', select)
    monkeypatch.setattr(engine, 'device', torch.device('cuda', 1))
    with pytest.raises(RuntimeError, match='^selected cuda:1$'):
        engine.infer(context, seed=0)
    with pytest.raises(RuntimeError, match='^selected cuda:1$'):
        infer_batch(engine, [context], [0], SamplingOptions())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='needs two CUDA devices')
def test_a_second_gpu_gives_the_result_of_the_first(context):
    options = SamplingOptions(num_samples=2, max_tokens=40)
    noise = torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(0))
    first, second = (
        AlpamayoEngine(MODEL, f'cuda:{i}', options, 2).infer(context, 0, noise) for i in (0, 1)
    )
    assert np.array_equal(first.samples, second.samples)


def test_noise_does_not_depend_on_the_number_of_words(context, monkeypatch):
    engine, noises = AlpamayoEngine(MODEL), []
    sample = engine.model.flow.sample

    def remember(noise, *rest):
        noises.append(noise)
        return sample(noise, *rest)

    monkeypatch.setattr(engine.model.flow, 'sample', remember)
    for tokens in (2, 9):
        engine.options = SamplingOptions(num_samples=2, max_tokens=tokens)
        engine.infer(context, seed=4)
    assert torch.equal(*noises)


def test_samples_differ_and_the_chosen_one_is_the_medoid(context):
    options = SamplingOptions(num_samples=3, max_tokens=40)
    prediction = AlpamayoEngine(MODEL, options=options).infer(context, seed=0)
    assert prediction.samples.shape == (3, 64, 4)
    xy = prediction.samples[..., :2].astype(np.float64)
    mean = np.linalg.norm(xy[:, None] - xy[None], axis=-1).mean(-1).sum(1)
    assert prediction.chosen == int(mean.argmin())
    assert prediction.spread_m > 0


def test_every_stage_is_timed(engine, context):
    timing = engine.infer(context, seed=0).timing_ms
    assert list(timing) == ['images', 'vision', 'prefill', 'reasoning', 'action']
    assert all(ms > 0 for ms in timing.values())


def test_image_that_cannot_be_decoded_is_an_image_error(engine, context):
    broken = Frame(T0_NS, 'jpeg', np.zeros(100, np.uint8))
    frames = {**context.frames, 'front_wide': (*context.frames['front_wide'][:3], broken)}
    with pytest.raises(ImageError):
        engine.infer(Context(**{**vars(context), 'frames': frames}), seed=0)


def test_what_an_engine_returns_brings_no_torch_to_another_process(engine, context):
    """torch.__version__ has a type of torch: the node of a process engine took 190 MB more."""
    modules = set()

    class Finder(pickle.Unpickler):
        def find_class(self, module, name):
            modules.add(module.split('.')[0])
            return super().find_class(module, name)

    data = pickle.dumps((engine.provenance(), engine.infer(context, seed=1)))
    Finder(io.BytesIO(data)).load()
    assert 'alpamayo_ros' in modules and modules <= {'alpamayo_ros', 'numpy', 'builtins'}


def test_provenance_names_the_weights_by_hash(engine):
    provenance = engine.provenance()
    assert len(provenance['checkpoint_sha256']) == 64
    assert provenance['dtype'] == 'float32'
    assert provenance['untrained'] is False
    assert (provenance['bits'], provenance['recipe']) == (16, '')


@pytest.mark.parametrize('bits', SCHEMES)
def test_packed_weights_drive_like_the_dense_ones_they_stand_for(context, bits):
    options = SamplingOptions(num_samples=3, max_tokens=40)
    packed, dense = (
        AlpamayoEngine(MODEL, 'cpu', options, bits),
        AlpamayoEngine(MODEL, 'cpu', options),
    )
    golden_scene.make_dense(dense.model, packed.model)
    got, want = packed.infer(context, seed=0), dense.infer(context, seed=0)
    assert (got.tokens, got.partial_texts) == (want.tokens, want.partial_texts)
    assert np.abs(got.samples - want.samples).max() < 1e-4 * np.abs(want.samples).max()


def test_shards_are_hashed_once_and_again_when_they_change(tmp_path, monkeypatch):
    """The engine read 22 GB again for its provenance."""
    folder = tmp_path / 'checkpoint'
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns('*.npz'))
    read, blocks = [], checkpoint._blocks
    monkeypatch.setattr(checkpoint, '_blocks', lambda file: read.append(file.name) or blocks(file))
    engine = AlpamayoEngine(folder)
    loaded = list(read)
    first = engine.provenance()['checkpoint_sha256']
    assert read == loaded and len(set(loaded)) == len(loaded) > 1
    config = folder / 'config.json'
    config.write_text(config.read_text() + '\n')
    assert engine.provenance()['checkpoint_sha256'] != first


def test_provenance_names_width_and_recipe():
    provenance = AlpamayoEngine(MODEL, bits=2, recipe='mixed_expert4').provenance()
    assert (provenance['bits'], provenance['recipe']) == (2, 'mixed_expert4')
    assert AlpamayoEngine(MODEL, bits=4).provenance()['recipe'] == 'mixed'


def test_frames_of_the_last_context_are_neither_decoded_nor_encoded_again(context, monkeypatch):
    engine = AlpamayoEngine(MODEL, options=SamplingOptions(greedy=True, max_tokens=40))
    decoded, encoded = [], []
    decode, encode = images.decode, engine._vision._encode
    monkeypatch.setattr(images, 'decode', lambda f: decoded.append(f.stamp_ns) or decode(f))
    engine._vision._encode = lambda patches, grids: encoded.append(grids) or encode(patches, grids)
    counts = []
    now = context
    for steps in (0, 1, 3, 4):
        now = golden_scene.later(now, steps)
        engine.infer(now, seed=0)
        counts.append((len(decoded), len(encoded)))
        assert len(engine._vision._kept) == 4
    assert counts == [(16, 4), (20, 5), (32, 8), (48, 12)]


def test_several_grid_times_are_encoded_at_once_where_none_is_kept(context):
    """As on a GPU; with eight images at once the release takes two thirds of the time."""
    alone = AlpamayoEngine(MODEL, options=SamplingOptions(greedy=True, max_tokens=4))
    joint = AlpamayoEngine(MODEL, options=alone.options)
    encoded, encode = [], joint._vision._encode
    joint._vision._encode = lambda x, grids: encoded.append(len(grids)) or encode(x, grids)
    joint._vision._images_at_once = 8
    new = golden_scene.later(golden_scene.later(context, 4), 4)
    for now in (context, golden_scene.later(context), new):
        got, want = joint.infer(now, seed=0), alone.infer(now, seed=0)
        assert np.abs(got.samples - want.samples).max() < 1e-4
    assert encoded == [8, 8, 4, 8, 8]


@pytest.mark.parametrize('bits', SCHEMES)
def test_kept_features_give_the_same_bits_as_fresh_ones(context, bits):
    options = SamplingOptions(num_samples=2, max_tokens=40)
    used, fresh = (AlpamayoEngine(MODEL, 'cpu', options, bits) for _ in range(2))
    used.infer(context, seed=0)
    now = golden_scene.later(context)
    got, want = used.infer(now, seed=1), fresh.infer(now, seed=1)
    assert got.tokens == want.tokens
    assert np.array_equal(got.samples, want.samples)


@pytest.mark.parametrize(
    'change',
    [
        lambda f: replace(f, data=f.data[::-1].copy()),  # after a clock jump: same stamp
        lambda f: replace(f, height=f.height - 32, data=f.data[: -32 * f.step]),
        lambda f: replace(f, encoding='bgr8'),
    ],
    ids=['content', 'size', 'encoding'],
)
def test_another_image_of_a_known_stamp_is_encoded(context, change):
    used, fresh = AlpamayoEngine(MODEL), AlpamayoEngine(MODEL)
    used.infer(context, seed=0)
    tele = context.frames['front_tele']
    other = replace(context, frames={**context.frames, 'front_tele': (*map(change, tele),)})
    assert np.array_equal(used.infer(other, seed=1).samples, fresh.infer(other, seed=1).samples)


def test_equal_frames_of_another_buffer_are_known(context, monkeypatch):
    """A context that is built anew holds other objects of the same content."""
    engine = AlpamayoEngine(MODEL)
    engine.infer(context, seed=0)
    monkeypatch.setattr(images, 'decode', lambda frame: pytest.fail('decoded again'))
    engine.infer(golden_scene.context(), seed=0)


def out_of_memory_errors():
    yield torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 1.00 GiB.\nMore words')
    yield MemoryError()
    yield RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp"')
    yield RuntimeError('CUDA error: out of memory')
    yield RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    invalidated = RuntimeError('operation failed due to a previous error during capture')
    invalidated.__context__ = torch.OutOfMemoryError('CUDA out of memory.')
    yield invalidated


@pytest.mark.parametrize('error', out_of_memory_errors(), ids=lambda e: type(e).__name__)
@pytest.mark.parametrize('stage', ['encode_images', 'prefill', 'decode_step', 'predict_velocity'])
def test_after_out_of_memory_the_engine_goes_on(context, monkeypatch, stage, error):
    engine = AlpamayoEngine(MODEL, options=SamplingOptions(greedy=True, max_tokens=40))
    want = engine.infer(context, seed=0)
    held, allocate_cache = [], engine.model.allocate_cache

    def remember(*sizes):
        cache = allocate_cache(*sizes)
        held.append(weakref.ref(cache.keys))
        return cache

    def fail(*arguments, **named):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(engine.model, 'allocate_cache', remember)
        if stage == 'encode_images':
            engine._vision.clear()
            patch.setattr(engine._vision, '_encode', fail)
        else:
            patch.setattr(engine.model, stage, fail)
        engine._recorded = object()
        with pytest.raises(memory.OutOfMemory) as caught:
            engine.infer(context, seed=0)
    assert str(caught.value).startswith('out of memory: an inference of 1 samples needs 0.4')
    assert 'GB are available on cpu' in str(caught.value)
    assert '\n' not in str(caught.value)
    assert caught.value.__context__ is None
    assert memory.is_out_of_memory(caught.value)
    assert engine._recorded is None and engine._vision._kept == []
    error.__traceback__ = None  # the injected error is the test's own; a real one is gone
    assert len(held) == (stage != 'encode_images')
    assert all(cache() is None for cache in held)
    again = engine.infer(context, seed=0)
    assert again.texts == want.texts
    assert np.array_equal(again.samples, want.samples)


def test_other_errors_stay_what_they_are(engine, context, monkeypatch):
    def fail(*arguments, **named):
        raise RuntimeError('a kernel is broken')

    monkeypatch.setattr(engine.model, 'prefill', fail)
    with pytest.raises(RuntimeError, match='^a kernel is broken$'):
        engine.infer(context, seed=0)


def test_out_of_memory_while_loading_is_bad_input_and_leaves_nothing(monkeypatch):
    plans = []

    def fail(plan, activations, load=engine_module.load):
        load(plan, activations)
        plans.append(plan)
        raise torch.OutOfMemoryError('CUDA out of memory.')

    monkeypatch.setattr(engine_module, 'load', fail)
    with pytest.raises(BadInput, match=r'out of memory while loading: needs .* are available on'):
        AlpamayoEngine(MODEL)
    assert all(tensor.is_meta for tensor in plans[0].model.state_dict().values())


def test_embedding_stays_in_its_file_where_asked_for_or_memory_is_unified(context, monkeypatch):
    noise = torch.randn(1, 64, 2, generator=torch.Generator().manual_seed(0))
    plain = AlpamayoEngine(MODEL)
    asked = AlpamayoEngine(MODEL, host_embedding=True)
    monkeypatch.setattr(engine_module, 'is_unified', lambda device: True)
    shared = AlpamayoEngine(MODEL)
    want = plain.infer(context, 0, noise)
    for engine in (asked, shared):
        assert isinstance(engine.model.vlm.model.language_model.embed_tokens, HostEmbedding)
        assert np.array_equal(engine.infer(context, 0, noise).samples, want.samples)


def test_another_number_of_samples_or_a_longer_prompt_is_recorded_anew(monkeypatch):
    """Steps that were recorded for six samples served a single one; so does guidance."""
    engine = AlpamayoEngine(MODEL, options=SamplingOptions(num_samples=6, max_tokens=8))
    made, make = [], engine_module.StaticSteps
    monkeypatch.setattr(
        engine_module, 'StaticSteps', lambda *parts: made.append(make(*parts)) or made[-1]
    )
    engine._recorder = SimpleNamespace(record=lambda step: step)
    for samples, length, scenes in (
        (6, 100, 1), (6, 90, 1), (1, 100, 1), (1, 400, 1), (1, 100, 1), (1, 100, 2), (1, 90, 2),
    ):  # fmt: skip
        engine.options = SamplingOptions(num_samples=samples, max_tokens=8)
        prompts = PromptBatch(torch.zeros(scenes, length), is_guided=scenes == 2)
        cache, steps = engine._prepare_steps(prompts)
        assert len(steps.x) == scenes * samples
        assert cache is steps.cache and cache.length == 0
        assert cache.capacity >= length + samples * (8 + 64)
        assert (steps.is_guided, len(steps.rope_delta)) == (scenes == 2, scenes)
    assert [steps.samples for steps in made] == [6, 1, 1, 1]
