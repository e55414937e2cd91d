"""How every command ends: 0 done, 1 a threshold or check missed, 2 bad input, 130 Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
import functools
import sys

from ..errors import BadInput

Main = Callable[[list[str] | None], int]


def command(main: Main) -> Main:
    """Turn the errors that a user can act on into one line on stderr and exit code 2."""
    name = 'alpamayo_' + main.__module__.rpartition('.')[2]

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            return main(argv)
        except BadInput as error:
            return _fail(name, str(error))
        except OSError as error:  # disk full, permission denied: the system's words name the file
            where = f'{error.filename}: ' if error.filename else ''
            return _fail(name, f'{where}{error.strerror or error}')
        except KeyboardInterrupt:
            print(f'{name}: interrupted', file=sys.stderr)
            return 130

    return run


def _fail(name: str, text: str) -> int:
    print(f'{name}: error: {" ".join(text.split())}', file=sys.stderr)
    return 2
