"""Functions of the module rclpy: init, spin, shutdown and their variants."""

from rosless import utilities
from rosless.context import Context
from rosless.executors import Executor, SingleThreadedExecutor
from rosless.node import Node
from rosless.parameter import Parameter
from rosless.signals import (
    SignalHandlerOptions,
    install_signal_handlers,
    uninstall_signal_handlers,
)
from rosless.task import Future
from rosless.utilities import (
    get_default_context,
    get_rmw_implementation_identifier,
    ok,
    try_shutdown,
)

__all__ = [
    'Context',
    'Future',
    'Parameter',
    'SignalHandlerOptions',
    'create_node',
    'get_default_context',
    'get_global_executor',
    'get_rmw_implementation_identifier',
    'init',
    'install_signal_handlers',
    'ok',
    'shutdown',
    'spin',
    'spin_once',
    'spin_until_future_complete',
    'try_shutdown',
    'uninstall_signal_handlers',
]

_global_executor: list[Executor] = []


def init(
    *,
    args: list[str] | None = None,
    context: Context | None = None,
    domain_id: int | None = None,
    signal_handler_options: SignalHandlerOptions | None = None,
) -> None:
    """Begin a context, and handle SIGINT and SIGTERM if it is the default one."""
    default = context is None or context is get_default_context()
    context = get_default_context() if context is None else context
    if signal_handler_options is None:
        signal_handler_options = SignalHandlerOptions.ALL if default else SignalHandlerOptions.NO
    context.init(args, domain_id=domain_id)
    install_signal_handlers(signal_handler_options)


def shutdown(*, context: Context | None = None, uninstall_handlers: bool | None = None) -> None:
    """End a context; the handlers end with the default one unless `uninstall_handlers` forbids."""
    default = context is None or context is get_default_context()
    utilities.shutdown(context=context)
    if uninstall_handlers or (uninstall_handlers is None and default):
        uninstall_signal_handlers()


def create_node(node_name: str, **arguments) -> Node:
    """Node with the arguments of its constructor."""
    return Node(node_name, **arguments)


def get_global_executor() -> Executor:
    """Executor of the spin functions when none is given, made once per default context."""
    if not _global_executor:
        executor = SingleThreadedExecutor()
        _global_executor.append(executor)

        def forget() -> None:
            _global_executor.clear()
            executor.shutdown()

        executor.context.on_shutdown(forget)
    return _global_executor[0]


def spin(node: Node, executor: Executor | None = None) -> None:
    """Run the callbacks of a node until its context ends."""
    executor = get_global_executor() if executor is None else executor
    try:
        executor.add_node(node)
        while executor.context.ok():
            executor.spin_once()
    finally:
        executor.remove_node(node)


def spin_once(
    node: Node, *, executor: Executor | None = None, timeout_sec: float | None = None
) -> None:
    """Wait for one callback of a node and run it."""
    executor = get_global_executor() if executor is None else executor
    try:
        executor.add_node(node)
        executor.spin_once(timeout_sec=timeout_sec)
    finally:
        executor.remove_node(node)


def spin_until_future_complete(
    node: Node,
    future: Future,
    executor: Executor | None = None,
    timeout_sec: float | None = None,
) -> None:
    """Run the callbacks of a node until a future is done or the time is over."""
    executor = get_global_executor() if executor is None else executor
    added = executor.add_node(node)
    try:
        executor.spin_until_future_complete(future, timeout_sec)
    finally:
        if added:
            executor.remove_node(node)
