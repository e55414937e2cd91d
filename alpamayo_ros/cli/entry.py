"""Ends every command alike: 0 done, 1 a threshold or check missed, 2 bad input, 130 Ctrl-C."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
import sys
from typing import Protocol

from ..errors import BadInput
from ..runtime.memory import is_out_of_memory


class Main(Protocol):
    """A command: its arguments (None: those of the process) to its exit status."""

    def __call__(self, argv: list[str] | None = None) -> int:
        """Run the command."""


def command(main: Main) -> Main:
    """Turn the errors that a user can act on into one line on stderr and exit code 2."""
    name = 'alpamayo_' + Path(inspect.getfile(inspect.unwrap(main))).stem

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            return main(argv)
        except BadInput as error:
            return _fail(name, str(error))
        except OSError as error:  # disk full, permission denied: the system's words name the file
            where = f'{error.filename}: ' if error.filename else ''
            return _fail(name, f'{where}{error.strerror or error}')
        except (RuntimeError, MemoryError) as error:  # of torch, in any of its forms
            if not is_out_of_memory(error):
                raise
            text = next(iter(str(error).splitlines()), type(error).__name__)
            return _fail(name, f'out of memory: {text}')
        except KeyboardInterrupt:
            print(f'{name}: interrupted', file=sys.stderr)
            return 130

    return run


def _fail(name: str, text: str) -> int:
    print(f'{name}: error: {" ".join(text.split())}', file=sys.stderr)
    return 2
