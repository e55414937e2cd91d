"""alpamayo_evaluate: rows, reruns, what is refused, and the files it writes."""

import csv
import json
import re
import shutil

from clip_folder import GOOD, write_clip_folder
import pytest

from alpamayo_ros.cli import evaluate
from alpamayo_ros.cli.evaluate import main
from alpamayo_ros.data_types import SamplingOptions
from alpamayo_ros.drives import open_loop, parts
from alpamayo_ros.drives.rows import make_rows
from alpamayo_ros.drives.settings import EvaluationSettings
from alpamayo_ros.metrics.evaluation import CLOSED_LOOP_METRICS, OPEN_LOOP_METRICS
from alpamayo_ros.model.small.untrained import write_small_checkpoint
from alpamayo_ros.replay.clips.clip_replay import begin_clips
from alpamayo_ros.report.evaluation_page import render
from alpamayo_ros.runtime.constant_velocity import ConstantVelocityEngine
from alpamayo_ros.runtime.engine import AlpamayoEngine

TWO_BITS = ('bits=2', 'recipe=mixed', 'latencies_s=[5]', 'closed_drives=1', 'batch=1')
SMALL = ('drives=2', 'moments=1', 'seconds=10', 'samples=2', 'rounds=50')
ROWS = ['16 bits', '2 bits mixed', "2 bits mixed, another drive's pictures",
        '2 bits mixed, black images', '2 bits mixed, cameras shuffled', 'constant turn rate',
        'constant velocity', 'ignores lights', 'ignores pedestrians', 'stands',
        'expert']  # fmt: skip


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp('evaluate') / 'checkpoint'
    write_small_checkpoint(folder, seed=0)
    return folder


@pytest.fixture(scope='module')
def job(checkpoint):
    """Return a function: out and further settings to arguments."""
    return lambda out, *more: [f'checkpoint={checkpoint}', f'out={out}', *SMALL, *more]


@pytest.fixture(scope='module')
def out(job, tmp_path_factory):
    """A folder with 2 bits beside 16 and a closed loop of one drive."""
    folder = tmp_path_factory.mktemp('out') / 'evaluation'
    assert main(job(folder, *TWO_BITS)) == 0
    return folder


@pytest.fixture(scope='module')
def table(out):
    return json.loads((out / 'evaluation.json').read_text(encoding='utf-8'))


def refused(arguments, capsys):
    """The one line of an error."""
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith('alpamayo_evaluate: error: ')
    return lines[0]


def test_the_table_holds_the_model_sixteen_bits_ablations_and_baselines(table):
    assert [row['name'] for row in table['rows']] == ROWS
    for row in table['rows']:
        assert set(row['open']['all']) == {metric.key for metric in OPEN_LOOP_METRICS}
        assert row['open']['all']['off_lane']['n'] == 2
        is_blinded = row['name'].endswith(('black images', 'cameras shuffled'))
        assert bool(row['closed']) == (not is_blinded)
        assert row['k'] == (1 if row['kind'] in ('baseline', 'expert') else 2)
        assert bool(row['counterfactual']) == (row['name'] in ROWS[:2])
    closed = table['rows'][1]['closed']['5']
    assert {metric.key for metric in CLOSED_LOOP_METRICS} < set(closed)
    assert any('untrained' in note for note in table['notes'])


def test_figures_are_those_of_the_records(out, table):
    for part in parts.read_parts(out):
        loop, row = part.made_from['loop'], part.made_from['row']
        if loop['kind'] == 'open':
            own = next(x for x in table['rows'] if x['name'] == row)
            values = [record['fde_m_6.4s'] for record in part.records]
            assert own['open']['all']['fde_m_6.4s']['mean'] == pytest.approx(sum(values) / 2)


def test_the_untrained_checkpoint_says_no_cause_and_ends_with_its_marker(table):
    found = table['rows'][0]['open']['all']
    assert (found['text']['mean'], found['marker']['mean']) == (0.0, 1.0)


def test_the_ratio_to_sixteen_bits_is_one_for_itself(table):
    ratio = table['rows'][0]['open']['ratio']['min_ade_m_6.4s']
    assert (ratio['mean'], ratio['low'], ratio['high']) == (1.0, None, None)


