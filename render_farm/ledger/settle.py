"""Settling what only one may create: one wins, and everybody reads who it was.

An answer that was lost is never guessed at. The object is read back until it is known whose it is,
and is created again where it is known not to be there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from render_farm.errors import AlreadyExists, StoreError, Unavailable, Unknown
from render_farm.store.base import Store
from render_farm.store.patience import patiently

log = logging.getLogger(__name__)

T = TypeVar("T")


def settle(
    store: Store,
    key: str,
    data: bytes,
    own: T,
    read: Callable[[], T | None],
    patience_s: float,
) -> T:
    """Create an object and return what is in force: `own`, or what `read` finds there.

    `read` returns None where there is nothing yet.

    Raises:
        Unknown, Unavailable: the store could not be asked for `patience_s`. Whether the object was
            written is not known, and nothing may be concluded or deleted.
        AccessDenied: the store refuses to write or to read.
    """
    return patiently(
        lambda: _create_or_read(store, key, data, own, read),
        patience_s=patience_s,
        is_transient=is_unanswered,
        operation="settle",
        key=key,
    )


def is_unanswered(error: BaseException) -> bool:
    """Whether the store did not say what became of a request."""
    return isinstance(error, Unknown | Unavailable)


def _create_or_read(store: Store, key: str, data: bytes, own: T, read: Callable[[], T | None]) -> T:
    """One round. Reading after a create is what tells our own lost answer from a rival's win."""
    unknown: StoreError | None = None
    try:
        store.create(key, data)
    except AlreadyExists:
        log.debug("exists", extra={"key": key})
    except (Unknown, Unavailable) as error:
        unknown = error
    else:
        return own
    existing = read()
    if existing is not None:
        return existing
    raise unknown or Unknown(store.uri, key, "it existed and could not be read back")
