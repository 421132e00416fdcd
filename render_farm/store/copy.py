"""A local copy of an object, digested on the way."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from render_farm.errors import Damaged
from render_farm.store.base import Store
from render_farm.store.patience import patiently

PATIENCE_S = 120.0
_BLOCK_BYTES = 4 * 1024 * 1024


def copy_digested(store: Store, key: str, into: BinaryIO) -> tuple[int, str]:
    """Copy an object into an open file; returns its size in bytes and its SHA-256, hexadecimal.

    What arrives damaged is copied again, from where the file stood.

    Raises: `NotFound`; `OSError` where the file cannot be written.
    """
    begin = into.tell()

    def copy() -> tuple[int, str]:
        into.seek(begin)
        into.truncate()
        digest, size = hashlib.sha256(), 0
        with store.open(key) as source:
            while block := source.read(_BLOCK_BYTES):
                digest.update(block)
                size += into.write(block)
        into.flush()
        return size, digest.hexdigest()

    return patiently(
        copy,
        patience_s=PATIENCE_S,
        is_transient=lambda error: isinstance(error, Damaged),
        operation="copy",
        key=key,
    )