def test_rows_with_another_number_of_samples_are_not_compared_by_the_best(table):
    ratio, figures = (table['rows'][-1]['open'][x] for x in ('ratio', 'all'))
    assert ratio['min_ade_1_m_6.4s']['mean'] < 0.01  # the expert
    assert ratio['min_ade_m_6.4s'] is ratio['fde_m_3.0s'] is figures['min_ade_m_6.4s'] is None


def test_csv_has_a_line_for_each_figure(out, table):
    with (out / 'evaluation.csv').open(encoding='utf-8') as file:
        lines = list(csv.DictReader(file))
    (line,) = [
        line for line in lines
        if (line['row'], line['loop'], line['group'], line['metric'])
        == ('expert', 'closed', 'latency_s', 'distance_m')
    ]  # fmt: skip
    expected = table['rows'][-1]['closed']['5']['distance_m']
    assert float(line['mean']) == expected['mean'] and line['name'] == '5'
    open_lines = [x for x in lines if (x['row'], x['group']) == ('expert', 'all')]
    figures = table['rows'][-1]['open']['all']
    assert {x['metric'] for x in open_lines} == {key for key, x in figures.items() if x}
    assert {'ade_m_6.4s', 'off_lane'} < {x['metric'] for x in open_lines}


def test_the_page_stands_alone_and_escapes(out, table):
    page = (out / 'evaluation.html').read_text(encoding='utf-8')
    assert not re.findall(r'<script|(?:src|href)="(?!data:)', page)
    assert page.count('data:image/png') >= 5
    table['notes'] = ['<b>from a file</b>']
    assert '&lt;b&gt;from a file' in render(table, {}) and '<b>from' not in render(table, {})


def test_the_same_seeds_give_the_same_figures_in_two_workers_too(job, out, tmp_path, local_ray):
    again = tmp_path / 'again'
    assert main(job(again, *TWO_BITS, 'workers=2')) == 0
    for name in ('evaluation.json', 'evaluation.csv'):
        assert (again / name).read_bytes() == (out / name).read_bytes()
    texts = [
        {path.name: path.read_text(encoding='utf-8') for path in (x / parts.FOLDER).iterdir()}
        for x in (again, out)
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 22


def test_an_interrupted_part_goes_on_where_it_was(job, checkpoint, tmp_path, capsys):
    baseline = ('ablations=false', 'latencies_s=[]', 'batch=1', 'drives=3', 'seconds=8.4')
    whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
    assert main(job(whole, *baseline)) == 0
    shutil.copytree(whole, stopped)
    part = stopped / parts.FOLDER / '16_bits-open.jsonl'
    lines = part.read_text(encoding='utf-8').splitlines(keepends=True)
    part.write_text(''.join(lines[:2]) + lines[2][:40], encoding='utf-8')
    assert main(job(stopped, *baseline)) == 0
    assert part.read_text(encoding='utf-8') == ''.join(lines)
    assert '16 bits, open loop' in capsys.readouterr().err


def test_what_is_there_is_not_measured_again(job, out, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in (out / parts.FOLDER).iterdir()}
    capsys.readouterr()
    assert main([*job(out, *TWO_BITS), '--json']) == 0
    message = capsys.readouterr()
    assert message.err == ''
    assert json.loads(message.out.splitlines()[-1])['rows'][-1]['name'] == 'expert'
    assert {p.name: p.stat().st_mtime_ns for p in (out / parts.FOLDER).iterdir()} == before


def test_widths_one_after_the_other_share_a_table(job, tmp_path, capsys):
    sweep = job(tmp_path / 'widths', 'bits=16,4', 'ablations=false', 'latencies_s=[]')
    assert main(['--multirun', *sweep, '--json']) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])['rows']
    assert [row['name'] for row in rows[:2]] == ['16 bits', '4 bits mixed']
    plain, packed = (row['planner']['weight_bytes'] for row in rows[:2])
    assert packed < plain


