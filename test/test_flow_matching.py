"""Euler sampler: a linear field gives the known result; the convention of time."""

import pytest
import torch

from alpamayo_ros.model.flow_matching import FlowMatching, make_training_pair


def test_linear_field_gives_the_known_euler_result():
    noise = torch.ones(2, 64, 2)
    out = FlowMatching().sample(noise, lambda x, t: -x, 5)
    assert torch.allclose(out, torch.full_like(noise, (1 - 0.2) ** 5), atol=1e-6)


def test_field_sees_the_start_of_each_interval_and_never_one():
    seen = []
    FlowMatching(num_inference_steps=4).sample(
        torch.zeros(3, 64, 2), lambda x, t: seen.append(t) or torch.zeros_like(x)
    )
    assert [float(t[0, 0, 0]) for t in seen] == [0.0, 0.25, 0.5, 0.75]
    assert all(t.shape == (3, 1, 1) for t in seen)


def test_state_stays_float32_when_the_field_is_bf16():
    out = FlowMatching().sample(torch.zeros(1, 64, 2), lambda x, t: torch.ones_like(x).bfloat16())
    assert out.dtype == torch.float32
    assert torch.allclose(out, torch.ones_like(out))


def test_following_the_training_target_from_noise_reaches_the_data():
    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(1, 64, 2, generator=generator) for _ in range(2))
    _, target = make_training_pair(data, noise, torch.tensor(0.3))
    out = FlowMatching().sample(noise, lambda x, t: target, 7)
    assert torch.allclose(out, data, atol=1e-5)


def test_other_integration_methods_and_counts_are_refused():
    with pytest.raises(ValueError, match='rk4'):
        FlowMatching(int_method='rk4')
    with pytest.raises(ValueError, match='at least 1'):
        FlowMatching().sample(torch.zeros(1, 64, 2), lambda x, t: x, 0)
