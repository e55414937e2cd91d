"""alpamayo_replay of many bags: one dataset, the same in one process, in spans and on Ray."""

import functools
import json
import os
from pathlib import Path
import re
import shutil
import signal
import tracemalloc

from clip_folder import write_clip_folder
from pyarrow import parquet
import pytest
import small_bag
from small_bag import ODOMETRY, START_NS

from alpamayo_ros.cli.replay import main
from alpamayo_ros.cluster.workers import Cluster, Outcome, start_workers
from alpamayo_ros.data_types import SamplingOptions
from alpamayo_ros.errors import BadInput
from alpamayo_ros.replay import dataset_results, rebuild
from alpamayo_ros.replay.dataset import Dataset
from alpamayo_ros.replay.item_report import ItemReport
from alpamayo_ros.replay.recordings import (
    BagItem,
    BagResult,
    begin_replays,
    find_bags,
    read_list,
    split_bags,
)
from alpamayo_ros.replay.replay import Schedule
from alpamayo_ros.report.dataset_page import WorstCase, render
from alpamayo_ros.rig import load_rig
from alpamayo_ros.runtime.constant_velocity import ConstantVelocityEngine

SCHEDULE = Schedule(500_000_000)
ENGINE = ('--engine', 'constant_velocity', '--samples', '2', '--period', '0.5')


