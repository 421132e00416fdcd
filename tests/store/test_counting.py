"""A store that counts: it passes the contract, and here its counts are held against the calls."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from render_farm.errors import AlreadyExists, NotFound
from render_farm.store.base import Store
from render_farm.store.counting import KINDS, CountingStore
from render_farm.store.memory import MemoryStore


def test_every_method_of_a_store_that_asks_something_has_a_count():
    methods = {name for name in vars(Store) if not name.startswith("_")}
    assert methods - {"uri", "now"} == set(KINDS) == set(CountingStore(MemoryStore()).counts())


def test_each_kind_is_counted_as_what_it_is(tmp_path: Path):
    store = CountingStore(MemoryStore())
    (tmp_path / "file").write_bytes(b"x")
    store.put("a", b"0123")
    store.upload("b", tmp_path / "file")
    store.create("c", b"")
    for _ in range(2):
        store.get("a")
    for _ in range(3):
        store.get_range("a", 1, 2)
    with store.open("a") as stream:
        stream.read()
    store.head("a")
    list(store.list())
    store.delete("a")
    store.abort_uploads("data/")
    store.now()
    assert store.counts() == dict.fromkeys(KINDS, 1) | {"get": 2, "get_range": 3}


def test_calls_that_fail_are_counted():
    store = CountingStore(MemoryStore())
    store.create("a", b"")
    with pytest.raises(AlreadyExists):
        store.create("a", b"")
    with pytest.raises(NotFound):
        store.get("none")
    counts = store.counts()
    assert (counts["create"], counts["get"]) == (2, 1)


def test_no_count_is_lost_among_threads():
    store = CountingStore(MemoryStore())
    store.put("a", b"")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: [store.get("a") for _ in range(200)], range(40)))
    assert store.counts()["get"] == 8000


def test_counts_that_were_asked_for_do_not_go_on():
    store = CountingStore(MemoryStore())
    before = store.counts()
    store.put("a", b"")
    assert before["put"] == 0
