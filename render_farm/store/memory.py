"""Objects in memory: for tests and rehearsals within one process."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from render_farm.errors import AlreadyExists, NotFound
from render_farm.store.base import ObjectInfo
from render_farm.store.keys import checked_key, checked_prefix


@dataclass(frozen=True, slots=True)
class MemoryBucket:
    """What several `MemoryStore`s share: objects by full key, and the lock over them."""

    objects: dict[str, tuple[bytes, datetime]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)


def _wall_clock() -> datetime:
    return datetime.now(UTC)


class MemoryStore:
    """A `Store` in memory, safe among threads.

    Stores over the same `bucket` see each other's objects, each below its own `prefix`. `clock`
    gives the times of objects and must return aware times.
    """

    def __init__(
        self,
        uri: str = "memory://",
        *,
        bucket: MemoryBucket | None = None,
        prefix: str = "",
        clock: Callable[[], datetime] = _wall_clock,
    ) -> None:
        self._uri = uri
        self._bucket = bucket if bucket is not None else MemoryBucket()
        self._prefix = f"{checked_key(prefix)}/" if prefix else ""
        self._clock = clock

    @property
    def uri(self) -> str:
        return self._uri

    def get(self, key: str) -> bytes:
        return self._object(key)[0]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._object(key)[0][start : start + length]

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.get(key))

    def head(self, key: str) -> ObjectInfo:
        data, modified_at = self._object(key)
        return ObjectInfo(key, len(data), modified_at)

    def put(self, key: str, data: bytes) -> None:
        with self._bucket.lock:
            self._bucket.objects[self._full(key)] = (bytes(data), self._clock())

    def upload(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    def create(self, key: str, data: bytes) -> None:
        full = self._full(key)
        with self._bucket.lock:
            if full in self._bucket.objects:
                raise AlreadyExists(self._uri, key, "there is an object already")
            self._bucket.objects[full] = (bytes(data), self._clock())

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        wanted = self._prefix + checked_prefix(prefix)
        with self._bucket.lock:
            found = [
                ObjectInfo(full.removeprefix(self._prefix), len(data), modified_at)
                for full, (data, modified_at) in self._bucket.objects.items()
                if full.startswith(wanted)
            ]
        # Code points sort as their UTF-8 bytes do.
        yield from sorted(found, key=lambda info: info.key)

    def delete(self, key: str) -> None:
        with self._bucket.lock:
            self._bucket.objects.pop(self._full(key), None)

    def abort_uploads(self, prefix: str, wanted: Callable[[str], bool] = lambda key: True) -> int:
        """Nothing is ever left unfinished in memory: always 0."""
        checked_prefix(prefix)
        return 0

    def now(self) -> datetime:
        return self._clock()

    def _full(self, key: str) -> str:
        return self._prefix + checked_key(key)

    def _object(self, key: str) -> tuple[bytes, datetime]:
        full = self._full(key)
        with self._bucket.lock:
            try:
                return self._bucket.objects[full]
            except KeyError:
                raise NotFound(self._uri, key, "there is no such object") from None
