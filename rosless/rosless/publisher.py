"""rclpy.publisher: sends messages of one topic. Knows no node object and no executor."""

from typing import Any

from cyclonedds.core import DDSException
from cyclonedds.internal import dds_infinity

from rosless.context import Context
from rosless.duration import Duration
from rosless.endpoints import Writer
from rosless.messages import serialize
from rosless.qos import QoSProfile
from rosless.rcl_error import RCLError


class Publisher:
    """Made by Node.create_publisher."""

    def __init__(
        self, context: Context, writer: Writer, msg_type: Any, topic: str, qos_profile: QoSProfile
    ):
        self._context, self._writer = context, writer
        self.msg_type = msg_type
        self.topic = self.topic_name = topic
        self.qos_profile = qos_profile
        self.event_handlers: list[Any] = []

    def publish(self, msg: Any) -> None:
        """Send a message, or the CDR bytes of one with their encapsulation header.

        Raises:
            TypeError: it is neither bytes nor a message of this topic's type.
            InvalidHandle: the publisher was destroyed.
            RCLError: the context was shut down, or DDS refused the sample.
        """
        if not isinstance(msg, self.msg_type | bytes):
            raise TypeError(f'Expected {self.msg_type}, got {type(msg)}')
        if not self._context.ok():
            raise RCLError("Failed to publish: publisher's context is invalid")
        self._writer.write(msg if isinstance(msg, bytes) else serialize(msg))

    def get_subscription_count(self) -> int:
        """Number of matched subscriptions."""
        return len(self._writer.dds.get_matched_subscriptions())

    def wait_for_all_acked(self, timeout: Duration | None = None) -> bool:
        """Whether all reliable subscriptions acknowledged everything within the time."""
        limit_ns = dds_infinity if timeout is None else timeout.nanoseconds
        # the binding's own method fails at the time-out: it asks Exception for the code
        code = self._writer.dds._wait_for_acks(self._writer.dds._ref, limit_ns)
        if code not in (DDSException.DDS_RETCODE_OK, DDSException.DDS_RETCODE_TIMEOUT):
            raise RCLError(str(DDSException(code)))
        return code == DDSException.DDS_RETCODE_OK
