"""An object as a seekable file, for libraries that read here and there."""

from __future__ import annotations

import io

from render_farm.errors import Unavailable
from render_farm.store.base import Store

READ_AHEAD_BYTES = 1 << 20


class StoreFile(io.RawIOBase):
    """A read-only file over `Store.get_range`, so that `pyarrow.parquet` reads from any store.

    A read fetches at least `read_ahead_bytes`, so small neighbouring reads cost one request.
    Holds one such piece in memory. Not safe among threads.

    Raises:
        NotFound: there is no object under the key.
        Unavailable: on reading, when the object has become shorter meanwhile.
    """

    def __init__(self, store: Store, key: str, *, read_ahead_bytes: int = READ_AHEAD_BYTES) -> None:
        self._store = store
        self._key = key
        self._read_ahead_bytes = read_ahead_bytes
        self._size_bytes = store.head(key).size_bytes
        self._position = 0
        self._piece = b""
        self._piece_start = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position in a file: {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview | bytearray, /) -> int:  # type: ignore[override]
        data = self._bytes(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:
        data = self._bytes(self._position, max(0, self._size_bytes - self._position))
        self._position += len(data)
        return data

    def _bytes(self, start: int, length: int) -> bytes:
        """The bytes from `start`, `length` of them unless the object ends before."""
        length = min(length, self._size_bytes - start)
        if length <= 0:
            return b""
        inside = start - self._piece_start
        if inside < 0 or inside + length > len(self._piece):
            wanted = min(max(length, self._read_ahead_bytes), self._size_bytes - start)
            self._piece = self._store.get_range(self._key, start, wanted)
            self._piece_start, inside = start, 0
            if len(self._piece) < wanted:
                why = "the object became shorter while it was read; read it again"
                raise Unavailable(self._store.uri, self._key, why)
        return self._piece[inside : inside + length]
