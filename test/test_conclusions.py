"""Ratios, fractions and notes that a benchmark concludes from its cases, on numbers by hand."""

import pytest

from alpamayo_ros.benchmark.conclusions import conclude

STOCK = 'optimum-quanto qint2'


def case(end_to_end, vision=1.0, prefill=2.0):
    return {
        'end_to_end': end_to_end,
        'sum_of_stages': 2 * end_to_end,
        'vision': vision,
        'prefill': prefill,
    }


@pytest.fixture
def document():
    """Return the cases of a run, before anything is concluded."""
    return {
        'device': 'a device without peaks',
        '2 bits': {
            'recorded K=1': case(10.0),
            'recorded K=1 guided': case(18.0),
            'recorded K=6': case(15.0),
            'linears': {'token_linears': 4.0},
        },
        STOCK: {
            'eager K=1': case(200.0, vision=8.0, prefill=4.0),
            'linears': {'token_linears': 20.0},
        },
    }


def test_ratios_are_those_of_the_cases(document):
    note = conclude(document, ['2 bits', STOCK], 'recorded', [1, 6], None)
    assert document['ratios'] == {
        'K=6 over K=1': 1.5,
        'guided over not guided': 1.8,
        f'{STOCK} eager over it, end_to_end': 20.0,
        f'{STOCK} eager over it, sum_of_stages': 20.0,
        f'vision and prefill over {STOCK} eager': 0.25,
        f'token_linears of {STOCK} over it': 5.0,
    }
    assert note.startswith('a device without peaks: no fractions of the peak')
    assert not document.keys() & {'boards', 'of the peak'}


def test_without_its_first_case_nothing_is_concluded(document):
    assert conclude(document, ['2 bits', STOCK], 'eager', [1, 6], None) == ''
    assert 'ratios' not in document