@pytest.fixture(scope='module', autouse=True)
def one_report():
    """Draw the report of one item alone, with one case, as pictures take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_results, 'MAX_REPORTS', 1)
        patch.setattr(rebuild, 'MAX_CASES', 1)
        yield


@pytest.fixture(scope='module')
def rig(tmp_path_factory):
    return small_bag.write_rig(tmp_path_factory.mktemp('rig'))


@pytest.fixture(scope='module')
def fleet(tmp_path_factory):
    """Five bags: three drives, one with a gap and a broken pose, one without odometry."""
    folder = tmp_path_factory.mktemp('fleet') / 'fleet'
    for number, curvature in enumerate((0.0, 0.02, 0.05)):
        drive = small_bag.drive(5, speed=8 + number, curvature=curvature)
        small_bag.write(folder / f'north/{number}', drive)
    messages = small_bag.drive(9, curvature=0.01)
    faulty = [x for x in messages if not (x[1] == ODOMETRY and 4.2e9 < x[0] - START_NS < 4.7e9)]
    broken = next(x for x in faulty if x[1] == ODOMETRY and x[0] - START_NS > 6.9e9)
    broken[2].pose.pose.position.x = float('nan')
    small_bag.write(folder / 'south/faulty', faulty)
    small_bag.write(folder / 'south/blind', [x for x in messages if x[1] != ODOMETRY])
    return folder


def replay(rig, out, *arguments):
    return main([*map(str, arguments), '--rig', str(rig), '--out', str(out), *ENGINE])


def without_times(value):
    """A value of JSON without what a clock measured."""
    if isinstance(value, dict):
        left_out = ('ms', 'p90_ms', 'seconds', 'started', 'begin_byte', 'end_byte')
        return {k: without_times(x) for k, x in value.items() if k not in left_out}
    return [without_times(x) for x in value] if isinstance(value, list) else value


def read_lines(out):
    """Lines of the parquet file without times, by the order of the file."""
    rows = parquet.read_table(out / 'results.parquet').to_pylist()
    return [{k: x for k, x in row.items() if not k.startswith('ms_')} for row in rows]


def read_rows(out):
    lines = (out / 'items.jsonl').read_text().splitlines()
    return {row['name']: without_times(row) for row in map(json.loads, lines)}


def read_figures(out):
    summary = json.loads((out / 'summary.json').read_text())
    return read_rows(out), read_lines(out), without_times(summary)


@pytest.fixture(scope='module')
def whole(fleet, rig, tmp_path_factory):
    """The dataset of one process."""
    out = tmp_path_factory.mktemp('whole') / 'out'
    assert replay(rig, out, fleet) == 0
    return out


def test_every_bag_of_a_folder_is_an_item(whole):
    rows = read_rows(whole)
    names = ['north/0', 'north/1', 'north/2', 'south/blind', 'south/faulty']
    assert sorted(rows) == names
    assert [rows[name]['anchors'] for name in names] == [7, 7, 7, 0, 15]
    assert rows['south/blind']['detail'].endswith(
        'the bag has ' + ', '.join(sorted(map(small_bag.image_topic, small_bag.CAMERAS)))
    )
    assert rows['south/faulty']['reasons'] == {'odometry_gap': 4}
    summary = json.loads((whole / 'summary.json').read_text())
    assert summary['items'] == {'items': 5, 'replayed': 4, 'failed': 1}
    assert (summary['anchors'], summary['ok']) == (36, 32)
    assert summary['refused_messages'] == {'/odometry: bad_message': 1}


def test_the_figures_of_an_item_are_those_of_its_own_replay(fleet, rig, tmp_path, whole):
    assert replay(rig, tmp_path, fleet / 'north/2') == 0
    alone = json.loads((tmp_path / 'summary.json').read_text())
    row = read_rows(whole)['north/2']
    longest = f'{alone["longest_horizon_s"]:.1f}'
    assert row['ade_m'] == alone['horizons'][longest]['ade_m']['mean']
    assert row['baseline_ade_m'] == alone['baseline'][longest]['ade_m']['mean']
    lines = [json.loads(x) for x in (tmp_path / 'results.jsonl').read_text().splitlines()]
    record = Dataset(whole, lambda engine: engine)
    own = [x for x in record.read_rows() if x['name'] == 'north/2']
    assert without_times(list(record.read_lines(own))) == without_times(lines)


def test_a_list_of_paths_gives_the_items_of_the_folder(fleet, tmp_path):
    names = tmp_path / 'list'
    bags = ('south/faulty', 'north/2', 'south/blind', 'north/0', 'north/1', 'north/0')
    names.write_text('\ufeff' + '\r\n'.join(str(fleet / x) for x in bags))
    assert find_bags(read_list(names)) == find_bags([fleet])


def test_the_order_of_the_items_changes_no_figure(rig, tmp_path, whole):
    shuffled = tmp_path / 'shuffled'
    record = Dataset(shuffled, lambda engine: json.loads((whole / 'run.json').read_text()))
    record.claim(resume=False)
    source = Dataset(whole, lambda engine: engine)
    for row in reversed(source.read_rows()):
        result = BagResult(
            {}, list(source.read_lines([row])), row['bag'], row['notes'], row['detail']
        )
        record.take(Outcome(BagItem(row['name'], Path(row['path'])), result))
    dataset_results.rebuild_dataset(record, load_rig(str(rig)), {})
    assert read_figures(shuffled) == read_figures(whole)


def test_spans_give_the_lines_of_the_whole_bag(fleet, rig, tmp_path, whole):
    out = tmp_path / 'out'
    assert replay(rig, out, fleet, '--span', '1.2') == 0  # two periods
    spans = sorted(read_rows(out))
    assert spans[:2] == ['north/0#0000', 'north/0#0001']
    assert sum(name.startswith('south/faulty') for name in spans) == 8
    assert without_bag(read_lines(out)) == without_bag(read_lines(whole))


@pytest.mark.parametrize('period_ns', [0, 400_000_000])
def test_spans_of_a_faulty_bag_end_where_the_next_begins(fleet, rig, period_ns):
    (whole,) = find_bags([fleet / 'south/faulty'])
    parts = split_bags([whole], load_rig(str(rig)), period_ns, 10**9)
    assert len(parts) == (8 if period_ns == 0 else 10)
    perform = begin_replays(make_engine, load_rig(str(rig)), Schedule(period_ns), 0)
    lines = [line for part in parts for line in perform(part).lines]
    assert without_times(lines) == without_times(perform(whole).lines)


def without_bag(lines):
    """Lines in which the name of a span is that of its bag."""
    return [{**line, 'item': line['item'].split('#')[0]} for line in lines]


def test_a_bag_whose_clock_jumps_stays_whole(rig, tmp_path):
    drive = small_bag.drive(4)
    later = [(x[0] + 60 * 10**9, x[1], shift(x[2], 60)) for x in small_bag.drive(4)]
    bag = small_bag.write(tmp_path / 'bag', drive + later)
    items = split_bags(find_bags([bag]), load_rig(str(rig)), 5 * 10**8, 10**9)
    assert [(item.name, item.start_ns) for item in items] == [('bag', None)]


def shift(message, seconds):
    message.header.stamp.sec += seconds
    return message


def list_reports(out):
    """Names of all files of the reports of items."""
    return sorted(x.relative_to(out).as_posix() for x in out.glob('items/**/*') if x.is_file())


def test_a_cluster_gives_the_figures_of_one_process(fleet, rig, tmp_path, whole, local_ray):
    out = tmp_path / 'out'
    assert replay(rig, out, fleet, '--cluster', 'local') == 0
    assert read_figures(out) == read_figures(whole)
    assert list_reports(out) == list_reports(whole) != []
    (name,) = (path.parent.name for path in out.glob('items/*/*/summary.json'))
    alone = [
        json.loads((x / f'items/north/{name}/summary.json').read_text()) for x in (out, whole)
    ]
    assert alone[0]['horizons'] == alone[1]['horizons'] and alone[0]['ok'] == 7


def test_clips_on_a_cluster_give_the_lines_of_one_process(tmp_path, local_ray):
    clips = write_clip_folder(tmp_path / 'clips')
    found = []
    for more in ([], ['--cluster', 'local']):
        out = tmp_path / f'out{len(found)}'
        arguments = ['--clips', str(clips), '--engine', 'constant_velocity', '--out', str(out)]
        assert main([*arguments, *more]) == 0
        found.append(sorted(without_times(read_record(out)), key=lambda line: line['clip']))
    assert found[0] == found[1] and len(found[0]) == 4


def make_engine():
    return ConstantVelocityEngine(SamplingOptions(num_samples=2))


def begin_and_die_once(marker, begin):
    """Begin a worker that ends its process in the middle of the first item after the marker."""
    perform = begin()

    def replay_or_die(item):
        if item.name == 'north/1' and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return perform(item)

    return replay_or_die


def test_a_killed_worker_changes_no_figure(fleet, rig, tmp_path, whole, local_ray):
    run = json.loads((whole / 'run.json').read_text())
    record = Dataset(tmp_path / 'out', lambda engine: run)
    record.claim(resume=False)
    begin = functools.partial(begin_replays, make_engine, load_rig(str(rig)), SCHEDULE, 0)
    begin = functools.partial(begin_and_die_once, tmp_path / 'marker', begin)
    with start_workers(begin, Cluster('local', 2)) as workers:
        for outcome in workers.run(find_bags([fleet])):
            record.take(outcome)
    assert (tmp_path / 'marker').exists()
    dataset_results.rebuild_dataset(record, load_rig(str(rig)), {})
    assert read_figures(tmp_path / 'out') == read_figures(whole)


def test_a_stopped_run_goes_on_and_tries_again_what_failed(fleet, rig, tmp_path, whole, capsys):
    out = tmp_path / 'out'
    shutil.copytree(whole, out)
    rows = (out / 'items.jsonl').read_text().splitlines(keepends=True)
    (out / 'items.jsonl').write_text(''.join(rows[:4]) + rows[4][:50])
    with (out / 'results.jsonl').open('r+b') as file:
        file.truncate(json.loads(rows[3])['end_byte'] + 99)  # in a line of the fifth item
    assert replay(rig, out, fleet, '--resume') == 0
    assert read_figures(out) == read_figures(whole)
    names = [json.loads(x)['name'] for x in (out / 'items.jsonl').read_text().splitlines()]
    assert len(read_record(out)) == len(read_record(whole))  # whole lines, and none of them twice
    assert names[4:] == ['south/blind', 'south/faulty'] and names.count('south/blind') == 2
    assert '3/5' in capsys.readouterr().err


def test_another_run_is_not_resumed(fleet, rig, tmp_path, whole, capsys):
    assert replay(rig, whole, fleet, '--resume', '--seed', 3) == 2
    assert 'made with parameters seed=0, not 3' in capsys.readouterr().err


def test_a_worker_with_another_checkpoint_is_refused(tmp_path, whole):
    run = json.loads((whole / 'run.json').read_text())
    describe = lambda engine: {**run, 'engine': engine.provenance()}  # noqa: E731
    record = Dataset(tmp_path / 'out', describe)
    record.claim(resume=False)
    record.take(Outcome(BagItem('a', tmp_path), BagResult({'checkpoint_sha256': '1'})))
    with pytest.raises(BadInput, match="engine checkpoint_sha256='1', not '2'"):
        record.take(Outcome(BagItem('b', tmp_path), BagResult({'checkpoint_sha256': '2'})))


def test_an_item_that_no_worker_has_lived_to_replay_is_a_row(tmp_path, whole):
    record = Dataset(tmp_path / 'out', lambda engine: json.loads((whole / 'run.json').read_text()))
    record.claim(resume=False)
    row = record.take(Outcome(BagItem('a', tmp_path), None, '3 workers were lost with it: x'))
    assert (row['name'], row['anchors']) == ('a', 0)
    assert row['detail'] == '3 workers were lost with it: x'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--t0', '5'], '--t0 5: expected one bag alone'),
        (['--span', '0'], '--span 0.0: expected more than 0'),
        (['--cluster', 'slurm'], 'cluster slurm: expected local or ray://HOST'),
        (['--cluster', 'local', '--device', 'cuda:1'], 'cuda:1: expected cuda: Ray gives'),
        (['nowhere'], 'nowhere: no such bag'),
        (['--list', 'nowhere'], 'nowhere: no such file'),
        (['--against', 'nowhere'], '--against nowhere: no items.jsonl, expected a dataset'),
        (['--split', 'test'], '--split and --to-bag go with --clips'),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(fleet, rig, tmp_path, capsys, arguments, message):
    assert replay(rig, tmp_path / 'out', fleet, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / 'out').exists()


def test_a_folder_without_a_bag_is_one_line(rig, tmp_path, capsys):
    (tmp_path / 'empty/inside').mkdir(parents=True)
    assert replay(rig, tmp_path / 'out', tmp_path / 'empty') == 2
    assert 'empty: no bag in it, expected folders with metadata.yaml' in capsys.readouterr().err


def test_the_report_opens_with_the_worst_and_leads_to_its_own_report(whole):
    page = (whole / 'report.html').read_text()
    rows = read_rows(whole)
    worst = max(rows.values(), key=lambda row: row['worst_ade_m'] or 0)
    assert page.index('The worst items') < page.index('All items')
    link = re.search(r'<h3 class="table-title"><a href="([^"]+)">([^<]+)</a>', page)
    assert link.groups() == (f'items/{worst["name"]}/report.html', worst['name'])
    assert (whole / link[1]).is_file()
    assert not re.findall(r'<script src|(?:src|href)="(?!data:|items/)', page)


def test_reports_come_in_any_order_and_a_lost_one_is_a_remark(rig, tmp_path, whole, monkeypatch):
    monkeypatch.setattr(dataset_results, 'MAX_REPORTS', 3)
    shutil.copytree(whole, tmp_path / 'out')
    found = []

    def make(items):
        for item in reversed(list(items)):
            page = ItemReport({'report.html': b'page'}, detail='of this worker')
            report = page if found else None
            found.append(item.row['name'])
            yield Outcome(item, report, '' if report else 'workers were lost')

    record = Dataset(tmp_path / 'out', lambda engine: engine)
    dataset_results.rebuild_dataset(record, load_rig(str(rig)), {}, None, make)
    page = (tmp_path / 'out/report.html').read_text()
    places = [page.index(f'>{name}<') for name in reversed(found)]
    assert len(found) == 3 and places == sorted(places)
    assert page.count('workers were lost') == 1 and page.count('of this worker') == 2
    written = [x.parent.relative_to(tmp_path / 'out/items').as_posix() for x in
               (tmp_path / 'out/items').glob('*/*/report.html')]  # fmt: skip
    assert sorted(written) == sorted(found[1:])


def test_names_in_the_report_are_escaped(whole):
    summary = json.loads((whole / 'summary.json').read_text())
    row = {**Dataset(whole, lambda x: x).read_rows()[0], 'name': '</script><b>x'}
    page = render(summary, [row], [WorstCase(row, '', None, '<i>gone')], {})
    assert '<b>x' not in page and '<i>gone' not in page
    table = re.search(r'rows = (\[.*\]), sortColumn', page)[1]
    assert json.loads(table)[0][1] == '</script><b>x'


def test_a_rebuild_does_not_hold_the_lines_of_all_items(tmp_path, whole, monkeypatch):
    run = json.loads((whole / 'run.json').read_text())
    record = Dataset(tmp_path / 'out', lambda engine: run)
    record.claim(resume=False)
    line = next(x for x in read_record(whole) if x['status'] == 'ok')
    lines = [{**line, 't0_ns': k} for k in range(8)]
    for number in range(150):
        record.take(Outcome(BagItem(f'{number:04d}', tmp_path / 'gone'), BagResult({}, lines)))
    monkeypatch.setattr(dataset_results, 'BATCH', 50)
    tracemalloc.start()
    dataset_results.rebuild_dataset(record, None, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.7 * record.path.stat().st_size


def test_a_comparison_opens_with_the_largest_regression(rig, tmp_path, whole, capsys):
    changed, earlier = tmp_path / 'changed', Dataset(whole, lambda engine: engine)
    shutil.copytree(whole, changed)
    rows = [json.loads(x) for x in (changed / 'items.jsonl').read_text().splitlines()]
    for row in rows:
        row['ade_m'] = row['ade_m'] and row['ade_m'] + {'north/1': 0.5}.get(row['name'], -0.1)
    (changed / 'items.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    record = Dataset(changed, lambda engine: engine)
    summary = dataset_results.rebuild_dataset(record, load_rig(str(rig)), {}, earlier)
    assert summary['against'] == {
        'folder': 'out', 'metric': 'ade_m', 'pairs': 4, 'worse': 1, 'low_m': None, 'high_m': None,
        'mean_change_m': pytest.approx((0.5 - 0.3) / 4),
    }  # fmt: skip
    page = (changed / 'report.html').read_text()
    assert 'Against out: 4 in both, mean ADE +0.050 m, 1 worse.' in page
    assert 'Change of ADE' in page
    found = re.search(r'rows = (\[.*\]), sortColumn = (\d+)', page)
    cells = {row[1]: row[1 + int(found[2])] for row in json.loads(found[1])}
    assert cells['north/1'] == 0.5 and cells['south/blind'] is None


def read_record(out):
    return [json.loads(x) for x in (out / 'results.jsonl').read_text().splitlines()]
