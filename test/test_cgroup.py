"""Memory limits of control groups: both versions, nested groups, page cache."""

import pytest

from alpamayo_ros.runtime import cgroup, memory

GB = 10**9


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Return a function that writes a group's files, and the file of the membership."""
    monkeypatch.setattr(cgroup, 'ROOT', tmp_path / 'fs')
    monkeypatch.setattr(cgroup, 'MEMBERSHIP', tmp_path / 'membership')

    def write(folder, limit, usage, cache, version=2):
        names = ('max', 'current') if version == 2 else ('limit_in_bytes', 'usage_in_bytes')
        place = tmp_path / 'fs' / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, value in zip(names, (limit, usage), strict=True):
            (place / f'memory.{name}').write_text(f'{value}\n')
        prefix = '' if version == 2 else 'total_'
        text = f'anon 5\n{prefix}inactive_file {cache}\n{prefix}active_file 0\n'
        (place / 'memory.stat').write_text(text)

    return write, tmp_path / 'membership'


def test_page_cache_counts_as_free(groups):
    write, membership = groups
    membership.write_text('0::/docker/abc\n')
    write('docker/abc', 4 * GB, 3 * GB, 2 * GB)
    assert cgroup.read_remaining_bytes() == 3 * GB


def test_the_tightest_group_around_this_process_counts(groups):
    write, membership = groups
    membership.write_text('0::/system.slice/node.service\n')
    write('system.slice/node.service', 'max', GB, 0)
    write('system.slice', 2 * GB, GB, 0)
    write('', 8 * GB, GB, 0)
    assert cgroup.read_remaining_bytes() == GB


def test_inside_a_container_the_own_group_is_the_top(groups):
    write, membership = groups
    membership.write_text('0::/docker/known-to-the-host-only\n')
    write('', 2 * GB, GB, 0)
    assert cgroup.read_remaining_bytes() == GB


def test_version_1_and_its_number_for_no_limit(groups):
    write, membership = groups
    membership.write_text('9:cpu,cpuacct:/x\n4:memory:/job\n')
    write('memory', 9223372036854771712, GB, 0, version=1)
    assert cgroup.read_remaining_bytes() is None
    write('memory/job', 3 * GB, 2 * GB, GB, version=1)
    assert cgroup.read_remaining_bytes() == 2 * GB


def test_without_groups_there_is_no_limit(groups):
    assert cgroup.read_remaining_bytes() is None


def test_a_load_sees_the_smaller_of_machine_and_container(groups, monkeypatch):
    monkeypatch.setattr(memory, '_kilobytes', lambda path, key: 5 * 10**6)
    for remaining, want in ((None, 5_120_000_000), (3 * GB, 3 * GB), (9 * GB, 5_120_000_000)):
        monkeypatch.setattr(cgroup, 'read_remaining_bytes', lambda found=remaining: found)
        assert memory.read_available_bytes('cpu') == want
