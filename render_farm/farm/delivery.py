"""From the files of a complete attempt to the shard's receipt."""

from __future__ import annotations

import logging

from render_farm.errors import StoreError
from render_farm.farm.attempt import Attempt
from render_farm.ledger.attempts import clear_attempts
from render_farm.ledger.commit import commit, withdraw
from render_farm.ledger.receipt import DataObject, Receipt, RowCounts, SampleCounts
from render_farm.output.layout import OutputFile
from render_farm.store.base import Store

log = logging.getLogger(__name__)


def receipt_of(attempt: Attempt, files: list[OutputFile], versions: dict[str, str]) -> Receipt:
    """The receipt that an attempt would like its shard to have."""
    tally = attempt.tally()
    return Receipt(
        kind="rendered",
        shard=attempt.shard.index,
        attempt=attempt.identity,
        first_row=attempt.shard.first_row,
        rows=attempt.shard.rows,
        counts=RowCounts(
            done=tally.rows_done,
            filtered=tally.rows_filtered,
            quarantined=tally.rows_quarantined,
        ),
        samples=SampleCounts(done=tally.samples_done, filtered=tally.samples_filtered),
        objects=tuple(
            DataObject(key=file.key, size_bytes=file.size_bytes, sha256=file.sha256)
            for file in files
            if file.listed_in_receipt
        ),
        errors_by_type=tally.errors_by_type,
        versions=versions,
    )


def deliver(store: Store, receipt: Receipt, files: list[OutputFile]) -> Receipt:
    """Upload an attempt's files and commit it; the receipt in force, maybe another attempt's.

    Raises: as `ledger.commit.commit`.
    """
    for file in files:
        store.upload(file.key, file.path)
    winner = commit(store, receipt)
    if winner.attempt == receipt.attempt:
        _forget_attempts(store, receipt.shard)
    else:
        deleted = withdraw(store, [file.key for file in files], receipt, winner)
        log.info("lost shard", extra={"shard": receipt.shard, "objects_deleted": deleted})
    return winner


def _forget_attempts(store: Store, shard: int) -> None:
    """Advisory: the shard is committed, whatever becomes of the notes on it."""
    try:
        clear_attempts(store, shard)
    except StoreError as error:
        log.warning("notes on a closed shard are left", extra={"error": str(error)})
