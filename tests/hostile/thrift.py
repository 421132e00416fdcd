"""As much of Thrift's compact protocol as it takes to put one number in the place of another."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Token:
    """A part of a compact Thrift message: a number, a length, a header of a list or a field."""

    kind: str
    start: int
    end: int


STRUCT = 12
ODD_NUMBERS = (0, 1, 2, 3, 4, 5, 7, 9, 13, 255, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**33, 2**62)


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins here and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def struct_tokens(data: bytes, start: int) -> tuple[list[Token], int]:
    """The parts of the struct that begins here, those of structs in it too, and where it ends."""
    found: list[Token] = []
    return found, _walk(data, start, STRUCT, found)


def _walk(data: bytes, at: int, kind: int, found: list[Token]) -> int:
    """Note the parts of one value of a compact Thrift type; returns where it ends."""
    if kind in {4, 5, 6}:  # numbers
        _, end = varint(data, at)
        found.append(Token("number", at, end))
        return end
    if kind in {3, 7}:  # a byte, a double
        return at + {3: 1, 7: 8}[kind]
    if kind == 8:  # bytes
        length, end = varint(data, at)
        found.append(Token("length", at, end))
        return end + length
    if kind in {9, 10}:  # a list
        count, end, start = data[at] >> 4, at + 1, at
        if count == 15:
            count, end = varint(data, at + 1)
        found.append(Token("list", start, end))
        for _ in range(count):
            end = _walk(data, end, data[start] & 15, found)
        return end
    if kind == STRUCT:
        while data[at]:
            start, kind_of_field = at, data[at] & 15
            at += 1
            if not data[start] >> 4:
                _, at = varint(data, at)
            found.append(Token("field", start, at))
            at = _walk(data, at, kind_of_field, found)
        return at + 1
    return at  # a bool, which its field's header holds


def replacement(data: bytes, token: Token, chance: Random) -> bytes:
    """Other bytes for a part: zigzag numbers near and far, other lengths, lists, field types."""
    if token.kind == "number":
        value, _ = varint(data, token.start)
        near = [value ^ 2, value + 2, max(0, value - 2), value ^ 1, value * 2]
        far = [2 * number - (number > 0 and chance.random() < 0.3) for number in ODD_NUMBERS]
        return as_varint(chance.choice(near + far) % 2**64)
    if token.kind == "length":
        return as_varint(chance.choice([0, 1, 5, 2**20, 2**31 - 1, 2**32 - 1]))
    if token.kind == "list":
        kind = data[token.start] & 15
        if chance.random() < 0.5:
            return bytes([0xF0 | kind]) + as_varint(chance.choice([15, 10**6, 2**31 - 1]))
        return bytes([chance.randrange(16) << 4 | kind])
    header = data[token.start]
    other = chance.choice([header & 0xF0 | chance.randrange(16), chance.randrange(256)])
    return bytes([other]) + data[token.start + 1 : token.end]
