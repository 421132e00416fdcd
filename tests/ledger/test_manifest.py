"""The manifest is what the receipts add up to."""

from __future__ import annotations

import hashlib
import json

from render_farm.farm.opening import new_run_record
from render_farm.farm.prepare import Prepared
from render_farm.ledger import keys
from render_farm.ledger.manifest import sum_receipts, write_manifest
from render_farm.ledger.receipt import iter_receipts, read_receipt
from render_farm.ledger.record import create_record
from render_farm.store.base import exists
from render_farm.store.memory import MemoryStore
from tests.making.stores import drive_on, render_on


def test_it_is_a_pure_function_of_the_receipts_whoever_writes_it(prepared: Prepared) -> None:
    store = MemoryStore()
    record = create_record(store, new_run_record(prepared))
    drive_on(store, record)
    first = store.get(keys.MANIFEST)
    for _ in range(2):
        store.delete(keys.MANIFEST)
        assert write_manifest(store, record)
        assert store.get(keys.MANIFEST) == first
    elsewhere = MemoryStore("memory://a copy")
    for receipt in reversed(list(iter_receipts(store))):
        elsewhere.create(keys.receipt(receipt.shard), receipt.to_bytes())
    assert write_manifest(elsewhere, record)
    assert elsewhere.get(keys.MANIFEST) == first


def test_it_holds_the_totals_and_every_object_with_size_and_digest(prepared: Prepared) -> None:
    store = MemoryStore()
    record = create_record(store, new_run_record(prepared))
    drive_on(store, record)
    manifest = json.loads(store.get(keys.MANIFEST))
    objects = manifest.pop("objects")
    assert manifest == {
        "version": 1,
        "run": record.job.output.uri,
        "token": record.token,
        "shards": 2,
        "rows": {"planned": 5, "done": 4, "filtered": 0, "quarantined": 1, "cancelled": 0},
        "samples": {"planned": 10, "done": 8, "filtered": 0},
        "errors_by_type": {"bad_guidance_scale": 1},
    }
    listed = [info.key for prefix in (keys.DATA, keys.REJECTED) for info in store.list(prefix)]
    assert sorted(item["key"] for item in objects) == sorted(listed)
    for item in objects:
        data = store.get(item["key"])
        assert item["size_bytes"] == len(data)
        assert item["sha256"] == hashlib.sha256(data).hexdigest()


def test_there_is_none_while_a_shard_is_open(prepared: Prepared) -> None:
    store = MemoryStore()
    record = create_record(store, new_run_record(prepared))
    assert not write_manifest(store, record)
    render_on(store, record, 1)
    assert not write_manifest(store, record)
    foreign = read_receipt(store, 1).model_copy(update={"shard": 5})
    store.create(keys.receipt(5), foreign.to_bytes())
    assert not write_manifest(store, record)
    assert not exists(store, keys.MANIFEST)


def test_sums_of_no_receipts_are_zero() -> None:
    totals = sum_receipts([])
    assert totals.shards == 0
    assert totals.row_counts().decided == 0
    assert totals.sample_counts().done == 0
