"""Confidence intervals: seeded, over drives, paired."""

import numpy as np
import pytest

from alpamayo_ros.metrics.bootstrap import Bootstrap, Interval, find_wilson_bounds

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
    assert found == Interval(2.0, None, None, 2)
    assert Bootstrap(2, 100, 0).mean([None, None], [0, 1]) is None
    assert Bootstrap(2, 100, 0).ratio([1.0], [0.0], [0]) is None


def test_the_seed_decides():
    values = noise(4).tolist()
    first, again, other = (Bootstrap(40, 200, seed).mean(values, DRIVES) for seed in (0, 0, 1))
    assert first == again != other and first.mean == other.mean


@pytest.mark.parametrize(('drives', 'has_bounds'), [(29, False), (30, True)])
def test_fewer_than_thirty_drives_have_no_interval(drives, has_bounds):
    draws, values = Bootstrap(drives, 100, 0), [1.0] * drives
    for found in (draws.mean(values, range(drives)), draws.proportion(values, range(drives)),
                  draws.ratio(values, values, range(drives))):  # fmt: skip
        assert (found.mean, found.low is not None) == (1.0, has_bounds)


def test_the_bounds_of_a_proportion_are_wilsons():
    """81 of 263, the example of Newcombe (1998), table I: 0.2553 to 0.3662."""
    assert find_wilson_bounds(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    found = Bootstrap(40, 10, 0).proportion([1.0] * 40, range(40))
    assert (found.low, found.high) == (pytest.approx(0.9124, abs=1e-4), 1.0)  # 40 of 40


def test_equal_moments_of_a_drive_make_a_proportion_no_surer():
    values = [float(drive % 4 == 0) for drive in range(40)]
    apart = Bootstrap(40, 10, 0).proportion(values, range(40))
    together = Bootstrap(40, 10, 0).proportion([x for x in values for _ in range(5)], DRIVES)
    assert (together.low, together.high) == pytest.approx((apart.low, apart.high), abs=0.01)
    mixed = [float(number % 4 == 0) for number in range(200)]
    sure = Bootstrap(40, 10, 0).proportion(mixed, DRIVES)
    assert sure.high - sure.low < 0.6 * (apart.high - apart.low)
