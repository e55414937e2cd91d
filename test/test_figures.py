"""Figures of the README: they are those of the files they are said to come from."""

import json

import pytest

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
    assert hashes == {card['sha256']}
