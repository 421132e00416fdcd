"""Runs of thousands of shards that nobody rendered: only their records and receipts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from render_farm.farm.opening import new_run_record
from render_farm.farm.prepare import prepare
from render_farm.ledger import keys
from render_farm.ledger.receipt import DataObject, Receipt, RowCounts, SampleCounts
from render_farm.ledger.record import RunRecord, create_record
from render_farm.store.base import Store
from tests.making.jobs import make_job, write_prompts


def make_record(store: Store, folder: Path, shards: int) -> RunRecord:
    """A run of so many shards of one row each, in a store that has none."""
    prompts = write_prompts(folder / f"{shards}.parquet", shards, row_group=1000)
    job = make_job(prompts, "memory://closed/run", shards={"rows": 1})
    return create_record(store, new_run_record(prepare(job, "/nonexistent")))


def receipt_of(shard: int, *, quarantined: bool = False) -> Receipt:
    """A receipt of about the size that rendered shards have."""
    attempt = f"{shard:06d}abcdef"
    sha256 = hashlib.sha256(attempt.encode()).hexdigest()
    data = DataObject(key=f"data/{shard:06d}-{attempt}.parquet", size_bytes=9000, sha256=sha256)
    return Receipt(
        kind="rendered",
        shard=shard,
        attempt=attempt,
        first_row=shard,
        rows=1,
        counts=RowCounts(quarantined=1) if quarantined else RowCounts(done=1),
        samples=SampleCounts(done=0 if quarantined else 1),
        objects=(data,),
        versions={f"library{number}": "1.2.3" for number in range(12)},
    )


def close_shards(store: Store, shards: Iterable[int]) -> None:
    """Give shards their receipts, as their workers would."""
    for shard in shards:
        store.create(keys.receipt(shard), receipt_of(shard).to_bytes())
