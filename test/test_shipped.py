"""Files that ship with the package are found by name, in a source tree and installed."""

from pathlib import Path
import shutil

import pytest
import small_bag

from alpamayo_ros import shipped
from alpamayo_ros.cli.replay import main as replay
from alpamayo_ros.cli.verify import main as verify
from alpamayo_ros.drives.rows import make_rows
from alpamayo_ros.drives.settings import EvaluationSettings
from alpamayo_ros.errors import BadInput
from alpamayo_ros.hub import resolve_checkpoint, resolve_vlm
from alpamayo_ros.model.checkpoint import hash_checkpoint
from alpamayo_ros.rig import load_rig
from alpamayo_ros.runtime.engine import AlpamayoEngine

MODEL = Path(__file__).parent / 'golden/model'


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A place of the package whose checkpoint `small` is the tiny one of the reference tensors."""
    shutil.copytree(MODEL, tmp_path / 'tree/checkpoints/small')
    (tmp_path / 'tree/checkpoints/no_checkpoint').mkdir()
    monkeypatch.setattr(shipped, 'PLACES', (tmp_path / 'tree', *shipped.PLACES))
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'tree'


def test_a_checkpoint_is_found_by_its_name(tree, capsys):
    small = tree / 'checkpoints/small'
    assert resolve_checkpoint('small') == resolve_checkpoint(Path('small')) == small
    assert AlpamayoEngine('small').provenance()['checkpoint'] == 'small'
    assert verify(['small']) == 0
    assert '"passed": 7' in capsys.readouterr().out


def test_an_evaluation_takes_small_when_nothing_is_said(tree):
    rows = make_rows(EvaluationSettings(ablations=False))
    hashes = {row.about.get('checkpoint_sha256') for row in rows}
    assert hashes == {None, hash_checkpoint(tree / 'checkpoints/small')}


def test_a_folder_of_that_name_wins(tree, tmp_path):
    (tmp_path / 'small').mkdir()
    assert resolve_checkpoint('small') == Path('small')


def test_the_first_place_wins(tree, tmp_path, monkeypatch):
    shutil.copytree(tree, tmp_path / 'other')
    monkeypatch.setattr(shipped, 'PLACES', (tmp_path / 'other', tree))
    assert resolve_checkpoint('small') == tmp_path / 'other/checkpoints/small'


@pytest.mark.parametrize('name', ['large', 'no_checkpoint'])
def test_an_unknown_name_lists_the_known_ones(tree, name):
    with pytest.raises(BadInput, match=f'{name}: no such folder, not one of .*small.*, and not a'):
        resolve_checkpoint(name)


def test_the_tokenizer_folder_of_a_checkpoint_is_no_checkpoint(tree):
    """A config.json from elsewhere names a VLM by path or hub id alone."""
    with pytest.raises(BadInput, match='small: no such folder, and not a hub id'):
        resolve_vlm('small')


def test_a_rig_is_found_in_any_place(tree):
    (tree / 'config/rigs').mkdir(parents=True)
    shutil.copy(
        shipped.find_shipped('config/rigs', '.yaml')['r1'], tree / 'config/rigs/mine.v2.yaml'
    )
    assert load_rig('mine.v2').odometry_topic == load_rig('r1').odometry_topic


def test_limits_of_the_card_go_with_every_result(tree, tmp_path):
    assert 'limits' not in AlpamayoEngine('small').provenance()
    (tree / 'checkpoints/small/card.json').write_text('{"limits": ["Not for a car.", "Nor you."]}')
    assert AlpamayoEngine('small').provenance()['limits'] == 'Not for a car. Nor you.'
    bag, rig = small_bag.write(tmp_path / 'bag', small_bag.drive(3)), small_bag.write_rig(tmp_path)
    arguments = [bag, '--rig', rig, '--out', tmp_path / 'out', '--checkpoint', 'small']
    assert replay([*map(str, arguments), '--max-tokens', '4']) in (0, 1)
    assert 'Not for a car. Nor you.</p>' in (tmp_path / 'out/report.html').read_text()
