"""The memory limit of a container or service: what Linux control groups leave to this process.

A control group that reaches its limit has one of its processes killed, even where the machine has
memory left. Reads version 2 and version 1; knows no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path('/sys/fs/cgroup')
MEMBERSHIP = Path('/proc/self/cgroup')
# of each version: folder below ROOT, files of limit and usage, prefix of the lines of memory.stat
_VERSIONS = {
    2: ('', 'memory.max', 'memory.current', ''),
    1: ('memory', 'memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_'),
}
_RECLAIMABLE = ('inactive_file', 'active_file')  # page cache, which the kernel drops on demand


def read_remaining_bytes() -> int | None:
    """Read how much memory the limits of all enclosing groups leave; None without a limit."""
    remaining = [
        room for folder, version in _list_groups() for room in _read_room(folder, version)
    ]
    return max(min(remaining), 0) if remaining else None


def _list_groups() -> Iterator[tuple[Path, int]]:
    """Yield folder and version of this process's memory groups and of those around them."""
    try:
        lines = MEMBERSHIP.read_text(encoding='utf-8').splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(':', 2)
        if controllers not in ('', 'memory') and 'memory' not in controllers.split(','):
            continue
        version = 1 if controllers else 2
        top = ROOT / _VERSIONS[version][0]
        group = top / path.lstrip('/')
        # inside a container the path can be that of the host: then the top is the own group
        yield from (
            (folder, version) for folder in (group, *group.parents) if top in folder.parents
        )
        yield top, version


def _read_room(folder: Path, version: int) -> Iterator[int]:
    """Yield what the limit of one group leaves, if it has a limit."""
    _, limit_file, usage_file, prefix = _VERSIONS[version]
    try:
        limit = (folder / limit_file).read_text(encoding='utf-8').strip()
        usage = int((folder / usage_file).read_text(encoding='utf-8'))
        lines = (folder / 'memory.stat').read_text(encoding='utf-8').splitlines()
    except (OSError, ValueError):
        return
    if limit == 'max' or int(limit) >= 1 << 60:  # version 1 writes "no limit" as a huge number
        return
    stat = dict(line.split(' ', 1) for line in lines)
    cache = sum(int(stat.get(prefix + name, 0)) for name in _RECLAIMABLE)
    yield int(limit) - (usage - cache)
