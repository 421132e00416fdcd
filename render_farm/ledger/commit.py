"""The commit: how a shard ends exactly once, whoever tries and whatever is lost on the way.

An attempt uploads its objects under keys of its own, then creates the receipt. Creating is atomic
in the store, so of all attempts, zombies and cancellers one wins. The others read that they lost,
and only then delete their own objects. An answer that was lost is never guessed at: the receipt is
read back until it is known whose it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from render_farm.ledger import keys
from render_farm.ledger.receipt import Receipt, read_receipt
from render_farm.ledger.settle import settle
from render_farm.store.base import Store

PATIENCE_S = 600.0
"""How long a commit goes on asking a store that does not answer, beside the store's own retries."""


def commit(store: Store, receipt: Receipt, patience_s: float = PATIENCE_S) -> Receipt:
    """Create the receipt and return the one in force, which may be another attempt's.

    Raises:
        Unknown, Unavailable: the store could not be asked for `patience_s`. Whether the receipt
            was written is not known, and nothing may be concluded or deleted.
        AccessDenied: the store refuses to write or to read.
        StopError: what lies under the receipt's key is no receipt.
    """
    return settle(
        store,
        keys.receipt(receipt.shard),
        receipt.to_bytes(),
        receipt,
        lambda: read_receipt(store, receipt.shard),
        patience_s,
    )


def withdraw(store: Store, written: Iterable[str], own: Receipt, winner: Receipt) -> int:
    """Delete the objects of an attempt that has read that another one won; returns how many.

    Raises:
        ValueError: `winner` is the attempt's own receipt, or of another shard; or one of the keys
            is not the attempt's. Nothing was deleted.
    """
    if winner.attempt == own.attempt or winner.shard != own.shard:
        raise ValueError(f"attempt {own.attempt} did not lose shard {own.shard}")
    doomed = tuple(written)
    for key in doomed:
        if keys.owner(key) != (own.shard, own.attempt):
            raise ValueError(f"{key} does not belong to attempt {own.attempt}")
    for key in doomed:
        store.delete(key)
    return len(doomed)
