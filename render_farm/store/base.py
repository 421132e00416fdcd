"""The one interface to storage: bytes under keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from render_farm.errors import NotFound


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store tells of an object without reading it."""

    key: str
    size_bytes: int
    modified_at: datetime  # aware, by the store's clock


class Store(Protocol):
    """Bytes under keys below one URI.

    Keys are relative to `uri`, use ``/``, never start with it and never hold ``..``. An object
    appears whole or not at all; a reader never sees half of a write. Transient faults are
    retried inside with backoff; what is raised is final for this call.

    Raises (every method): `AccessDenied`, `Unavailable`; others are named where they occur.
    """

    @property
    def uri(self) -> str:
        """Where the store is: leads there from any working directory, never holds credentials."""
        ...

    def get(self, key: str) -> bytes:
        """The whole object. Raises: `NotFound`."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer at the end of the object. Raises: `NotFound`."""
        ...

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        """The object as a readable stream; a broken transfer is continued.

        Raises:
            NotFound: on opening.
            Damaged: on reading its end, if what was read is not what was stored.
        """
        ...

    def head(self, key: str) -> ObjectInfo:
        """Size and time of an object. Raises: `NotFound`."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing one that is there."""
        ...

    def upload(self, key: str, path: Path) -> None:
        """Write a local file as an object; large ones go in parts. Replaces one that is there."""
        ...

    def create(self, key: str, data: bytes) -> None:
        """Write an object only if there is none under the key; atomic among all writers.

        Raises:
            AlreadyExists: there is an object; after a lost answer it may be our own.
            Unknown: the request was sent and may have been applied. Read back to find out.
            Unavailable: the store refused for good and applied nothing.
            InputError: what is behind the store cannot create atomically.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in bytewise order of keys."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; it is no error if there is none."""
        ...

    def abort_uploads(self, prefix: str, wanted: Callable[[str], bool] = lambda key: True) -> int:
        """Abort unfinished uploads under `prefix` whose key is `wanted`; returns how many."""
        ...

    def now(self) -> datetime:
        """The store's clock, aware: the one that `ObjectInfo.modified_at` is written by."""
        ...


def exists(store: Store, key: str) -> bool:
    """Whether there is an object under the key."""
    try:
        store.head(key)
    except NotFound:
        return False
    return True
