"""rclpy.serialization: messages to CDR bytes and back."""

from rosless import messages

__all__ = ['deserialize_message', 'serialize_message']


def serialize_message(message) -> bytes:
    """CDR of a message, with its encapsulation header."""
    return messages.serialize(message)


def deserialize_message(serialized_message: bytes, message_type):
    """Message of CDR bytes with their encapsulation header."""
    return messages.deserialize(serialized_message, message_type._type)
