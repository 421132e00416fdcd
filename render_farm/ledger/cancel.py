"""Cancelling: every shard that is still open gets a receipt that says so, and stays that way."""

from __future__ import annotations

import json
import secrets

from render_farm.errors import InputError
from render_farm.job.plan import Shard
from render_farm.ledger import keys
from render_farm.ledger.commit import PATIENCE_S, commit
from render_farm.ledger.receipt import Receipt, RowCounts
from render_farm.ledger.record import RunRecord
from render_farm.ledger.settle import settle
from render_farm.store.base import Store, exists


def is_cancelled(store: Store) -> bool:
    """Whether somebody has cancelled the run."""
    return exists(store, keys.CANCEL)


def refuse_cancelled(store: Store) -> None:
    """Raises: `InputError` if the run was cancelled."""
    if is_cancelled(store):
        raise InputError.of(
            "RUN",
            f"{store.uri} was cancelled",
            "a run that was not cancelled",
            f"cancelling is final; render-farm retry {store.uri} --cancelled renders those rows",
        )


def cancel_run(store: Store, record: RunRecord) -> int:
    """End every open shard for good; returns how many were open. Calling it again is harmless,
    and a complete run is left as it is.

    A worker in the middle of such a shard finds the receipt when it commits, and withdraws.
    """
    closed = _closed(store)
    if closed.issuperset(range(record.plan.shards)):
        return 0
    mark = json.dumps({"token": record.token}).encode()
    settle(store, keys.CANCEL, mark, True, lambda: is_cancelled(store) or None, PATIENCE_S)
    cancelled = 0
    for shard in record.make_plan():
        if shard.index not in closed:
            receipt = _receipt(shard)
            cancelled += commit(store, receipt).attempt == receipt.attempt
    return cancelled


def _closed(store: Store) -> set[int]:
    return {keys.shard_of_receipt(info.key) for info in store.list(keys.RECEIPTS)}


def _receipt(shard: Shard) -> Receipt:
    return Receipt(
        kind="cancelled",
        shard=shard.index,
        attempt=f"cancel{secrets.token_hex(6)}",
        first_row=shard.first_row,
        rows=shard.rows,
        counts=RowCounts(cancelled=shard.rows),
    )
