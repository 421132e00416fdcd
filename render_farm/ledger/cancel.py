"""Cancelling: every shard that is still open gets a receipt that says so, and stays that way."""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from render_farm.errors import InputError
from render_farm.job.plan import Shard
from render_farm.ledger import keys
from render_farm.ledger.commit import PATIENCE_S, commit
from render_farm.ledger.receipt import Receipt, RowCounts, closed_shards
from render_farm.ledger.record import RunRecord
from render_farm.ledger.settle import settle
from render_farm.store.base import Store, exists

WRITERS = 16


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
    closed = set(closed_shards(store, record.plan.shards))
    if len(closed) == record.plan.shards:
        return 0
    mark = json.dumps({"token": record.token}).encode()
    settle(store, keys.CANCEL, mark, True, lambda: is_cancelled(store) or None, PATIENCE_S)
    still_open = (shard for shard in record.make_plan() if shard.index not in closed)
    cancelled = 0
    with ThreadPoolExecutor(WRITERS, thread_name_prefix="cancel") as pool:
        while batch := list(islice(still_open, 16 * WRITERS)):
            cancelled += sum(pool.map(lambda shard: _close(store, shard), batch))
    return cancelled


def _close(store: Store, shard: Shard) -> bool:
    """Cancel one shard, unless an attempt has committed it meanwhile."""
    receipt = _receipt(shard)
    return commit(store, receipt).attempt == receipt.attempt


def _receipt(shard: Shard) -> Receipt:
    return Receipt(
        kind="cancelled",
        shard=shard.index,
        attempt=f"cancel{secrets.token_hex(6)}",
        first_row=shard.first_row,
        rows=shard.rows,
        counts=RowCounts(cancelled=shard.rows),
    )
