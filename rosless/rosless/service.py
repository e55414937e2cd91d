"""rclpy.service: takes requests and replies to them, in the convention of rmw_cyclonedds.

A body starts with the client id and the sequence number of the request, 16 bytes, which the
reply carries back unchanged. Knows no node object and no executor.
"""

from collections.abc import Callable
from dataclasses import dataclass
import inspect
import time
from typing import Any

from rosbags.serde import SerdeError

from rosless.endpoints import Reader, Writer
from rosless.logging import Logger
from rosless.messages import deserialize, serialize
from rosless.qos import QoSProfile
from rosless.wire import SERVICE_HEADER_BYTES

ENCAPSULATION_BYTES = 4
# how long a reply waits for the client's reader to be discovered, as a real server does
REPLY_READER_S = 0.1
POLL_S = 0.002


def split_sample(data: bytes) -> tuple[bytes, bytes]:
    """Service header, and the CDR of the request or reply without it."""
    body = ENCAPSULATION_BYTES + SERVICE_HEADER_BYTES
    return data[ENCAPSULATION_BYTES:body], data[:ENCAPSULATION_BYTES] + data[body:]


def join_sample(header: bytes, cdr: bytes) -> bytes:
    """Sample of a service header and the CDR of a request or reply."""
    return cdr[:ENCAPSULATION_BYTES] + header + cdr[ENCAPSULATION_BYTES:]


@dataclass(frozen=True)
class ServiceEnds:
    """What a service and a client are made from: both ends on DDS, and what rclpy shows."""

    reader: Reader
    writer: Writer
    srv_type: Any
    srv_name: str
    callback_group: Any
    qos_profile: QoSProfile


class ServiceEndpoint:
    """What a service and a client have in common."""

    def __init__(self, ends: ServiceEnds):
        self._reader, self._writer = ends.reader, ends.writer
        self.srv_type = ends.srv_type
        self.srv_name = self.service_name = ends.srv_name
        self.callback_group, self.qos_profile = ends.callback_group, ends.qos_profile
        self.condition = ends.reader.condition

    def ready(self) -> bool:
        """Whether something waits: a request, or a reply to this or another client."""
        return self._reader.ready()


class Service(ServiceEndpoint):
    """Made by Node.create_service; the callback fills and returns the response it is given."""

    def __init__(self, ends: ServiceEnds, callback: Callable, logger: Logger):
        super().__init__(ends)
        self.callback = callback
        self._logger = logger

    def take(self) -> Callable[[], Any] | None:
        """Answer to the next request, None if there is none."""
        sample = self._reader.take()
        if sample is None:
            return None
        header, cdr = split_sample(sample.data)
        try:
            request = deserialize(cdr, self.srv_type.Request._type)
        except SerdeError as error:
            self._logger.error(f'dropped a request of {self.srv_name}: {error}')
            return None
        client = sample.sample_info.publication_handle

        def answer():
            response = self.callback(request, self.srv_type.Response())
            if inspect.iscoroutine(response):
                return self._answer_later(response, header, client)
            return self._reply(response, header, client)

        return answer

    async def _answer_later(self, coroutine, header: bytes, client: int) -> None:
        self._reply(await coroutine, header, client)

    def _reply(self, response, header: bytes, client: int) -> None:
        if not isinstance(response, self.srv_type.Response):
            raise TypeError(f'the callback of {self.srv_name} returned {type(response)}')
        # a reader that is not matched yet would miss the reply
        deadline_s = time.monotonic() + REPLY_READER_S
        while not self._reply_reader_is_matched(client) and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        self._writer.write(join_sample(header, serialize(response)))

    def _reply_reader_is_matched(self, client: int) -> bool:
        requester = self._reader.dds.get_matched_publication_data(client)
        if requester is None:  # gone: nobody to wait for
            return True
        replies = self._writer.dds
        readers = (
            replies.get_matched_subscription_data(handle)
            for handle in replies.get_matched_subscriptions()
        )
        return any(r and r.participant_key == requester.participant_key for r in readers)
