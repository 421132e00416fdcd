"""A local copy of an object, digested on the way."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from render_farm.store.base import Store

_BLOCK_BYTES = 4 * 1024 * 1024


def copy_digested(store: Store, key: str, into: BinaryIO) -> tuple[int, str]:
    """Copy an object into an open file; returns its size in bytes and its SHA-256, hexadecimal.

    Raises: `NotFound`; `OSError` where the file cannot be written.
    """
    digest, size = hashlib.sha256(), 0
    with store.open(key) as source:
        while block := source.read(_BLOCK_BYTES):
            digest.update(block)
            size += into.write(block)
    into.flush()
    return size, digest.hexdigest()
