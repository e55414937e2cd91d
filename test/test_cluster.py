"""Work items in this process and on a local Ray: equal results, lost workers, errors."""

import functools
import os
import subprocess
import sys

import pytest
from source_imports import third_party
import work_items

from alpamayo_ros.cluster.workers import Cluster, start_workers
from alpamayo_ros.errors import BadInput


def run(folder, items, address=''):
    """Outcomes by item, and the lines that the workers have left."""
    begin = functools.partial(work_items.begin_squares, folder)
    with start_workers(begin, Cluster(address, 2 if address else None)) as workers:
        outcomes = {x.item: x for x in workers.run(items)}
    return outcomes, (folder / 'items').read_text().splitlines()


def test_a_cluster_gives_what_this_process_gives(tmp_path, local_ray):
    (tmp_path / 'here').mkdir()
    here, _ = run(tmp_path / 'here', range(20))
    there, lines = run(tmp_path, range(20), 'local')
    assert there == here
    assert here[7].result == 49 and list(here) == list(range(20))
    begun = {x.name.removeprefix('begun-') for x in tmp_path.glob('begun-*')}
    assert {line.split()[1] for line in lines} <= begun
    assert len(begun) <= 2 and str(os.getpid()) not in begun


def test_a_lost_worker_costs_its_item_alone(tmp_path, local_ray):
    outcomes, lines = run(tmp_path, [1, 2, -3, 4, 5, 6], 'local')
    assert {item: x.result for item, x in outcomes.items()} == {
        1: 1, 2: 4, -3: 9, 4: 16, 5: 25, 6: 36
    }  # fmt: skip
    assert len(lines) == 7  # the lost item twice


def test_an_item_that_ends_every_worker_is_given_up(tmp_path, local_ray):
    outcomes, lines = run(tmp_path, [1, 101, 2], 'local')
    assert outcomes[101].result is None
    assert outcomes[101].lost.startswith('3 workers were lost with it: ')
    assert (outcomes[1].result, outcomes[2].result, len(lines)) == (1, 4, 5)


@pytest.mark.parametrize('address', ['', 'local'])
def test_an_error_of_an_item_comes_out(tmp_path, address, local_ray):
    with pytest.raises(ValueError, match='^item 99$'):
        run(tmp_path, [99], address)


def test_workers_that_cannot_begin_are_one_line(local_ray):
    with (
        start_workers(work_items.begin_and_die, Cluster('local', 1)) as workers,
        pytest.raises(BadInput, match='3 workers were lost before they could begin'),
    ):
        list(workers.run([1]))


def test_a_local_ray_has_the_address_of_this_machine_alone(local_ray):
    assert [node['NodeManagerAddress'] for node in local_ray.nodes()] == ['127.0.0.1']


def test_workers_have_the_priority_of_this_process(local_ray):
    read_niceness = local_ray.remote(lambda: os.nice(0))
    assert local_ray.get(read_niceness.remote()) == os.nice(0)


def test_a_local_ray_has_as_many_workers_as_the_cpus_of_this_process(local_ray, monkeypatch):
    from alpamayo_ros.cluster import ray_workers

    monkeypatch.setattr(os, 'cpu_count', lambda: 16)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {3, 5})
    assert ray_workers._count_own_cpus() == 2
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(16)))
    assert ray_workers._count_own_cpus() is None  # Ray knows limits of containers too


def test_a_cluster_without_gpus_is_one_line(local_ray):
    with (
        pytest.raises(BadInput, match='^cluster local: it has no GPU$'),
        start_workers(work_items.begin_and_die, Cluster('local', None, 'cuda')),
    ):
        pass


def test_another_address_is_refused():
    with pytest.raises(BadInput, match='cluster slurm: expected local or ray://HOST'):
        Cluster('slurm')


COMMANDS = ('cli.node', 'cli.live', 'cli.drive', 'cli.drive_server', 'cli.replay', 'cli.evaluate')
ENGINE = 'runtime.engine'


def test_nothing_imports_an_extra_before_it_is_named(root):
    script = (
        'import importlib, sys\n'
        'sys.modules["ray"] = sys.modules["carla_driver_interface"] = None\n'
        'for name in sys.argv[1:]:\n'
        '    importlib.import_module(f"alpamayo_ros.{name}")\n'
        'assert "torch._dynamo" not in sys.modules  # seconds\n'
        'from alpamayo_ros.cluster.workers import Cluster, start_workers\n'
        'with start_workers(lambda: abs, Cluster()) as workers:\n'
        '    assert [x.result for x in workers.run([-1])] == [1]\n'
        'from alpamayo_ros.errors import BadInput\n'
        'try:\n'
        '    start_workers(abs, Cluster("local")).__enter__()\n'
        'except BadInput as error:\n'
        '    assert "pip install" in str(error)\n'
        'else:\n'
        '    sys.exit("Ray was found")\n'
    )
    command = [sys.executable, '-c', script, *COMMANDS, ENGINE]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


def test_one_module_alone_imports_ray_as_it_sets_what_ray_then_reads(root, modules):
    found = [str(module) for module in modules if 'ray' in third_party(root, module)]
    assert found == ['alpamayo_ros/cluster/ray_workers.py']


def test_the_demo_installs_no_ray(root):
    text = (root / 'Makefile').read_text(encoding='utf-8')
    assert '\ndemo: $(STAMP) ' in text
    recipe = text.split('\n$(STAMP):', 1)[1].split('@touch', 1)[0]
    assert 'cluster' not in recipe
