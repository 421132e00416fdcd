"""A local copy of an object, digested on the way."""

from __future__ import annotations

import hashlib
import logging
from typing import BinaryIO

from render_farm.errors import Damaged
from render_farm.store.base import Store

logger = logging.getLogger(__name__)

TRIES = 5
"""Tries and not time: a large object takes minutes, and each transfer is patient by itself."""
_BLOCK_BYTES = 1024 * 1024


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

    for _ in range(TRIES - 1):
        try:
            return copy()
        except Damaged as error:
            fields = {"key": key, "error": repr(error)}
            logger.warning("it arrived damaged, copying it again", extra=fields)
    return copy()
