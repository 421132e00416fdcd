"""Where encoded images wait until the files of their shard are written."""

from __future__ import annotations

import tempfile
import threading
import weakref
from pathlib import Path
from typing import IO, Final

MEMORY_BYTES: Final = 16 << 20
"""What the images of one shard may take of memory; beyond it they lie on the disk, all of them."""


class Spool:
    """Bytes under keys: in memory up to a bound and beyond it in one file without a name.

    One file and not one an image: to open a file can take longer than to encode a small picture.
    May be used by several threads at once. Nothing is left on the disk when the spool is closed,
    is forgotten, or its process dies.
    """

    def __init__(self, folder: Path, memory_bytes: int = MEMORY_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - kept open
            memory_bytes, dir=str(folder)
        )
        self._places: dict[str, tuple[int, int]] = {}  # offset, size
        self._end = 0
        self._lock = threading.Lock()
        # An attempt that is given up half-way closes nothing.
        self._finalizer = weakref.finalize(self, self._file.close)

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`."""
        with self._lock:
            self._file.seek(self._end)
            self._file.write(data)
            self._places[key] = (self._end, len(data))
            self._end += len(data)

    def get(self, key: str) -> bytes:
        """What was put under `key`. Raises: `KeyError`."""
        with self._lock:
            offset, size = self._places[key]
            self._file.seek(offset)
            return self._file.read(size)

    def close(self) -> None:
        """Let go of memory and disk; nothing can be put or got any more."""
        self._finalizer()
