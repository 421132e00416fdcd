"""What every store promises, tried on each of them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import pytest

from render_farm.errors import AlreadyExists, NotFound, Unknown
from render_farm.store.base import Store
from render_farm.store.memory import MemoryStore

ODD_KEYS = [
    "ä/ö ü.json",
    "a+b",
    "a%2Fb",
    "100%",
    "a b/c  d",
    "q?x=1&y#z",
    "名/字",
    "~*'()",
    "a=b,c;d",
]


def test_what_was_put_is_read_back(store: Store) -> None:
    store.put("data/x", b"bytes")
    assert store.get("data/x") == b"bytes"


def test_an_empty_object_is_an_object(store: Store) -> None:
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert store.get_range("empty", 0, 10) == b""
    assert store.head("empty").size_bytes == 0
    with store.open("empty") as stream:
        assert stream.read() == b""


def test_put_replaces(store: Store) -> None:
    store.put("x", b"first, and longer")
    store.put("x", b"second")
    assert store.get("x") == b"second"


def test_a_range_ends_where_the_object_ends(store: Store) -> None:
    store.put("x", b"0123456789")
    assert store.get_range("x", 0, 4) == b"0123"
    assert store.get_range("x", 4, 3) == b"456"
    assert store.get_range("x", 8, 100) == b"89"
    assert store.get_range("x", 10, 5) == b""
    assert store.get_range("x", 50, 5) == b""
    assert store.get_range("x", 3, 0) == b""


def test_an_object_is_streamed(store: Store) -> None:
    data = os.urandom(3 << 20)
    store.put("x", data)
    with store.open("x") as stream:
        assert stream.read(10) == data[:10]
        parts = [data[:10]]
        while part := stream.read(700_001):
            parts.append(part)
    assert b"".join(parts) == data
    assert {len(part) for part in parts[1:-1]} == {700_001}  # no short reads but the last


def test_a_missing_object_is_not_found(store: Store) -> None:
    store.put("folder/x", b"")
    for key in ("none", "folder", "folder/y", "folder/x/y"):
        for read in (store.get, store.head, lambda k: store.get_range(k, 0, 1)):
            with pytest.raises(NotFound) as caught:
                read(key)
            assert caught.value.key == key
            assert caught.value.uri == store.uri
        with pytest.raises(NotFound), store.open(key):
            pass
    with pytest.raises(NotFound):
        store.get_range("none", 0, 0)


def test_head_tells_size_and_time_by_the_stores_clock(store: Store) -> None:
    before = store.now()
    store.put("x", b"12345")
    info = store.head("x")
    assert (info.key, info.size_bytes) == ("x", 5)
    assert info.modified_at.tzinfo is not None
    # S3 tells whole seconds.
    assert before - timedelta(seconds=1) <= info.modified_at <= store.now() + timedelta(seconds=1)


def test_now_is_aware_and_about_now(store: Store) -> None:
    assert abs(store.now() - datetime.now(UTC)) < timedelta(seconds=5)


def test_create_writes_where_nothing_is_and_nowhere_else(store: Store) -> None:
    store.create("receipts/1", b"first")
    with pytest.raises(AlreadyExists) as caught:
        store.create("receipts/1", b"second")
    assert caught.value.key == "receipts/1"
    assert store.get("receipts/1") == b"first"
    store.put("put", b"first")
    with pytest.raises(AlreadyExists):
        store.create("put", b"second")
    store.delete("put")
    store.create("put", b"third")
    assert store.get("put") == b"third"


def test_of_racing_creates_exactly_one_wins(store: Store) -> None:
    rivals, keys = 8, 12
    start = Barrier(rivals)

    def race(rival: int) -> list[str]:
        won = []
        for number in range(keys):
            start.wait()
            try:
                store.create(f"race/{number}", b"%d" % rival)
            except AlreadyExists:
                continue
            except Unknown:  # a 409: allowed, never seen from moto and Ceph
                raise
            won.append(f"race/{number}")
        return won

    with ThreadPoolExecutor(rivals) as pool:
        won = list(pool.map(race, range(rivals)))
    assert sorted(key for keys in won for key in keys) == sorted(f"race/{n}" for n in range(keys))
    for rival, keys_won in enumerate(won):
        for key in keys_won:
            assert store.get(key) == b"%d" % rival


def test_a_file_is_uploaded(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"small")
    store.upload("data/x", path)
    assert store.get("data/x") == b"small"
    path.write_bytes(b"other")
    store.upload("data/x", path)
    assert store.get("data/x") == b"other"


def test_a_large_file_is_uploaded_whole(store: Store, tmp_path: Path) -> None:
    data = os.urandom(11 << 20)  # three parts on S3
    path = tmp_path / "file"
    path.write_bytes(data)
    store.upload("data/large", path)
    assert store.head("data/large").size_bytes == len(data)
    assert store.get("data/large") == data
    assert store.get_range("data/large", (5 << 20) - 3, 6) == data[(5 << 20) - 3 : (5 << 20) + 3]
    assert store.abort_uploads("") == 0


def test_a_missing_local_file_is_not_the_stores_fault(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.upload("x", tmp_path / "none")


def test_listing_is_in_bytewise_order_of_whole_keys(store: Store) -> None:
    keys = [
        "a!",
        "a-b",
        "a.b",
        "a/b/c",
        "a/b-c",
        "a0",
        "aé",
        "aa/z",
        "b",
        "B",
        "ä",
        "Ａ",
        "😀",
        "a~",
    ]
    for key in keys:
        store.put(key, key.encode())
    listed = [info.key for info in store.list()]
    assert listed == sorted(keys, key=lambda key: key.encode())
    assert {info.key: info.size_bytes for info in store.list()} == {
        k: len(k.encode()) for k in keys
    }


def test_listing_takes_any_start_of_a_key_as_prefix(store: Store) -> None:
    for key in ("data/0001/x", "data/0001/y", "data/0001-a", "data/0002", "receipts/0001", "dat"):
        store.put(key, b"")

    def listed(prefix: str) -> list[str]:
        return [info.key for info in store.list(prefix)]

    assert listed("data/0001") == ["data/0001-a", "data/0001/x", "data/0001/y"]
    assert listed("data/0001/") == ["data/0001/x", "data/0001/y"]
    assert listed("data/0001/x") == ["data/0001/x"]
    assert listed("data/") == ["data/0001-a", "data/0001/x", "data/0001/y", "data/0002"]
    assert listed("da") == ["dat", *listed("data/")]
    assert listed("none/") == []
    assert len(listed("")) == 6


def test_listing_nothing_is_empty(store: Store) -> None:
    assert list(store.list()) == []


def test_listing_tells_what_head_tells(store: Store) -> None:
    store.put("x", b"123")
    (listed,) = store.list()
    told = store.head("x")
    assert (listed.key, listed.size_bytes) == (told.key, told.size_bytes)
    assert abs(listed.modified_at - told.modified_at) < timedelta(seconds=1)


def test_listing_goes_over_many_pages(store: Store) -> None:
    # S3: pages of 7; memory and folder have none, but large folders.
    count = 1500 if "://" not in store.uri or store.uri.startswith("memory") else 24
    keys = [f"receipts/{number:06d}.json" for number in range(count)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    assert [info.key for info in store.list("receipts/")] == keys


def test_deleting_is_idempotent(store: Store) -> None:
    store.put("folder/x", b"")
    store.delete("folder/x")
    store.delete("folder/x")
    store.delete("folder/never/there")
    store.delete("folder")
    with pytest.raises(NotFound):
        store.get("folder/x")
    assert list(store.list()) == []


def test_odd_keys_are_kept_as_they_are(store: Store) -> None:
    for key in ODD_KEYS:
        store.put(key, b"put")
        assert [info.key for info in store.list()] == [key]
        assert store.get(key) == b"put"
        assert store.head(key).key == key
        with pytest.raises(AlreadyExists):
            store.create(key, b"created")
        store.delete(key)
        assert list(store.list()) == []


def test_keys_that_no_store_can_hold_are_refused(store: Store) -> None:
    for key in ("", "/abs", "../up", "a/../b", "a/./b", "a//b", "a/", "a\\b", "\0"):
        for write in (store.put, store.create):
            with pytest.raises(ValueError, match="not a key"):
                write(key, b"")
        for call in (store.get, store.head, store.delete):
            with pytest.raises(ValueError, match="not a key"):
                call(key)


def test_prefixes_that_no_key_has_are_refused(store: Store) -> None:
    for prefix in ("/", "../", "a/../", "a//", "\\"):
        with pytest.raises(ValueError, match="not a"):
            list(store.list(prefix))
        with pytest.raises(ValueError, match="not a"):
            store.abort_uploads(prefix)


def test_the_clock_of_memory_is_passed_in() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    store = MemoryStore(clock=lambda: now)
    store.put("x", b"")
    assert store.head("x").modified_at == store.now() == now
