"""Importable `rclpy` and message packages, where ROS 2 is not installed.

The finder stands last in sys.meta_path, so whatever is installed comes first: it never shadows
a real rclpy.
"""

from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
import sys
from types import ModuleType

from rosless import messages

# module of rclpy -> module of rosless whose public names it has
MODULES = {
    'rclpy': 'rosless.api',
    'rclpy.callback_groups': 'rosless.callback_groups',
    'rclpy.client': 'rosless.client',
    'rclpy.clock': 'rosless.clock',
    'rclpy.clock_type': 'rosless.time',
    'rclpy.context': 'rosless.context',
    'rclpy.duration': 'rosless.duration',
    'rclpy.event_handler': 'rosless.event_handler',
    'rclpy.exceptions': 'rosless.exceptions',
    'rclpy.executors': 'rosless.executors',
    'rclpy.logging': 'rosless.logging',
    'rclpy.node': 'rosless.node',
    'rclpy.parameter': 'rosless.parameter',
    'rclpy.publisher': 'rosless.publisher',
    'rclpy.qos': 'rosless.qos',
    'rclpy.qos_overriding_options': 'rosless.qos_overriding_options',
    'rclpy.serialization': 'rosless.serialization',
    'rclpy.service': 'rosless.service',
    'rclpy.signals': 'rosless.signals',
    'rclpy.subscription': 'rosless.subscription',
    'rclpy.task': 'rosless.task',
    'rclpy.time': 'rosless.time',
    'rclpy.timer': 'rosless.timer',
    'rclpy.utilities': 'rosless.utilities',
}


class Finder(MetaPathFinder, Loader):
    """Finds and fills the modules of rclpy and of the message packages."""

    def find_spec(self, fullname, path=None, target=None):
        """Spec of a module that rosless offers, else None."""
        if fullname in MODULES:
            return ModuleSpec(fullname, self, is_package=fullname == 'rclpy')
        package, _, kind = fullname.partition('.')
        messages_, services = messages.names(package)
        offered = {'': messages_ or services, 'msg': messages_, 'srv': services}
        if offered.get(kind):
            return ModuleSpec(fullname, self, is_package=not kind)
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module with its names."""
        name = module.__name__
        if name in MODULES:
            source = vars(import_module(MODULES[name]))
            vars(module).update({k: v for k, v in source.items() if not k.startswith('_')})
            if name == 'rclpy':  # rclpy.node and the like are there after `import rclpy`
                for submodule in MODULES:
                    import_module(submodule)
        elif name.endswith('.msg'):
            for full in messages.names(name.partition('.')[0])[0]:
                setattr(module, full.rsplit('/', 1)[1], messages.message_class(full))
        elif name.endswith('.srv'):
            for full in messages.names(name.partition('.')[0])[1]:
                setattr(module, full.rsplit('/', 1)[1], messages.service_class(full))


def install() -> str:
    """Make `rclpy` importable, unless it is; returns one line that says which one it is."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        found = find_spec('rclpy')
        if found is not None:
            return f'rosless: the installed rclpy is used: {found.origin}'
        sys.meta_path.append(Finder())
    return 'rosless: there is no ROS 2 here, rosless stands in for rclpy'
