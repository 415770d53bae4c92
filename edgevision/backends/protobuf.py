"""Protobuf's wire format, read and written without a schema: enough to look into an ONNX file and to change it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgevision.errors import SessionError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Field = tuple[int, int, bytes | int]
"""Field number, wire type, and the number of a VARINT or the content of all others."""


def fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Field number, wire type and value range of each field of one message in data[position:end].

    Raises:
        SessionError: it is not a protobuf message.
    """
    while position < end:
        tag, position = varint(data, position, end)
        tag &= 0xFFFFFFFF  # as protobuf reads it: a tag with more bits must not look like another field
        wire, first = tag & 7, position
        if wire == VARINT:
            _, position = varint(data, position, end)
        elif wire == BYTES:
            length, first = varint(data, position, end)
            position = first + length
        elif wire in (FIXED32, FIXED64):
            position += 4 if wire == FIXED32 else 8
        else:
            raise SessionError(f"the graph is not an ONNX model: wire type {wire} at byte {position}")
        if position > end:
            raise SessionError(f"the graph is cut off: a field ends at byte {position}, its message at {end}")
        yield tag >> 3, wire, first, position


def varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """The number at `position` and where the next byte after it is.

    Raises:
        SessionError: the number is cut off, or longer than 64 bits.
    """
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise SessionError(f"the graph is cut off at byte {end}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise SessionError(f"the graph is not an ONNX model: endless number at byte {position}")


def decode(data: bytes) -> list[Field]:
    """One message's fields in order.

    Raises:
        SessionError: it is not a protobuf message.
    """
    found: list[Field] = []
    for number, wire, first, last in fields(data, 0, len(data)):
        found.append((number, wire, varint(data, first, last)[0] if wire == VARINT else data[first:last]))
    return found


def encode(message: Iterable[Field]) -> bytes:
    """The message with these fields."""
    out = bytearray()
    for number, wire, value in message:
        out += _number(number << 3 | wire)
        if isinstance(value, int):
            out += _number(value)
        else:
            out += _number(len(value)) + value if wire == BYTES else value
    return bytes(out)


def integers(message: Iterable[Field], number: int) -> list[int]:
    """A repeated integer field, packed or not, as signed 64-bit numbers."""
    found: list[int] = []
    for field, _, value in message:
        if field == number and isinstance(value, int):
            found.append(value)
        elif field == number and isinstance(value, bytes):
            position = 0
            while position < len(value):
                item, position = varint(value, position, len(value))
                found.append(item)
    return [value - (1 << 64) if value >> 63 else value for value in found]


def texts(message: Iterable[Field], number: int) -> list[str]:
    """A repeated text field."""
    return [
        value.decode(errors="replace") for field, _, value in message if field == number and isinstance(value, bytes)
    ]


def text(message: Iterable[Field], number: int) -> str:
    """A text field; empty where it is missing."""
    return "".join(texts(message, number)[-1:])


def integer(message: Iterable[Field], number: int) -> int:
    """An integer field; 0 where it is missing."""
    return sum(integers(message, number)[-1:])


def _number(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
