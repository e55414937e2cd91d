"""The table of an evaluation from known records: groups, intervals, occasions, comparisons."""

import pytest

from alpamayo_ros.drives.parts import Part
from alpamayo_ros.drives.table import tabulate, to_csv
from alpamayo_ros.metrics.driving_score import MULTIPLIERS, WEIGHTS
from alpamayo_ros.metrics.evaluation import DISTANCE_METRICS

DRIVES = 40
LOOP = {'split': 'test', 'drives': DRIVES, 'seconds': 60.0, 'seed': 0}


def open_part(row, kind, k, error_m):
    """Every record has the same error in all distances."""
    about = {'k': k, 'cause': 'keep_lane', 'weather': 'day', 'off_lane': 0.0}
    about |= {metric.key: error_m for metric in DISTANCE_METRICS}
    return make_part(row, kind, {'kind': 'open'}, [about] * DRIVES)


def closed_part(row, kind, changes, latency_s=0.5):
    """Clean drives with a score of 90, but for changes by number of the drive."""
    clean = dict.fromkeys([*MULTIPLIERS, *WEIGHTS], 1.0) | {
        'score': 90.0, 'clean': 1.0, 'demands': [], 'cause': 'keep_lane', 'red_lights': 1,
        'red_lights_run': 0, 'pedestrians': 0, 'pedestrians_ignored': 0, 'time_s': 60.0,
        'distance_m': 500.0, 'without_path': 0.0, 'plans': 3, 'held_back': {'jump': 1},
    }  # fmt: skip
    loop = {'kind': 'closed', 'latency_s': latency_s}
    return make_part(row, kind, loop, [clean | changes.get(i, {}) for i in range(DRIVES)])


def make_part(row, kind, loop, records):
    made_from = {'row': row, 'kind': kind, 'planner': {'bits': 16.0 if kind == 'reference' else 0},
                 'world': 'w', 'code': 'c', 'loop': loop | LOOP}  # fmt: skip
    return Part(made_from, [{'drive': i, **x} for i, x in enumerate(records)], DRIVES)


RUNS = {
    'red_lights_run': 1,
    'red_light': 0.0,
    'score': 0.0,
    'clean': 0.0,
    'demands': ['red_light'],
}


@pytest.fixture(scope='module')
def table():
    """A model, and a baseline that runs the light in five drives."""
    return tabulate(
        [
            open_part('16 bits', 'reference', 6, 0.5), open_part('stands', 'baseline', 1, 2.0),
            closed_part('16 bits', 'reference', {}),
            closed_part('stands', 'baseline', dict.fromkeys(range(5), RUNS)),
        ], 100, 0,
    )  # fmt: skip


def test_the_lowest_score_is_that_of_the_drives_with_the_broken_rule(table):
    model, baseline = (row['closed']['0.5'] for row in table['rows'])
    assert baseline['score']['mean'] == pytest.approx(90.0 * 35 / 40)
    assert (baseline['lowest_score']['demand'], baseline['lowest_score']['mean']) == (
        'red_light', 0.0,
    )  # fmt: skip
    assert (model['lowest_score']['demand'], model['lowest_score']['mean']) == ('all drives', 90.0)


def test_drives_that_failed_are_listed_with_the_lowest_score_first():
    half = {'own_lane': 0.5, 'clean': 0.0, 'score': 44.96, 'time_s': 60.0, 'cause': 'curve_left'}
    changes = {3: half, 7: RUNS, 9: RUNS | {'time_s': 12.0, 'on_road': 0.0}, 11: {'score': 20.0}}
    found = tabulate(
        [open_part('16 bits', 'reference', 6, 0.5), closed_part('16 bits', 'reference', changes)],
        100, 0,
    )['rows'][0]['closed']['0.5']['failures']  # fmt: skip
    assert [x['drive'] for x in found] == [9, 7, 3]  # a low score alone is no failure
    assert found[0]['broken'] == ['on_road', 'red_light']
    assert found[2] == {
        'drive': 3, 'score': 45.0, 'broken': ['own_lane'], 'time_s': 60.0, 'cause': 'curve_left',
    }  # fmt: skip


def test_broken_rules_count_by_occasion(table):
    found = table['rows'][1]['closed']['0.5']
    assert (found['red_lights_run']['mean'], found['red_lights_run']['n']) == (0.125, 40)
    assert found['pedestrians_ignored'] is None  # there was no occasion
    assert found['faults'] == {'not red_light: keep_lane': 5}
    assert (found['plans'], found['held_back']) == (120, {'jump': 40})


def test_proportions_have_wilson_intervals(table):
    clean = table['rows'][1]['closed']['0.5']['clean']
    assert (clean['low'], clean['high']) == pytest.approx((0.7389, 0.9454), abs=1e-4)


def test_one_sample_is_not_the_best_of_any(table):
    model, baseline = table['rows']
    assert (model['k'], baseline['k']) == (6, 1)
    assert model['open']['all']['min_ade_m_6.4s']['mean'] == 0.5
    for key in ('min_ade_m_6.4s', 'min_fde_m_1.0s', 'whole_best_ade_m_3.0s'):
        assert baseline['open']['all'][key] is None
    ratio = baseline['open']['ratio']
    assert ratio['min_ade_1_m_6.4s']['mean'] == 4.0
    assert ratio['min_ade_m_6.4s'] is ratio['ade_m_6.4s'] is None
    assert model['open']['ratio']['min_ade_m_6.4s']['mean'] == 1.0


def test_csv_has_the_groups_and_their_bounds(table):
    lines = to_csv(table).splitlines()
    assert '16 bits,open,all,,min_ade_m_6.4s,0.5,0.5,0.5,40' in lines
    assert 'stands,closed,latency_s,0.5,score_red_light,0.0,,,5' in lines
