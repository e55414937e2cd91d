"""The generated parts of the documents are current, and their figures are of what ships."""

import json

import pytest

from docs.generate import PART, find_documents, find_stale_documents, regenerate
from docs.tables import PARTS, parameters

RENEW = 'run `make docs`'


def test_every_generated_part_is_current(root):
    stale = [str(path.relative_to(root)) for path in find_stale_documents(root)]
    assert stale == [], RENEW


def test_every_part_that_can_be_generated_stands_in_a_document(root):
    texts = [path.read_text(encoding='utf-8') for path in find_documents(root)]
    assert {name for text in texts for name, _ in PART.findall(text)} == set(PARTS)


def test_a_part_that_is_not_current_is_found_and_made_anew(tmp_path):
    page = tmp_path / 'README.md'
    page.write_text('Before.\n<!-- generated: parameters -->\n| old |\n<!-- end -->\nBehind.\n')
    stale = find_stale_documents(tmp_path)
    expected = f'<!-- generated: parameters -->\n\n{parameters()}\n\n<!-- end -->'
    assert stale == {page: f'Before.\n{expected}\nBehind.\n'}
    page.write_text(stale[page])
    assert find_stale_documents(tmp_path) == {}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('<!-- generated: nothing -->\n<!-- end -->', 'page.md: nothing is not one of parameters'),
        ('<!-- generated: topics -->\n', 'page.md: 1 marks "generated" but 0 parts that end'),
    ],
)
def test_a_mark_that_cannot_be_filled_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        regenerate(text, 'page.md')


def test_every_evaluation_is_of_the_checkpoint_that_ships(root):
    card = json.loads((root / 'checkpoints/small/card.json').read_text(encoding='utf-8'))
    hashes = set()
    for name in ('small-evaluation', 'small-latencies'):
        table = json.loads((root / f'docs/results/{name}.json').read_text(encoding='utf-8'))
        rows = [row['planner'] for row in table['rows'] if row['kind'] == 'reference']
        hashes |= {planner['checkpoint_sha256'] for planner in rows}
    for name in ('small-study', 'small-study-cpu'):
        study = json.loads((root / f'docs/results/{name}.json').read_text(encoding='utf-8'))
        hashes.add(study['made_from']['checkpoint_sha256'])
    assert hashes == {card['sha256']}
