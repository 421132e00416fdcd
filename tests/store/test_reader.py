"""Objects as seekable files."""

from __future__ import annotations

import io

import pytest

from render_farm.errors import NotFound, Unavailable
from render_farm.store.memory import MemoryStore
from render_farm.store.reader import StoreFile


class CountingStore(MemoryStore):
    """Counts the requests for ranges."""

    requests = 0

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.requests += 1
        return super().get_range(key, start, length)


DATA = bytes(range(256)) * 8


@pytest.fixture
def store() -> CountingStore:
    store = CountingStore()
    store.put("x", DATA)
    return store


def test_it_reads_as_a_local_file_does(store: CountingStore) -> None:
    ours, plain = StoreFile(store, "x", read_ahead_bytes=100), io.BytesIO(DATA)
    steps = [(0, 0), (5, 0), (300, 0), (-7, 2), (-20, 1), (5000, 0), (100, 0), (99, 0), (0, 2)]
    for offset, whence in steps:
        assert ours.seek(offset, whence) == plain.seek(offset, whence)
        for size in (0, 3, 150, 1):
            assert ours.read(size) == plain.read(size)
            assert ours.tell() == plain.tell()
    ours.seek(17)
    assert ours.read() == ours.read(0) + DATA[17:]
    assert ours.read() == b""
    with pytest.raises(ValueError, match="negative"):
        ours.seek(-1)


def test_small_neighbouring_reads_cost_one_request(store: CountingStore) -> None:
    file = StoreFile(store, "x", read_ahead_bytes=1000)
    assert b"".join(file.read(10) for _ in range(100)) == DATA[:1000]
    assert store.requests == 1


def test_a_missing_object_is_not_found_at_once(store: CountingStore) -> None:
    with pytest.raises(NotFound):
        StoreFile(store, "none")


def test_an_object_that_became_shorter_is_no_silent_end(store: CountingStore) -> None:
    file = StoreFile(store, "x")
    store.put("x", DATA[:100])
    with pytest.raises(Unavailable, match="shorter"):
        file.read()
