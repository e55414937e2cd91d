"""Which names a source file imports. Shared by the tests of layers and of declarations."""

import ast
import sys

# compression joined the standard library with Python 3.14
STANDARD_LIBRARY = sys.stdlib_module_names | {'compression'}


def imported(root, module):
    """Absolute dotted names that a module, given relative to root, imports anywhere in it."""
    package = list(module.parent.parts)
    for node in ast.walk(ast.parse((root / module).read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or '').split('.')] if node.module else base
            yield from ('.'.join([*base, alias.name]) for alias in node.names)


def third_party(root, module):
    """Top-level names that a module imports from outside the package and the standard library."""
    names = {name.split('.')[0] for name in imported(root, module)}
    return names - STANDARD_LIBRARY - {'alpamayo_ros'}
