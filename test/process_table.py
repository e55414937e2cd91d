"""Lists processes from /proc: a machine may have no procps."""

from pathlib import Path
import re
import time


def processes(pattern):
    """Numbers of the processes whose command line matches."""
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            words = (folder / 'cmdline').read_bytes().split(b'\0')
        except OSError:
            continue  # it has just ended
        if re.search(str(pattern), b' '.join(words).decode(errors='replace')):
            found.append(int(folder.name))
    return found


def is_running(pid):
    """Whether a process is there and no zombie."""
    try:
        stat = Path(f'/proc/{pid}/stat').read_text(encoding='utf-8')
    except FileNotFoundError:
        return False
    return stat.rpartition(') ')[2][0] not in 'ZX'


def wait_for_end(pid, limit_s=30.0):
    """Wait until a process has ended."""
    end_s = time.monotonic() + limit_s
    while is_running(pid):
        assert time.monotonic() < end_s, f'{pid} is still there'
        time.sleep(0.01)
