"""Figures of the README: they are those of the files they are said to come from."""

import json

import pytest

from alpamayo_ros.cli.benchmark_engine import STAGES

HEADING = '| row | minADE_6 m | of 16 bits | names the cause % | clean 0.5 s late % |'


def interval(figure, digits, factor=1.0):
    """Mean and interval, as the README has them; '' when there are none."""
    if figure is None:
        return ''
    mean, low, high = (f'{factor * figure[x]:.{digits}f}' for x in ('mean', 'low', 'high'))
    return f'{mean} ({low} to {high})'


@pytest.fixture(scope='module')
def table(root):
    text = (root / 'docs/results/small-evaluation.json').read_text(encoding='utf-8')
    return json.loads(text)


def test_how_well_it_drives_is_what_was_measured(root, table):
    lines = (root / 'README.md').read_text(encoding='utf-8').splitlines()
    start = lines.index(HEADING) + 2
    found = lines[start : start + len(table['rows'])]
    for line, row in zip(found, table['rows'], strict=True):
        opened, late = row['open'], row['closed'].get('0.5')
        cells = [
            row['name'],
            interval(opened['all']['min_ade_m_6.4s'], 2),
            interval(opened['ratio'] and opened['ratio']['min_ade_m_6.4s'], 2),
            interval(opened['all']['text'], 1, 100),
            interval(late and late['clean'], 0, 100),
        ]
        assert [cell.strip() for cell in line.strip('|').split('|')] == cells


def test_the_figures_are_those_of_the_checkpoint_that_ships(root, table):
    card = json.loads((root / 'checkpoints/small/card.json').read_text(encoding='utf-8'))
    hashes = {
        row['planner'].get('checkpoint_sha256')
        for row in table['rows']
        if row['kind'] == 'reference'
    }
    for name in ('small-study', 'small-study-cpu'):
        study = json.loads((root / f'docs/results/{name}.json').read_text(encoding='utf-8'))
        hashes.add(study['made_from']['checkpoint_sha256'])
    assert hashes == {card['sha256']}


SPEED = '| case | vision | prefill | token | flow step | end to end | weights | peak |'
ORIN = (
    '| Orin Nano 8 GB, 2 bits mixed | vision | prefill | token | flow step | one inference '
    '| with kept images |'
)
DIGITS = dict(zip(STAGES, (1, 1, 2, 2, 1, 3, 3), strict=True))


def cells_below(root, heading):
    """Cells of the rows of a table of the README."""
    lines = (root / 'README.md').read_text(encoding='utf-8').splitlines()
    for line in lines[lines.index(heading) + 2 :]:
        if not line.startswith('|'):
            return
        yield [cell.strip() for cell in line.strip('|').split('|')]


def measured_on_the_h200(root, name):
    text = (root / f'docs/results/nvidia-h200-2-bits-{name}.json').read_text(encoding='utf-8')
    return json.loads(text)


def test_how_fast_it_is_is_what_was_measured(root):
    found = {name: cells for name, *cells in cells_below(root, SPEED)}
    assert len(found) == 9
    for name, cells in found.items():
        way, _, case = name.rpartition(', ')
        way, _, where = way.partition(', ')
        file = 'mixed_attention4' if way.endswith('attention4') else 'mixed'
        file += '-host-embedding' if where else ''
        figures = measured_on_the_h200(root, file)[way][case]
        assert cells == [f'{figures[stage]:.{digits}f}' for stage, digits in DIGITS.items()], name


def test_what_is_said_of_an_orin_is_what_was_estimated(root):
    orin = measured_on_the_h200(root, 'mixed')['orin']
    found = {power: cells for power, *cells in cells_below(root, ORIN)}
    assert list(found) == ['15 W', '25 W']
    keys = ('vision', 'prefill', 'token', 'flow_step', 'in_all', 'repeated')
    for power, cells in found.items():
        assert cells == [f'{orin[f"Orin Nano 8 GB, {power}"][key]:.0f}' for key in keys]


LATE = '| seconds late | clean % | a minute lasts s | expert: clean % | without a path % |'


def test_how_late_a_plan_may_come_is_what_was_measured(root):
    text = (root / 'docs/results/small-latencies.json').read_text(encoding='utf-8')
    rows = {row['name']: row['closed'] for row in json.loads(text)['rows']}
    found = list(cells_below(root, LATE))
    assert [cells[0] for cells in found] == ['0', '0.5', '1', '2', '5']
    for late, *cells in found:
        key = next(key for key in rows['16 bits'] if float(key) == float(late))
        model, expert = rows['16 bits'][key], rows['expert'][key]
        assert cells == [
            interval(model['clean'], 0, 100),
            interval(model['time_s'], 1),
            interval(expert['clean'], 0, 100),
            f'{100 * model["without_path"]["mean"]:.0f}',
        ]
