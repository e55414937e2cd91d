"""Decodes payloads of recorded messages: CDR bytes of a known type. Knows no bag and no file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
import struct
from typing import Any

from rosbags.serde import SerdeError

from .compression import ERRORS, decompress_bytes, is_compressed
from .messages import TYPESTORE

# What rosbags raises on bytes that are not what the format promises.
PAYLOAD_ERRORS = (
    *(SerdeError, struct.error, ValueError, IndexError, AssertionError, OverflowError),
    *(KeyError, MemoryError, *ERRORS),
)


def decompress_payload(payload: bytes) -> bytes:
    """Payload as it was published; empty, which is no message, where the frame is damaged."""
    if not is_compressed(payload):
        return payload
    try:
        return decompress_bytes(payload)
    except ERRORS:
        return b''


def decode_payload(payload: bytes, type_name: str) -> Any:
    """Message in a payload; ValueError when the bytes do not hold one."""
    try:
        return TYPESTORE.deserialize_cdr(payload, type_name)
    except PAYLOAD_ERRORS as error:
        name = type_name or 'message of a known type'
        raise ValueError(f'the payload is not a {name}') from error


def find_fitting_types(payloads: Sequence[bytes], types: Collection[str]) -> list[str]:
    """Those of some types of which every payload is a message and nothing else."""
    return [name for name in types if all(_is_message(payload, name) for payload in payloads)]


def _is_message(payload: bytes, type_name: str) -> bool:
    try:
        message = TYPESTORE.deserialize_cdr(payload, type_name)
        size = len(TYPESTORE.serialize_cdr(message, type_name))
    except PAYLOAD_ERRORS:
        return False
    return abs(size - len(payload)) < 8
