"""Run a program that imports rclpy: `python -m rosless MODULE[:FUNCTION] [ARGUMENT ...]`.

MODULE runs as `python -m MODULE` would; MODULE:FUNCTION is called as a console script would.
"""

from importlib import import_module
import os
import runpy
import sys

from rosless.importer import install

USAGE = 'usage: python -m rosless MODULE[:FUNCTION] [ARGUMENT ...]'


def main() -> None:
    """Make rclpy importable and run the program in this process."""
    if len(sys.argv) < 2 or sys.argv[1].startswith('-'):
        print(USAGE, file=sys.stderr)
        sys.exit(2)
    print(install(), file=sys.stderr)
    if sys.path[0] != os.getcwd():
        sys.path.insert(0, os.getcwd())  # as python -m does for the program
    module, mark, function = sys.argv[1].partition(':')
    sys.argv = sys.argv[1:]
    if mark:
        sys.exit(getattr(import_module(module), function)())
    runpy.run_module(module, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
    main()
