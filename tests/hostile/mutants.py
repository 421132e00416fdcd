"""Ways to spoil a Parquet file: a number names a mutant, the same one on every machine.

Blind damage (bits, holes, cuts) finds what is not checked; damage that keeps the format's own
framing whole (a number of the footer or of a page header replaced by another) gets past the
checks in front and reaches the code behind them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.hostile.parquet_flavours import Flavour, flavours
from tests.hostile.thrift import replacement, struct_tokens, varint


@dataclass(frozen=True)
class Mutant:
    """A spoiled file; `in_body` says that nothing but the bodies of pages was touched."""

    flavour: str
    damage: str
    data: bytes
    in_body: bool


def mutant(seed: int) -> Mutant:
    """The mutant of this number: every flavour and every damage get their turn."""
    chance = Random(seed)
    names, kinds = list(flavours()), list(DAMAGES)
    name = names[seed % len(names)]
    kind = kinds[seed // len(names) % len(kinds)]
    flavour = flavours()[name]
    data = flavour.data
    while data == flavour.data:
        data = DAMAGES[kind](flavour, chance)
    return Mutant(name, kind, data, kind == "bits of a page's body")


# --- blind damage ---


def _flip(data: bytes, first: int, last: int, chance: Random, count: int = 1) -> bytes:
    spoiled = bytearray(data)
    for _ in range(count):
        spoiled[chance.randrange(first, last)] ^= 1 << chance.randrange(8)
    return bytes(spoiled)


def _bits_anywhere(file: Flavour, chance: Random) -> bytes:
    return _flip(file.data, 0, len(file.data), chance, chance.choice([1, 1, 2, 8, 64]))


def _bits_of_the_footer(file: Flavour, chance: Random) -> bytes:
    return _flip(file.data, file.footer, len(file.data), chance, chance.choice([1, 1, 2, 8]))


def _bits_of_a_page_header(file: Flavour, chance: Random) -> bytes:
    start = chance.choice(file.pages)
    return _flip(file.data, start, start + 24, chance, chance.choice([1, 1, 2]))


def _bits_of_a_page_body(file: Flavour, chance: Random) -> bytes:
    start = chance.choice(file.pages)
    header, body = struct_tokens(file.data, start)
    _, _, size, *_ = [token.start for token in header if token.kind == "number"]
    end = body + (varint(file.data, size)[0] >> 1)
    return _flip(file.data, body, end, chance, chance.choice([1, 3]))


def _bytes_replaced(file: Flavour, chance: Random) -> bytes:
    start = chance.randrange(len(file.data))
    piece = chance.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80" * 10, chance.randbytes(8)])
    return file.data[:start] + piece + file.data[start + len(piece) :]


def _a_hole(file: Flavour, chance: Random) -> bytes:
    start = chance.randrange(len(file.data))
    filling = chance.choice([b"\0", b"\xff"])
    length = min(chance.choice([1, 4, 16, 100, 1000]), len(file.data) - start)
    return file.data[:start] + filling * length + file.data[start + length :]


def _cut(file: Flavour, chance: Random) -> bytes:
    edges = [0, 4, 8, 12, file.footer, len(file.data) - 8, len(file.data) - 4, *file.pages]
    at = chance.choice([*edges, chance.randrange(len(file.data))])
    return file.data[: max(0, min(len(file.data) - 1, at + chance.randrange(-2, 3)))]


def _cut_before_a_whole_footer(file: Flavour, chance: Random) -> bytes:
    at = chance.choice([4, *file.pages, chance.randrange(4, file.footer)])
    length = chance.randrange(1, 60)
    return file.data[:at] + file.data[min(file.footer, at + length) :]


def _bytes_put_in(file: Flavour, chance: Random) -> bytes:
    at = chance.choice([*file.pages, chance.randrange(len(file.data))])
    return file.data[:at] + chance.randbytes(chance.randrange(1, 9)) + file.data[at:]


# --- parts in the wrong place ---


def _a_page_elsewhere(file: Flavour, chance: Random) -> bytes:
    donor = chance.choice([file, *flavours().values()])
    first, last = chance.choice(donor.chunks)
    at, _ = chance.choice(file.chunks)
    piece = donor.data[first:last]
    return file.data[:at] + piece + file.data[at + len(piece) :]


def _chunks_swapped(file: Flavour, chance: Random) -> bytes:
    (a, a_end), (b, b_end) = sorted(chance.sample(file.chunks, 2))
    data = file.data
    return data[:a] + data[b:b_end] + data[a_end:b] + data[a:a_end] + data[b_end:]


def _a_footer_of_another(file: Flavour, chance: Random) -> bytes:
    donor = chance.choice(list(flavours().values()))
    return file.data[: file.footer] + donor.data[donor.footer :]


def _another_footer_length(file: Flavour, chance: Random) -> bytes:
    length = len(file.data) - 8 - file.footer
    other = chance.choice([0, 1, length - 1, length + 1, 2 * length, 2**31 - 1, 2**32 - 1])
    if chance.random() < 0.3:
        other = chance.randrange(2**32)
    return file.data[:-8] + other.to_bytes(4, "little") + file.data[-4:]


# --- damage that keeps the framing ---


def _a_number_of_the_footer(file: Flavour, chance: Random) -> bytes:
    footer = file.data[file.footer : -8]
    found, _ = struct_tokens(footer, 0)
    chosen = chance.sample(found, chance.choice([1, 1, 1, 2, 3]))
    for token in sorted(chosen, key=lambda token: token.start, reverse=True):
        footer = footer[: token.start] + replacement(footer, token, chance) + footer[token.end :]
    return _with_footer(file, footer)


def _a_number_of_a_page_header(file: Flavour, chance: Random) -> bytes:
    """A header becomes longer or shorter in the last chunk only, where nothing moves by it."""
    first, _ = max(file.chunks)
    last = [page for page in file.pages if page >= first]
    while True:
        start = chance.choice([*file.pages, *last])
        token = chance.choice(struct_tokens(file.data, start)[0])
        piece = replacement(file.data, token, chance)
        if len(piece) == token.end - token.start or start in last:
            return file.data[: token.start] + piece + file.data[token.end :]


def _a_schema_without_end(file: Flavour, chance: Random) -> bytes:
    """Structs in structs, or lists in lists, in the place of the footer's fields."""
    depth = chance.choice([10, 100, 10_000, 1_000_000])
    nest = chance.choice([b"\x1c", b"\x2c", b"\x19\x1c", b"\x29\x19", b"\x19", b"\x1b\x11\xcc"])
    at = chance.choice([0, chance.randrange(len(file.data) - 8 - file.footer)])
    footer = file.data[file.footer : -8]
    return _with_footer(file, footer[:at] + nest * depth + footer[at:])


