"""rclpy.subscription: takes messages of one topic. Knows no node object and no executor."""

from collections.abc import Callable
import inspect
from typing import Any

from rosbags.serde import SerdeError

from rosless.endpoints import Reader
from rosless.logging import Logger
from rosless.messages import deserialize
from rosless.qos import QoSProfile


class Subscription:
    """Made by Node.create_subscription.

    The numeric arrays of a received message are read-only numpy views of the sample. With `raw`
    the callback gets CDR bytes, encapsulation header included. A callback of two arguments gets
    the message and a dict with its stamps, as in Jazzy.
    """

    def __init__(
        self,
        reader: Reader,
        msg_type: type,
        topic: str,
        callback: Callable,
        callback_group,
        qos_profile: QoSProfile,
        raw: bool,
        logger: Logger,
    ):
        self._reader, self._logger = reader, logger
        self.msg_type = msg_type
        self.topic = self.topic_name = topic
        self.callback, self.callback_group = callback, callback_group
        self.qos_profile, self.raw = qos_profile, raw
        self.condition = reader.condition
        self.event_handlers: list[Any] = []
        self._with_info = _takes_two(callback)

    def ready(self) -> bool:
        """Whether a message waits."""
        return self._reader.ready()

    def take(self) -> Callable[[], Any] | None:
        """Next call of the callback, None if there is no message."""
        taken = self.take_message(self.msg_type, self.raw)
        if taken is None:
            return None
        message, info = taken
        if not self._with_info:
            return lambda: self.callback(message)
        return lambda: self.callback(message, info)

    @property
    def handle(self) -> 'Subscription':
        """What `take_message` is called on, in a `with` statement: here the same object."""
        return self

    def __enter__(self) -> 'Subscription':
        return self

    def __exit__(self, *exception):
        pass

    def take_message(self, msg_type: type, raw: bool) -> tuple[Any, dict[str, int]] | None:
        """Next message and its stamps, without a callback; None if there is none.

        What cannot be read is dropped with an error in the log.
        """
        while (sample := self._reader.take()) is not None:
            info = {'source_timestamp': sample.sample_info.source_timestamp}
            if raw:
                return sample.data, info
            try:
                return deserialize(sample.data, msg_type._type), info  # type: ignore[attr-defined]
            except SerdeError as error:
                self._logger.error(f'dropped a message of {self.topic}: {error}')
        return None

    def get_publisher_count(self) -> int:
        """Number of matched publishers."""
        return len(self._reader.dds.get_matched_publications())


def _takes_two(callback: Callable) -> bool:
    try:
        inspect.signature(callback).bind(None, None)
    except (TypeError, ValueError):  # ValueError: a builtin that has no signature
        return False
    return not _takes_one(callback)


def _takes_one(callback: Callable) -> bool:
    try:
        inspect.signature(callback).bind(None)
    except TypeError:
        return False
    return True
