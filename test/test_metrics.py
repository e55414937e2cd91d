"""ADE, FDE, minADE_K and corner distance against hand-computed values and the reference's."""

from pathlib import Path

import numpy as np
import pytest

from alpamayo_ros.metrics.displacement import (
    HORIZONS_S,
    ade,
    ade_of_whole_best,
    corner_distance,
    fde,
    measure_horizons,
    min_ade,
    min_fde,
)

GOLDEN = np.load(Path(__file__).parent / 'golden' / 'metrics.npz')
WAYPOINTS_OF = {'/by_t=0.5': 5, '/by_t=1.0': 10, '/by_t=3.0': 30, '/by_t=5.0': 50, '': None}


def test_ade_is_the_mean_and_fde_the_last_distance():
    truth = np.zeros((3, 2))
    path = np.array([[3.0, 4.0], [0.0, 1.0], [0.0, -3.0]])  # distances 5, 1, 3
    assert ade(path, truth) == pytest.approx(3.0)
    assert fde(path, truth) == pytest.approx(3.0)
    assert fde(path[:2], truth[:2]) == pytest.approx(1.0)


LATE = np.array([[0, 0], [0, 0], [0, 0], [0, 8.0]])  # ADE 2, perfect over the first two
STEADY = np.array([[1.0, 0]] * 4)  # ADE 1


def test_the_best_sample_is_chosen_anew_at_each_horizon():
    truth = np.zeros((4, 2))
    assert min_ade([LATE, STEADY], truth) == min_fde([LATE, STEADY], truth) == 1.0
    assert min_ade([LATE, STEADY], truth, 2) == min_fde([LATE, STEADY], truth, 3) == 0.0
    assert min_fde([LATE, 9 * STEADY], truth) == 8.0


def test_the_makers_keep_the_sample_that_is_best_over_the_whole_horizon():
    truth = np.zeros((4, 2))
    assert ade_of_whole_best([LATE, STEADY], truth) == pytest.approx(1.0)
    assert ade_of_whole_best([LATE, STEADY], truth, 2) == pytest.approx(1.0)


def test_a_sample_that_is_not_finite_counts_as_one_that_stays():
    failed = line(10.0)
    failed[30, 0] = np.nan
    found = measure_horizons([failed, line(5.0)], 0, line(10.0))
    assert found['1.0']['ade_m'] == pytest.approx(10.0 * 0.1 * 5.5)
    assert found['1.0']['min_fde_m'] == pytest.approx(5.0)
    assert measure_horizons([failed], 0, line(10.0))['6.4']['min_ade_m'] == pytest.approx(32.5)


def test_the_best_of_the_whole_horizon_needs_the_whole_truth():
    samples = [line(12.0), line(10.0)]
    assert 'whole_best_ade_m' not in measure_horizons(samples, 0, line(10.0, count=60))['1.0']
    assert measure_horizons(samples, 0, line(10.0, count=63))['1.0']['whole_best_ade_m'] == 0.0


def test_ade_agrees_with_the_reference():
    found = ade(GOLDEN['pred_xyz'][..., :2], GOLDEN['gt_xyz'][:, None, None, :, :2])
    np.testing.assert_allclose(found, GOLDEN['ade'], atol=1e-4)


@pytest.mark.parametrize('suffix', WAYPOINTS_OF)
def test_min_ade_agrees_with_the_reference(suffix):
    found = ade_of_whole_best(
        GOLDEN['pred_xyz'][..., :2], GOLDEN['gt_xyz'][:, None, :, :2], WAYPOINTS_OF[suffix]
    )
    np.testing.assert_allclose(found.mean(1), GOLDEN[f'minade:min_ade{suffix}'], atol=1e-4)
    np.testing.assert_allclose(found.std(1), GOLDEN[f'minade:min_ade{suffix}_std'], atol=1e-4)


def test_corner_distance_agrees_with_the_reference():
    found = corner_distance(
        GOLDEN['pred_xyz'],
        GOLDEN['pred_rot'],
        GOLDEN['gt_xyz'][:, None],
        GOLDEN['gt_rot'][:, None],
    )
    np.testing.assert_allclose(found.mean(1), GOLDEN['corner:corner_distance'], atol=1e-4)
    np.testing.assert_allclose(found.std(1), GOLDEN['corner:corner_distance_std'], atol=1e-4)


def test_corner_distance_of_a_turned_box():
    # Half a turn carries each corner (2, 1.5) to (-2, -1.5): 2 * 2.5 m apart, whatever the height.
    # A quarter turn: (2, 1.5) to (-1.5, 2), sqrt(2) * 2.5 m apart.
    origin, straight = np.zeros((1, 1, 3)), np.eye(3)[None]
    half = np.diag([-1.0, -1.0, 1.0])[None, None]
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])[None, None]
    assert corner_distance(origin, half, origin[0], straight) == pytest.approx(5.0)
    assert corner_distance(origin, quarter, origin[0], straight) == pytest.approx(2.5 * 2**0.5)


def test_corner_distance_takes_the_nearest_sample_for_each_corner():
    # 1 m off everywhere against 9 m off, then exact: (1 + 0) / 2.
    truth, straight = np.zeros((2, 3)), np.tile(np.eye(3), (2, 1, 1))
    shifted = truth + [1.0, 0, 0]
    late = np.array([[9.0, 0, 0], [0, 0, 0]])
    samples, rotations = np.stack([shifted, late]), np.stack([straight, straight])
    assert corner_distance(samples, rotations, truth, straight) == pytest.approx(0.5)


def line(speed_mps, yaw=0.0, side_m=0.0, count=64):
    """Waypoints x, y, yaw of a straight drive along `yaw`, `side_m` to its left."""
    along = speed_mps * 0.1 * np.arange(1, count + 1)
    return np.column_stack(
        [
            along * np.cos(yaw) - side_m * np.sin(yaw),
            along * np.sin(yaw) + side_m * np.cos(yaw),
            np.full(count, yaw),
        ]
    )


def test_lateral_and_longitudinal_parts_follow_the_driven_heading():
    truth = line(10.0, yaw=np.pi / 2)
    found = measure_horizons([line(11.0, yaw=np.pi / 2, side_m=0.5)], 0, truth)['3.0']
    assert found['lat_m'] == pytest.approx(0.5)
    assert found['lon_m'] == pytest.approx(3.0)
    assert found['fde_m'] == pytest.approx(np.hypot(0.5, 3.0))


def test_heading_error_wraps():
    found = measure_horizons([line(5.0, yaw=np.pi - 0.1)], 0, line(5.0, yaw=-np.pi + 0.1))['1.0']
    assert found['heading_rad'] == pytest.approx(-0.2)


def test_best_and_chosen_sample_stand_beside_each_other():
    found = measure_horizons([line(12.0), line(10.0)], 0, line(10.0))['6.4']
    assert found['fde_m'] == pytest.approx(2 * 6.4)
    assert found['ade_m'] == pytest.approx(2 * 0.1 * 32.5)
    assert found['min_fde_m'] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ('waypoints', 'known'),
    [(64, 5), (63, 5), (62, 4), (49, 4), (48, 3), (9, 2), (4, 1), (3, 0), (0, 0)],
)
def test_a_horizon_counts_when_truth_reaches_it_within_one_step(waypoints, known):
    found = measure_horizons([line(10.0)], 0, line(10.0, count=waypoints))
    assert list(found) == [f'{h:.1f}' for h in HORIZONS_S]
    assert [value is not None for value in found.values()] == [True] * known + [False] * (
        5 - known
    )
