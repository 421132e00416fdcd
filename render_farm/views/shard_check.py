"""Everything that can be wrong with one committed shard, found by reading all of it back."""

from __future__ import annotations

from collections.abc import Callable

from render_farm.errors import NotFound
from render_farm.job.plan import Plan
from render_farm.ledger import keys
from render_farm.ledger.receipt import DataObject, Receipt
from render_farm.ledger.record import RunRecord
from render_farm.output.containers import iter_samples
from render_farm.output.corrupt import CorruptFile
from render_farm.output.parquet import read_metadata
from render_farm.store.base import Store
from render_farm.views.findings import Findings
from render_farm.views.handover import ShardEnds
from render_farm.views.results import fetched, samples_object
from render_farm.views.shard_rows import ShardRows


def check_shard(
    store: Store, record: RunRecord, plan: Plan, receipt: Receipt
) -> tuple[Findings, ShardEnds]:
    """Everything that is wrong with one shard, and how its rows ended."""
    findings = Findings()
    if receipt.shard >= plan.shards:
        findings.note("unexpected", f"receipt of shard {receipt.shard}, which is not planned")
        return findings, ShardEnds()
    shard = plan.shard(receipt.shard)
    if (receipt.first_row, receipt.rows) != (shard.first_row, shard.rows):
        findings.note("corrupt", f"shard {shard.index}: the receipt is for other rows")
    if receipt.kind == "cancelled":
        for item in receipt.objects:
            findings.note("unexpected", f"{item.key} in the receipt of cancelled rows")
        return findings, ShardEnds(cancelled=shard.row_range())
    seen = ShardRows(shard, record, receipt, findings)
    for item in receipt.objects:
        if keys.owner(item.key) != (receipt.shard, receipt.attempt):
            findings.note("unexpected", f"{item.key} in the receipt of shard {receipt.shard}")
        try:
            _check_object(store, record, receipt, item, seen)
        except NotFound:
            findings.note("corrupt", f"{item.key} is not there")
        except CorruptFile as error:
            findings.note("corrupt", str(error))
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # Altered bytes that still parse: values of any kind, or none, where ours should be.
            findings.note("corrupt", f"{item.key} holds no metadata of a result ({error!r})")
    return findings, seen.conclude()


def _check_object(
    store: Store, record: RunRecord, receipt: Receipt, item: DataObject, seen: ShardRows
) -> None:
    with fetched(store, item.key) as copy:
        if not copy.matches(item):
            message = f"{item.key}: {copy.size_bytes} bytes, sha256 {copy.sha256}"
            seen.findings.note("corrupt", f"{message}, not what its receipt vouches for")
        if item.key.startswith(keys.REJECTED):
            seen.rejected(read_metadata(copy.file, item.key))
        elif item == samples_object(record, receipt):
            container = record.job.output.container
            for sample in iter_samples(container, copy.file, _fetch_of(store), item.key):
                seen.sample(sample)
        else:
            seen.listed(read_metadata(copy.file, item.key))


def _fetch_of(store: Store) -> Callable[[str], bytes]:
    """For container files: one image that is gone must not hide those after it."""

    def fetch(key: str) -> bytes:
        try:
            return store.get(key)
        except NotFound:
            return b""

    return fetch