def test_clips_have_a_row_for_each_width_beside_sixteen_bits(checkpoint, tmp_path, capsys):
    clips, out = write_clip_folder(tmp_path / 'clips'), tmp_path / 'out'
    arguments = [f'checkpoint={checkpoint}', f'clips={clips}', f'out={out}', 'seed=42', *SMALL]
    assert main([*arguments, 'bits=4']) == 0
    printed = capsys.readouterr().out
    table = json.loads((out / 'evaluation.json').read_text(encoding='utf-8'))
    by_name = {row['name']: row for row in table['rows']}
    assert list(by_name) == ['16 bits', '4 bits mixed', 'constant turn rate', 'constant velocity']
    wide, narrow, blind = (
        by_name[name]['open'] for name in ('16 bits', '4 bits mixed', 'constant velocity')
    )
    error = 'min_ade_m_6.4s'
    ratio = narrow['all'][error]['mean'] / wide['all'][error]['mean']
    assert narrow['ratio'][error]['mean'] == pytest.approx(ratio) and ratio != 1
    assert narrow['all'][error]['n'] == 1  # of four clips one has a context
    options = SamplingOptions(num_samples=2)
    replay = begin_clips(lambda: AlpamayoEngine(checkpoint, options=options), clips, 42)
    own = replay(GOOD)[1]['horizons']['6.4']['min_ade_m']
    assert wide['all'][error]['mean'] == pytest.approx(own, abs=1e-4)
    _, line = begin_clips(ConstantVelocityEngine, clips, 42)(GOOD)
    assert blind['all']['ade_m_6.4s']['mean'] == line['horizons']['6.4']['ade_m']
    assert blind['all']['corner_distance_m']['mean'] == line['corner_distance_m']
    assert blind['all']['marker'] is None  # a baseline says nothing
    assert 'off the lane' not in printed
    page = (out / 'evaluation.html').read_text(encoding='utf-8')
    assert 'corner distance' in page and 'By scenario' not in page
    assert 'leaves the lane' not in page  # nobody knows it


def test_clips_that_are_not_there_are_one_line(checkpoint, tmp_path, capsys):
    own = [f'checkpoint={checkpoint}', f'out={tmp_path / "out"}']
    assert 'features.csv: not found' in refused([*own, f'clips={tmp_path}'], capsys)
    assert 'expected clips=FOLDER beside it' in refused([*own, 'clip_list=ids'], capsys)
    line = refused([*own, f'clips={tmp_path}', 'navigation=route'], capsys)
    assert 'navigation=route: expected none: clips have no routes' in line


def test_hydra_runs_the_jobs_of_a_named_launcher(job, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(evaluate, '_evaluate', lambda settings, rows: found.append(settings))
    monkeypatch.chdir(tmp_path)
    sweep = ('bits=16,4', 'hydra/launcher=basic', f'hydra.sweep.dir={tmp_path / "jobs"}')
    assert main(['--multirun', *job(tmp_path / 'out', *sweep)]) == 0
    assert [(x.bits, x.drives, x.out) for x in found] == [
        (16, 2, str(tmp_path / 'out')), (4, 2, str(tmp_path / 'out'))
    ]  # fmt: skip
    assert {x.name for x in (tmp_path / 'jobs').iterdir()} >= {'0', '1'}


def test_sixteen_bits_with_a_packed_head_are_no_reference(checkpoint):
    settings = EvaluationSettings(str(checkpoint), bits=16, recipe='mixed', ablations=False)
    kinds = {row.name: row.kind for row in make_rows(settings)}
    assert (kinds['16 bits'], kinds['16 bits mixed']) == ('reference', 'model')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (['drives=3'], 'made from open loop with drives=2, not 3: expected a new folder'),
        (['bits=2', 'batch=4'], "made from row '16 bits' with batch=1, not 4"),
    ],
)
def test_a_folder_of_other_drives_is_refused(job, out, capsys, change, message):
    assert message in refused(job(out, 'latencies_s=[]', *change), capsys)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (['bits=abc'], 'bits: '),
        (['bit=2'], 'settings are checkpoint, bits'),
        (['bits'], "'bits'"),
        (['bits=2,4'], 'multirun'),
        (['+foo=5'], "'+foo=5': expected KEY=VALUE, settings are checkpoint, bits"),
        (['~drives'], "'~drives': expected KEY=VALUE"),
        (['hydra/launcher=nowhere'], "Could not find 'hydra/launcher/nowhere'"),
        (['hydra.nothing=1'], "hydra.nothing: Key 'nothing' not in 'HydraConf'"),
        (['hydra/launcher=basic', 'drives=0'], 'drives=0: expected 1 or more'),
        (['cluster=slurm'], 'cluster slurm: expected local or ray://HOST'),
        (['workers=2', 'device=cuda:1'], 'device cuda:1: expected cuda: Ray gives each worker'),
        (['workers=0'], 'workers=0: expected 1 or more'),
        (['drives=${foo}'], "drives: Interpolation key 'foo' not found"),
        (['split=a=b'], 'split=a=b: '),
        (['bits=3'], 'bits=3 is not one of'),
        (['recipe=none', 'bits=2'], "recipe 'none'"),
        (['drives=0'], 'drives=0: expected 1 or more'),
        (['seconds=5'], 'seconds=5.0: expected 8.4 to 600'),
        (['split=holdout'], 'split=holdout: expected one of train, validation, test'),
        (['expired_path=never'], 'expired_path=never: expected one of'),
        (['latencies_s=[0.33]'], 'latencies_s=0.33: expected 0 to 10 in steps of 0.05'),
        (['closed_drives=9'], 'closed_drives=9: expected 1 to drives'),
        (['checkpoint=nowhere/at_all'], 'nowhere/at_all'),
        (["checkpoint=''"], 'checkpoint=: expected a folder, small or a hub id'),
        (['device=tpu'], "device 'tpu'"),
    ],
)
def test_bad_input_is_one_line(job, tmp_path, capsys, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)  # hydra keeps its own files there
    assert message in refused(job(tmp_path / 'out', *change), capsys)
    assert not (tmp_path / 'out').exists()


