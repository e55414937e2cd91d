"""rclpy.signals: SIGINT and SIGTERM end every context and wake its executors.

Python runs a signal handler only between two of its own instructions, never while the main
thread waits inside DDS. The byte that the interpreter writes to the wake-up pipe lets a small
thread end that wait.
"""

from enum import IntFlag
from functools import partial
import os
import signal
import threading

from rosless.context import list_started_contexts
from rosless.held_signals import is_put_off


class SignalHandlerOptions(IntFlag):
    """Which signals rclpy handles."""

    NO = 0
    SIGINT = 1
    SIGTERM = 2
    ALL = 3


_SIGNALS = {
    SignalHandlerOptions.SIGINT: signal.SIGINT,
    SignalHandlerOptions.SIGTERM: signal.SIGTERM,
}
_previous: dict[int, object] = {}  # signal number -> handler that was replaced
_wake_up: list[int] = []  # previous wake-up descriptor, and both ends of our pipe


def install_signal_handlers(
    options: SignalHandlerOptions = SignalHandlerOptions.ALL,
) -> None:
    """Replace the handlers of the chosen signals.

    Raises:
        ValueError: this is not the main thread; choose SignalHandlerOptions.NO there.
    """
    chosen = [number for option, number in _SIGNALS.items() if option & options]
    if chosen and not _wake_up:
        receiving, sending = os.pipe()
        os.set_blocking(sending, False)
        previous = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
        _wake_up.extend((previous, receiving, sending))
        threading.Thread(target=_wake_executors, args=(receiving,), daemon=True).start()
    for number in chosen:
        if number not in _previous:
            _previous[number] = signal.signal(number, _on_signal)


def uninstall_signal_handlers() -> None:
    """Put back what `install_signal_handlers` replaced."""
    while _previous:
        number, handler = _previous.popitem()
        signal.signal(number, handler)  # type: ignore[arg-type]
    if _wake_up:
        previous, _, sending = _wake_up
        _wake_up.clear()
        signal.set_wakeup_fd(previous)
        os.close(sending)  # ends the thread


def get_current_signal_handlers_options() -> SignalHandlerOptions:
    """Signals that are handled now."""
    options = SignalHandlerOptions.NO
    for option, number in _SIGNALS.items():
        if number in _previous:
            options |= option
    return options


def _on_signal(number, frame) -> None:
    if is_put_off(partial(_on_signal, number, frame)):
        return
    previous = _previous[number]
    for context in list_started_contexts():
        context.interrupt()
    # Python's own SIGINT handler raises KeyboardInterrupt; an ignored SIGINT raises nothing
    if callable(previous):
        previous(number, frame)


def _wake_executors(receiving: int) -> None:
    with os.fdopen(receiving, 'rb', buffering=0) as pipe:
        while pipe.read(64):
            for context in list_started_contexts():
                context.wake()