def _bits_of_arrows_schema(file: Flavour, chance: Random) -> bytes:
    """Arrow's own schema lies in the footer as base64: spoiled inside, it is still base64."""
    mark = file.data.find(b"ARROW:schema")
    if mark < 0:
        return _bits_of_the_footer(file, chance)
    length, start = varint(file.data, mark + len(b"ARROW:schema") + 1)
    schema = bytearray(base64.b64decode(file.data[start : start + length]))
    for _ in range(chance.choice([1, 1, 2, 4])):
        at = chance.randrange(8, len(schema))
        schema[at] = chance.choice([schema[at] ^ 1 << chance.randrange(8), 0, 0xFF, 0x7F])
    return file.data[:start] + base64.b64encode(schema) + file.data[start + length :]


def _with_footer(file: Flavour, footer: bytes) -> bytes:
    return file.data[: file.footer] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


DAMAGES: dict[str, Callable[[Flavour, Random], bytes]] = {
    "bits anywhere": _bits_anywhere,
    "bits of the footer": _bits_of_the_footer,
    "bits of a page header": _bits_of_a_page_header,
    "bits of a page's body": _bits_of_a_page_body,
    "bytes replaced": _bytes_replaced,
    "a hole": _a_hole,
    "cut": _cut,
    "cut before a whole footer": _cut_before_a_whole_footer,
    "bytes put in": _bytes_put_in,
    "a page elsewhere": _a_page_elsewhere,
    "chunks swapped": _chunks_swapped,
    "a footer of another": _a_footer_of_another,
    "another footer length": _another_footer_length,
    "a number of the footer": _a_number_of_the_footer,
    "numbers of the footer": _a_number_of_the_footer,
    "a number of a page header": _a_number_of_a_page_header,
    "numbers of a page header": _a_number_of_a_page_header,
    "a schema without end": _a_schema_without_end,
    "bits of Arrow's schema": _bits_of_arrows_schema,
}
