"""rclpy.subscription: messages of one topic in. Knows no node object and no executor."""

from collections.abc import Callable
import inspect
from typing import Any

from rosbags.serde import SerdeError

from rosless.logging import Logger
from rosless.messages import deserialize
from rosless.participant import Reader
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
        self._reader = reader
        self._logger = logger
        self.msg_type = msg_type
        self.topic = topic
        self.topic_name = topic
        self.callback = callback
        self.callback_group = callback_group
        self.qos_profile = qos_profile
        self.raw = raw
        self.condition = reader.condition
        self.event_handlers: list[Any] = []
        self._with_info = _takes_two(callback)

    def ready(self) -> bool:
        """Whether a message waits."""
        return self._reader.ready()

    def take(self) -> Callable[[], Any] | None:
        """Next call of the callback, None if there is no message."""
        sample = self._reader.take()
        if sample is None:
            return None
        if self.raw:
            message = sample.data
        else:
            try:
                message = deserialize(sample.data, self.msg_type._type)  # type: ignore[attr-defined]
            except SerdeError as error:
                self._logger.error(f'dropped a message of {self.topic}: {error}')
                return None
        if not self._with_info:
            return lambda: self.callback(message)
        info = {'source_timestamp': sample.sample_info.source_timestamp}
        return lambda: self.callback(message, info)

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
