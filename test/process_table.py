"""Lists processes from /proc: a machine may have no procps."""

from pathlib import Path
import re


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
