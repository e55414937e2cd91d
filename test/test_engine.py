"""Context in, prediction out: the reference's trajectory from its images, and the health of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from alpamayo_ros.data_types import Context, EgoPose, Frame, SamplingOptions
from alpamayo_ros.images import ImageError
from alpamayo_ros.runtime.engine import AlpamayoEngine

MODEL = Path(__file__).parent / 'golden/model'
CAMERAS = ('cross_left', 'front_wide', 'cross_right', 'front_tele')
T0_NS = 1_700_000_000_000_000_000


@pytest.fixture(scope='module')
def context() -> Context:
    """The reference's own images and history."""
    fields = np.load(MODEL / 'inputs.npz')

    def frame(image: np.ndarray, k: int) -> Frame:
        pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
        height, width = pixels.shape[:2]
        stamp = T0_NS - (3 - k) * 100_000_000
        return Frame(stamp, 'rgb8', pixels.reshape(-1), height, width, width * 3)

    frames = {
        name: tuple(frame(image, k) for k, image in enumerate(images))
        for name, images in zip(CAMERAS, fields['images'], strict=True)
    }
    pose = EgoPose(T0_NS, np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]), 0.0)
    return Context(
        t0_ns=T0_NS,
        frames=frames,
        camera_indices=(0, 1, 2, 6),
        history_xyz_m=fields['ego_history_xyz'][0, 0],
        history_rot=fields['ego_history_rot'][0, 0],
        odom_from_t0=pose,
        v0_mps=0.0,
        skew_s=0.0,
        checks=('camera_subset',),
    )


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


def test_provenance_names_the_weights_by_hash(engine):
    provenance = engine.provenance()
    assert len(provenance['checkpoint_sha256']) == 64
    assert provenance['dtype'] == 'float32'
    assert provenance['untrained'] is False
