"""The end of an invocation: what is left of its shards, and the files that every end writes."""

from __future__ import annotations

import logging

from render_farm.errors import InputError, StopError
from render_farm.farm.scheduler import Scheduler
from render_farm.ledger import keys
from render_farm.ledger.manifest import write_manifest
from render_farm.ledger.quarantine import write_quarantine
from render_farm.ledger.record import RunRecord
from render_farm.store.base import Store, exists

log = logging.getLogger(__name__)


def conclude(store: Store, record: RunRecord, scheduler: Scheduler) -> None:
    """Stop for shards that were given up; write manifest.json, if complete, and quarantine.parquet.

    Raises:
        AccessDenied, Unavailable: the store failed.
    """
    # One may have been committed all the same, by an attempt that died before it said so.
    receipts = (keys.receipt(shard) for shard in scheduler.given_up)
    if failed := sum(not exists(store, receipt) for receipt in receipts):
        scheduler.stop(
            f"shards that used their attempts: {failed}; the last error: {scheduler.last_error}",
            "status shows their errors; resume tries them again.",
        )
    write_manifest(store, record)
    try:
        write_quarantine(store, record)
    except (InputError, StopError) as error:
        # For convenience: a run does not end otherwise because this file cannot be made.
        log.warning("no quarantine.parquet", extra={"error": str(error)})
