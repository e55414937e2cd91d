"""Work items for the tests of the workers; Ray's processes import them from here."""

import functools
import os
from pathlib import Path
import signal


def begin_squares(folder):
    """Begin a worker that leaves its process id in a folder; an item is a number."""
    (Path(folder) / f'begun-{os.getpid()}').touch()
    return functools.partial(square, Path(folder))


def square(folder, item):
    """Return the square of an item; `items` notes who worked on it.

    A negative item ends its process at the first try, an item above 100 at every try, and item 99
    is an error.
    """
    with (folder / 'items').open('a') as file:
        file.write(f'{item} {os.getpid()}\n')
    tries = (folder / 'items').read_text().split('\n')
    is_first = sum(line.startswith(f'{item} ') for line in tries) == 1
    if item > 100 or (item < 0 and is_first):
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 99:
        raise ValueError('item 99')
    return item * item


def begin_and_die():
    """Begin no worker: its process ends."""
    os.kill(os.getpid(), signal.SIGKILL)
