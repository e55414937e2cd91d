"""Writers and readers of CDR bytes on DDS topics. Knows no node and no participant."""

import threading
from typing import Any, NamedTuple

from cyclonedds.core import (
    DDSException,
    Entity,
    InstanceState,
    ReadCondition,
    SampleState,
    ViewState,
)
from cyclonedds.internal import InvalidSample
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader

from rosless.exceptions import InvalidHandle
from rosless.held_signals import hold_signals
from rosless.rcl_error import RCLError

ANY_SAMPLE = SampleState.Any | ViewState.Any | InstanceState.Any


class DdsTopic(NamedTuple):
    """A topic of DDS. is_service: its samples begin with the ids of a request."""

    name: str
    type_name: str
    is_service: bool = False


def delete(entity: Entity) -> None:
    """Delete a DDS entity now: the binding would wait until Python collects the object."""
    entity._delete(entity._ref)


class Writer:
    """A DDS writer of CDR bytes."""

    DDS = DataWriter

    def __init__(self, dds: DataWriter):
        self.dds = dds
        self.guid: bytes = dds.guid.bytes
        self._sample = dds.data_type
        self._closed = False

    def write(self, data: bytes) -> None:
        """Send the CDR of one sample, encapsulation header included.

        Raises:
            InvalidHandle: the writer was closed.
            RCLError: the bytes are no sample of the type, or a reader that must get every
                sample took none for the maximal blocking time.
        """
        if self._closed:
            raise InvalidHandle('the publisher was destroyed')
        try:
            self.dds.write(self._sample(data))
        except DDSException as error:
            raise RCLError(f'Failed to publish: {error}') from error

    def close(self) -> None:
        """Delete the DDS writer."""
        self._closed = True
        delete(self.dds)


class Reader:
    """A DDS reader of CDR bytes, and a condition that triggers when it has some."""

    DDS = DataReader

    def __init__(self, dds: DataReader):
        self.dds = dds
        self.guid: bytes = dds.guid.bytes
        self.condition = ReadCondition(dds, ANY_SAMPLE)
        self._closed = False
        self._lock = threading.Lock()  # closing waits for a take in another thread

    def ready(self) -> bool:
        """Whether there is a sample to take."""
        return not self._closed and self.condition.triggered

    def take(self) -> Any:
        """Next sample: `.data` and `.sample_info`; None when there is none."""
        with self._lock:
            while not self._closed:
                with hold_signals():
                    samples = self.dds.take(1)
                if not samples:
                    break
                if not isinstance(samples[0], InvalidSample):
                    return samples[0]
        return None

    def close(self) -> None:
        """Delete the DDS reader with its condition."""
        with self._lock:
            self._closed = True
            delete(self.dds)
