"""A store that counts what is asked of the one behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from render_farm.store.base import ObjectInfo, Store

KINDS = (
    "get",
    "get_range",
    "open",
    "head",
    "put",
    "upload",
    "create",
    "list",
    "delete",
    "abort_uploads",
)


class CountingStore:
    """A `Store` that passes every call on and counts it by its kind, safe among threads.

    Counted are calls, whatever comes of them: a call that fails has been made. How many requests
    one call becomes (pages of a list, parts of an upload, repeats) is its store's business. `now`
    and `uri` ask nothing of a store and are not counted.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = Lock()
        self._counts = dict.fromkeys(KINDS, 0)

    def counts(self) -> dict[str, int]:
        """Calls so far by kind, every kind among them."""
        with self._lock:
            return dict(self._counts)

    @property
    def uri(self) -> str:
        return self._store.uri

    def get(self, key: str) -> bytes:
        self._count("get")
        return self._store.get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._count("get_range")
        return self._store.get_range(key, start, length)

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        self._count("open")
        return self._store.open(key)

    def head(self, key: str) -> ObjectInfo:
        self._count("head")
        return self._store.head(key)

    def put(self, key: str, data: bytes) -> None:
        self._count("put")
        self._store.put(key, data)

    def upload(self, key: str, path: Path) -> None:
        self._count("upload")
        self._store.upload(key, path)

    def create(self, key: str, data: bytes) -> None:
        self._count("create")
        self._store.create(key, data)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._count("list")
        return self._store.list(prefix)

    def delete(self, key: str) -> None:
        self._count("delete")
        self._store.delete(key)

    def abort_uploads(self, prefix: str, wanted: Callable[[str], bool] = lambda key: True) -> int:
        self._count("abort_uploads")
        return self._store.abort_uploads(prefix, wanted)

    def now(self) -> datetime:
        return self._store.now()

    def _count(self, kind: str) -> None:
        with self._lock:
            self._counts[kind] += 1