def test_a_folder_that_cannot_be_made_is_told_before_the_work_begins(job, tmp_path, capsys):
    (tmp_path / 'file').touch()
    assert 'Not a directory' in refused(job(tmp_path / 'file/out', 'latencies_s=[]'), capsys)


def test_an_interrupt_closes_the_bar(job, tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(open_loop, 'measure', stop)
    assert main(job(tmp_path, 'latencies_s=[]')) == 130
    assert f'{tmp_path}: stopped; the same command goes on' in capsys.readouterr().err.split('\n')


def test_a_folder_with_something_else_in_it_is_refused(job, tmp_path, capsys):
    (tmp_path / parts.FOLDER).mkdir()
    (tmp_path / parts.FOLDER / 'expert-open.jsonl').write_text('nothing\n', encoding='utf-8')
    line = refused(job(tmp_path, 'latencies_s=[]'), capsys)
    assert 'expert-open.jsonl: not a part of an evaluation' in line


@pytest.fixture(scope='module')
def checkpoint15(tmp_path_factory):
    folder = tmp_path_factory.mktemp('evaluate15') / 'checkpoint'
    write_small_checkpoint(folder, 0, 'alpamayo1_5')
    return folder


DRIVE = ('profile=drive', 'activations=16', 'kv_bits=16')
OPEN = ('ablations=false', 'counterfactuals=false', 'latencies_s=[]', 'drives=1', 'moments=1')


def test_a_profile_with_routes_and_guidance_is_a_row_beside_exact(checkpoint15, tmp_path):
    more = ('navigation=route', 'guidance_weight=1.5', 'seconds=10', 'samples=2', 'rounds=50')
    out = tmp_path / 'out'
    assert main([f'checkpoint={checkpoint15}', f'out={out}', *OPEN, *DRIVE, *more]) == 0
    rows = {row['name']: row for row in json.loads((out / 'evaluation.json').read_text())['rows']}
    name = '16 bits, reasoning none, flow_steps 3, cameras front_wide,front_tele'
    about, exact = rows[name]['planner'], rows['16 bits']['planner']
    assert {key: about[key] for key in set(about) - set(exact)} == {
        'reasoning': 'none', 'flow_steps': 3, 'cameras': 'front_wide,front_tele',
    }  # fmt: skip
    assert (exact['navigation'], exact['guidance_weight']) == ('route', 1.5)
    assert rows[name]['open']['ratio'] is not None
    said = {row: rows[row]['open']['all']['marker'] for row in (name, '16 bits')}
    assert said[name] is None and said['16 bits'] is not None  # nothing was said


def test_choices_that_a_checkpoint_has_not_are_refused(checkpoint, tmp_path, capsys):
    base = [f'checkpoint={checkpoint}', f'out={tmp_path / "out"}']
    assert 'alpamayo_r1 knows no route texts' in refused([*base, 'navigation=route'], capsys)
    assert 'one of full, short, none' in refused([*base, 'reasoning=some'], capsys)
    assert "profile: 'quick' is not one of" in refused([*base, 'profile=quick'], capsys)
    assert '8 or 16' in refused([*base, 'activations=4'], capsys)
