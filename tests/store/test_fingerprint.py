"""ETags, held against the bytes."""

from __future__ import annotations

import hashlib

import pytest

from render_farm.store.fingerprint import MIB, Fingerprint

DATA = bytes(range(256)) * 4096 * 45  # 45 MiB


def etag_of_parts(data: bytes, part_bytes: int) -> str:
    parts = [data[at : at + part_bytes] for at in range(0, len(data), part_bytes)]
    digests = b"".join(hashlib.md5(part).digest() for part in parts)
    return f'"{hashlib.md5(digests).hexdigest()}-{len(parts)}"'


def agrees(etag: str, data: bytes, block: int = 700_001) -> bool:
    fingerprint = Fingerprint(etag, len(data))
    for at in range(0, len(data), block):
        fingerprint.update(data[at : at + block])
    assert fingerprint.digest() == hashlib.md5(data).digest()
    return fingerprint.agrees()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_the_etag_of_an_object_written_at_once_is_its_md5() -> None:
    etag = f'"{hashlib.md5(b"bytes").hexdigest()}"'
    assert agrees(etag, b"bytes")
    assert agrees(etag.strip('"'), b"bytes")
    assert not agrees(etag, b"bytez")
    assert agrees(f'"{hashlib.md5(b"").hexdigest()}"', b"")


@pytest.mark.parametrize("part_mib", [5, 8, 15, 16, 23, 45, 64])
def test_the_usual_sizes_of_parts_are_found(part_mib: int) -> None:
    etag = etag_of_parts(DATA, part_mib * MIB)
    assert agrees(etag, DATA)
    assert not agrees(etag, flipped(DATA, len(DATA) - 1))


def test_parts_that_end_with_the_object_are_found() -> None:
    data = DATA[: 16 * MIB]
    assert agrees(etag_of_parts(data, 8 * MIB), data)


def test_an_etag_that_says_nothing_never_agrees() -> None:
    odd_parts = etag_of_parts(DATA, 5 * MIB + 1)
    for etag in ("", '"abc"', "W/x", f'"{"0" * 32}"', f'"{"0" * 32}-99999"', odd_parts):
        assert not agrees(etag, DATA)
