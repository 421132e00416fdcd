"""What became of one row."""

from __future__ import annotations

from typing import Any

from render_farm.errors import InputError
from render_farm.ledger import keys
from render_farm.ledger.attempts import read_attempts
from render_farm.ledger.receipt import Receipt, read_receipt
from render_farm.ledger.record import RunRecord
from render_farm.output.json_form import json_rows
from render_farm.output.parquet import read_metadata
from render_farm.store.base import Store
from render_farm.views.results import fetched, shard_metadata


def show_row(store: Store, record: RunRecord, row: int) -> dict[str, Any]:
    """The row's shard, how it stands, and the metadata of its samples or its error.

    Raises:
        InputError: the run has no such row.
        CorruptFile: the shard's metadata cannot be read.
    """
    plan = record.make_plan()
    if not 0 <= row < plan.rows:
        allowed = f"0 to {plan.rows - 1}"
        raise InputError.of("ROW", row, allowed, "rows count from 0 over the whole dataset")
    shard = plan.shard_of_row(row)
    told: dict[str, Any] = {
        "row": row,
        "shard": shard.index,
        "file": record.prompts.files[shard.file].path,
        "row_in_file": shard.first_row_in_file + row - shard.first_row,
    }
    receipt = read_receipt(store, shard.index)
    if receipt is None:
        failures = read_attempts(store, shard.index).failures
        errors = [f"{failure.error_type}: {failure.error}" for failure in failures]
        return told | {"state": "pending", "samples": [], "failures": errors}
    if receipt.kind == "cancelled":
        return told | {"state": "cancelled", "samples": []}
    lines = [line for line in _lines(store, receipt) if line["row"] == row]
    state = "done" if any(line["status"] == "done" for line in lines) else lines[0]["status"]
    return told | {"state": state, "samples": lines}


def _lines(store: Store, receipt: Receipt) -> list[dict[str, Any]]:
    """Every line of metadata of a shard, done ones first."""
    done = shard_metadata(store, receipt)
    lines = list(json_rows(done)) if done is not None else []
    for item in receipt.objects:
        if item.key.startswith(keys.REJECTED):
            with fetched(store, item.key) as copy:
                lines += json_rows(read_metadata(copy.file, item.key))
    return lines
