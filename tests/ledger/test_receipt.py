"""What a receipt may say, and how many are read."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from render_farm.errors import StopError
from render_farm.ledger import keys
from render_farm.ledger.receipt import Receipt, RowCounts, iter_receipts, read_receipt
from render_farm.store.memory import MemoryStore


def made(shard: int = 3, **changes) -> dict:
    document = {
        "kind": "rendered",
        "shard": shard,
        "attempt": "a1",
        "first_row": 12,
        "rows": 4,
        "counts": {"done": 2, "filtered": 1, "quarantined": 1},
    }
    return document | changes


def test_a_receipt_survives_the_way_to_the_store_and_back() -> None:
    store = MemoryStore()
    receipt = Receipt.model_validate(
        made(
            samples={"done": 4, "filtered": 2},
            objects=[{"key": "data/000003-a1.tar", "size_bytes": 9, "sha256": "ab"}],
            errors_by_type={"bad_prompt": 1},
            versions={"numpy": "2"},
        )
    )
    store.create(keys.receipt(3), receipt.to_bytes())
    assert read_receipt(store, 3) == receipt


def test_an_open_shard_has_none() -> None:
    assert read_receipt(MemoryStore(), 3) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 5},
        {"rows": 3},
        {"rows": 0, "counts": {}},
        {"counts": {"done": 5, "filtered": -1}},
        {"kind": "cancelled"},
        {"kind": "cancelled", "counts": {"cancelled": 3, "done": 1}},
        {"counts": {"cancelled": 4}},
        {"kind": "lost"},
        {"version": 2},
        {"shard": -1},
        {"objects": [{"key": "k", "size_bytes": -1, "sha256": ""}]},
        {"comment": "an unknown key"},
    ],
    ids=str,
)
def test_a_receipt_that_does_not_add_up_is_none(changes: dict) -> None:
    Receipt.model_validate(made())
    with pytest.raises(ValidationError):
        Receipt.model_validate(made(**changes))


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"kind": "x"}'])
def test_garbage_under_a_receipts_key_stops_the_run_and_names_the_key(garbage: bytes) -> None:
    store = MemoryStore("memory://run")
    store.put(keys.receipt(3), garbage)
    with pytest.raises(StopError, match=r"memory://run/receipts/000003\.json") as caught:
        read_receipt(store, 3)
    assert "never changed or deleted" in caught.value.fix


def test_the_receipt_of_another_shard_is_refused() -> None:
    store = MemoryStore()
    store.put(keys.receipt(4), json.dumps(made(shard=3)).encode())
    with pytest.raises(StopError, match="is the receipt of shard 3"):
        read_receipt(store, 4)


def test_receipts_are_iterated_in_the_order_of_shards_however_many() -> None:
    store = MemoryStore()
    for shard in reversed(range(600)):
        receipt = Receipt(
            kind="cancelled",
            shard=shard,
            attempt="c",
            first_row=shard,
            rows=1,
            counts=RowCounts(cancelled=1),
        )
        store.create(keys.receipt(shard), receipt.to_bytes())
    assert [receipt.shard for receipt in iter_receipts(store)] == list(range(600))


def test_reading_receipts_ahead_stays_within_bounds() -> None:
    asked: list[int] = []

    class Endless(MemoryStore):
        def list(self, prefix=""):
            for shard in range(10**6):
                asked.append(shard)
                yield self.head(keys.receipt(0)).__class__(keys.receipt(shard), 1, self.now())

        def get(self, key):
            return json.dumps(made(shard=keys.shard_of(key))).encode()

    store = Endless()
    store.put(keys.receipt(0), b"x")
    receipts = iter_receipts(store)
    for shard in range(300):
        assert next(receipts).shard == shard
    receipts.close()
    assert len(asked) <= 512


def test_an_objects_key_says_whose_it_is() -> None:
    assert keys.owner("data/000042-ab12.tar") == (42, "ab12")
    assert keys.owner("data/000042-ab12/000000001_00.png") == (42, "ab12")
    assert keys.owner("rejected/000042-ab12.parquet") == (42, "ab12")
    for foreign in ("receipts/000042.json", "data/x.tar", "data/000042.tar", "a/data/000042-b.tar"):
        assert keys.owner(foreign) is None
