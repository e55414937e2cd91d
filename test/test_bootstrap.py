"""Confidence intervals: seeded, over drives, paired."""

import numpy as np
import pytest

from alpamayo_ros.metrics.bootstrap import Bootstrap, Interval

DRIVES = [drive for drive in range(40) for _ in range(5)]


def noise(seed, size=200):
    return np.random.default_rng(seed).normal(2.0, 1.0, size)


def test_equal_values_have_an_interval_without_width():
    assert Bootstrap(40, 200, 0).mean([3.0] * 200, DRIVES) == Interval(3.0, 3.0, 3.0, 200)


def test_an_interval_is_that_of_the_normal_distribution_where_values_are_independent():
    found = Bootstrap(400, 4000, 0).mean(noise(1, 400).tolist(), list(range(400)))
    values = noise(1, 400)
    half = 1.96 * values.std() / 400**0.5
    assert found.mean == pytest.approx(values.mean(), abs=1e-6)
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_moments_of_one_drive_count_as_one_when_they_are_alike():
    """Forty drives of five equal moments say as much as forty moments, not as two hundred."""
    own = noise(2, 40)
    apart = Bootstrap(40, 2000, 0).mean(own.tolist(), list(range(40)))
    together = Bootstrap(40, 2000, 0).mean(np.repeat(own, 5).tolist(), DRIVES)
    assert (together.low, together.high) == (apart.low, apart.high)


def test_a_ratio_is_paired():
    """What is 10 % worse everywhere is so for certain, however much drives differ."""
    below = np.exp(noise(3)).tolist()
    found = Bootstrap(40, 500, 0).ratio([1.1 * x for x in below], below, DRIVES)
    assert (found.mean, found.low, found.high) == (1.1, 1.1, 1.1)


def test_values_that_are_not_known_are_left_out_of_both():
    found = Bootstrap(2, 100, 0).ratio([4.0, None, 4.0], [2.0, 50.0, 2.0], [0, 0, 1])
    assert found == Interval(2.0, 2.0, 2.0, 2)
    assert Bootstrap(2, 100, 0).mean([None, None], [0, 1]) is None
    assert Bootstrap(2, 100, 0).ratio([1.0], [0.0], [0]) is None


def test_the_seed_decides():
    values = noise(4).tolist()
    first, again, other = (Bootstrap(40, 200, seed).mean(values, DRIVES) for seed in (0, 0, 1))
    assert first == again != other and first.mean == other.mean
