"""rclpy.client: sends requests and takes replies. Knows no node object and no executor."""

from collections.abc import Callable
import struct
import threading
import time
from typing import Any

from rosless.context import Context
from rosless.messages import deserialize, serialize
from rosless.rcl_error import RCLError
from rosless.service import ServiceEndpoint, ServiceEnds, join_sample, split_sample
from rosless.task import Future

POLL_S = 0.01
HEADER = struct.Struct('<Qq')  # client id, sequence number


class Client(ServiceEndpoint):
    """Made by Node.create_client."""

    def __init__(self, ends: ServiceEnds, context: Context):
        super().__init__(ends)
        self._context = context
        # the binding gives the handle as a signed number
        self._id = ends.writer.dds.instance_handle & (2**64 - 1)
        self._sequence = 0
        self._pending: dict[int, Future] = {}
        self._lock = threading.Lock()

    def service_is_ready(self) -> bool:
        """Whether a server is there that would get a request and could answer it."""
        return bool(
            self._writer.dds.get_matched_subscriptions()
            and self._reader.dds.get_matched_publications()
        )

    def wait_for_service(self, timeout_sec: float | None = None) -> bool:
        """Wait until the service is ready; returns whether it is."""
        end_s = None if timeout_sec is None else time.monotonic() + timeout_sec
        while not self.service_is_ready():
            if not self._context.ok() or (end_s is not None and time.monotonic() >= end_s):
                return False
            time.sleep(POLL_S)
        return True

    def call_async(self, request) -> Future:
        """Send a request; the future gets the response while an executor spins the node.

        Raises:
            TypeError: not a request of this service.
            RCLError: the context was shut down.
        """
        if not isinstance(request, self.srv_type.Request):
            raise TypeError(f'Expected {self.srv_type.Request}, got {type(request)}')
        if not self._context.ok():
            raise RCLError('Failed to send a request: the context is invalid')
        future = Future()
        with self._lock:
            self._sequence += 1
            sequence = self._sequence
            self._pending[sequence] = future
        future.add_done_callback(self.remove_pending_request)
        self._writer.write(join_sample(HEADER.pack(self._id, sequence), serialize(request)))
        return future

    def call(self, request, timeout_sec: float | None = None) -> Any:
        """Send a request and wait while another thread spins the node; None after the time-out."""
        done = threading.Event()
        future = self.call_async(request)
        future.add_done_callback(lambda _: done.set())
        if not done.wait(timeout_sec):
            self.remove_pending_request(future)
        return future.result()

    def remove_pending_request(self, future: Future) -> None:
        """Wait no more for the response of a request."""
        with self._lock:
            self._pending = {k: f for k, f in self._pending.items() if f is not future}

    def take(self) -> Callable[[], Any] | None:
        """Completion of the request that the next reply answers, None if it is not ours."""
        sample = self._reader.take()
        if sample is None:
            return None
        header, cdr = split_sample(sample.data)
        client_id, sequence = HEADER.unpack(header)
        with self._lock:
            future = self._pending.get(sequence) if client_id == self._id else None
        if future is None:
            return None
        response = deserialize(cdr, self.srv_type.Response._type)
        return lambda: future.set_result(response)
