"""Objects that do not belong to the result: orphans of lost attempts, and strangers."""

from __future__ import annotations

from itertools import groupby

from render_farm.errors import StopError
from render_farm.ledger import keys
from render_farm.ledger.receipt import Receipt, read_receipt
from render_farm.ledger.record import RunRecord
from render_farm.store.base import ObjectInfo, Store
from render_farm.views.shard_check import Findings


def check_strays(store: Store, record: RunRecord, findings: Findings) -> int:
    """Count the orphans; note what nobody who reads ``data/*`` as a dataset expects to find there.

    Objects of open shards are left out: their attempt may be about to win.
    """
    shards = record.plan.shards
    for info in store.list(keys.RECEIPTS):
        shard = keys.shard_of(info.key)
        if shard is None or shard >= shards:
            findings.note("unexpected", f"{info.key} is the receipt of no planned shard")
    orphans = 0
    for prefix in (keys.DATA, keys.REJECTED):
        owned = ((keys.owner(info.key), info) for info in store.list(prefix))
        for shard, group in groupby(owned, key=lambda pair: pair[0][0] if pair[0] else None):
            found = list(group)
            if shard is None or shard >= shards:
                for _, info in found:
                    findings.note("unexpected", f"{info.key} is of no planned shard")
            else:
                objects = [(owner[1], info) for owner, info in found if owner]
                orphans += _check_shard(store, record, shard, objects, findings)
    return orphans


def _check_shard(
    store: Store,
    record: RunRecord,
    shard: int,
    objects: list[tuple[str, ObjectInfo]],
    findings: Findings,
) -> int:
    try:
        receipt = read_receipt(store, shard)
    except StopError:
        return 0  # reported as corrupt where the receipts are read
    if receipt is None:
        return 0
    orphans = 0
    for attempt, info in objects:
        if attempt != receipt.attempt:
            orphans += 1
        elif not _is_named(receipt, info.key, record.job.output.container):
            findings.note("unexpected", f"{info.key} is named by no receipt")
    return orphans


def _is_named(receipt: Receipt, key: str, container: str) -> bool:
    """Whether the receipt answers for an object; of container files its metadata names images."""
    stem = f"{keys.DATA}{receipt.shard:06d}-{receipt.attempt}/"
    if container == "files" and key.startswith(stem):
        return True
    return any(item.key == key for item in receipt.objects)
