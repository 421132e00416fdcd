"""Rollups save requests, and that is all they do: a result never depends on one."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from render_farm.errors import StopError, Unavailable
from render_farm.ledger import keys
from render_farm.ledger.manifest import write_manifest
from render_farm.ledger.receipt import iter_receipts
from render_farm.ledger.record import RunRecord
from render_farm.ledger.rollup import MOST_OPEN, Rollups, recall_receipts
from render_farm.store.base import Store, exists
from render_farm.store.memory import MemoryBucket, MemoryStore
from tests.making.closed import close_shards, make_record, receipt_of
from tests.making.stores import FaultyStore

SHARDS = 2100
THOUSANDS = [keys.rollup(0), keys.rollup(1), keys.rollup(2)]


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryStore, RunRecord]:
    """Every shard closed, none in a rollup; not to be written to."""
    store = MemoryStore("memory://closed/run")
    record = make_record(store, tmp_path_factory.mktemp("closed"), SHARDS)
    close_shards(store, range(SHARDS))
    return store, record


@pytest.fixture
def record(closed: tuple[MemoryStore, RunRecord]) -> RunRecord:
    return closed[1]


@pytest.fixture
def store(closed: tuple[MemoryStore, RunRecord]) -> FaultyStore:
    """A copy of it that counts its calls."""
    bucket = MemoryBucket()
    copy = MemoryStore(closed[0].uri, bucket=bucket)
    for info in closed[0].list():
        copy.put(info.key, closed[0].get(info.key))
    return FaultyStore(copy)


@pytest.fixture
def rolled(store: FaultyStore, record: RunRecord) -> FaultyStore:
    """The same with every rollup written."""
    write_all(store, record)
    store.calls.clear()
    return store


def write_all(store: Store, record: RunRecord) -> None:
    rollups = Rollups(store, record)
    for _ in recall_receipts(store, record, rollups=rollups):
        pass
    rollups.flush()


def written(store: FaultyStore) -> list[str]:
    return store.made("put")


def there(store: Store) -> list[str]:
    return [info.key for info in store.list(keys.ROLLUPS)]


def receipts_read(store: FaultyStore) -> int:
    return sum(key.startswith(keys.RECEIPTS) for key in store.made("get"))


def recalled(store: Store, record: RunRecord) -> list:
    return list(recall_receipts(store, record))


def test_every_receipt_comes_from_one_list_and_one_request_a_thousand(
    rolled: FaultyStore, record: RunRecord
) -> None:
    assert recalled(rolled, record) == [receipt_of(shard) for shard in range(SHARDS)]
    assert Counter(call.method for call in rolled.calls) == {"list": 1, "get": 3}


def test_without_rollups_the_same_comes_from_the_receipts(
    store: FaultyStore, record: RunRecord
) -> None:
    assert recalled(store, record) == [receipt_of(shard) for shard in range(SHARDS)]
    assert receipts_read(store) == SHARDS
    assert there(store) == []  # who only reads does not write


def test_receipts_that_no_rollup_has_are_read_in_their_place(
    rolled: FaultyStore, record: RunRecord
) -> None:
    rolled.put(keys.rollup(1), partial(rolled, 1, range(1000, 1990, 3)))
    rolled.delete(keys.rollup(2))
    assert recalled(rolled, record) == [receipt_of(shard) for shard in range(SHARDS)]
    assert receipts_read(rolled) == 1000 - 330 + 100


def partial(store: Store, number: int, shards: range, token: str | None = None) -> bytes:
    """A rollup that holds only some of what one holds, with a digest that agrees."""
    document = json.loads(store.get(keys.rollup(number)))
    document["receipts"] = {str(shard): document["receipts"][str(shard)] for shard in shards}
    return forged(document, token)


def forged(document: dict, token: str | None = None) -> bytes:
    document["token"] = token or document["token"]
    texts = "\0".join([document["token"], *document["receipts"].values()])
    document["sha256"] = hashlib.sha256(texts.encode()).hexdigest()
    return json.dumps(document).encode()


def test_only_what_the_list_shows_is_closed(rolled: FaultyStore, record: RunRecord) -> None:
    for shard in (0, 700, 1500):
        rolled.delete(keys.receipt(shard))
    found = [receipt.shard for receipt in recall_receipts(rolled, record)]
    assert found == [shard for shard in range(SHARDS) if shard not in (0, 700, 1500)]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def altered(data: bytes) -> bytes:
    return data.replace(b"abcdef", b"abcdee", 1)


def of_another_run(data: bytes) -> bytes:
    return forged(json.loads(data), token="0" * 32)


def token_swapped(data: bytes) -> bytes:
    return data.replace(b'"token":"', b'"token":"f')


def shards_swapped(data: bytes) -> bytes:
    document = json.loads(data)
    texts = document["receipts"]
    first, second = list(texts)[:2]
    texts[first], texts[second] = texts[second], texts[first]
    return forged(document)


def of_a_later_version(data: bytes) -> bytes:
    return data.replace(b'"version":1', b'"version":2', 1)


def lengthened(data: bytes) -> bytes:
    """A digest that agrees, and receipts that are not those that lie in the store."""
    document = json.loads(data)
    texts = document["receipts"]
    document["receipts"] = {
        shard: text.replace("abcdef", "forged-by-hand") for shard, text in texts.items()
    }
    return forged(document)


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: b"",
        lambda data: b"\xff\xfe{",
        lambda data: b"null",
        cut,
        altered,
        of_another_run,
        token_swapped,
        shards_swapped,
        of_a_later_version,
        lengthened,
    ],
    ids=lambda harm: harm.__name__,
)
def test_a_damaged_foreign_or_forged_one_is_ignored(
    harm: Callable[[bytes], bytes], rolled: FaultyStore, record: RunRecord
) -> None:
    before = rolled.inner.get(keys.rollup(1))
    rolled.inner.put(keys.rollup(1), harm(before))
    assert recalled(rolled, record) == [receipt_of(shard) for shard in range(SHARDS)]
    assert receipts_read(rolled) >= 2
    assert write_manifest(rolled, record)
    told = json.loads(rolled.get(keys.MANIFEST))["objects"]
    assert [item["key"] for item in told] == [
        receipt_of(shard).objects[0].key for shard in range(SHARDS)
    ]
    assert rolled.inner.get(keys.rollup(1)) == before  # writing the manifest has mended it


def test_one_that_cannot_be_read_costs_only_requests(
    rolled: FaultyStore, record: RunRecord
) -> None:
    def refuses(call, act):
        raise Unavailable("memory://closed/run", call.key, "not today")

    rolled.script = lambda call: refuses if call.key == keys.rollup(0) else None
    assert len(recalled(rolled, record)) == SHARDS
    assert receipts_read(rolled) == 1000


def test_a_receipt_that_is_broken_is_seen_behind_its_copy(
    rolled: FaultyStore, record: RunRecord
) -> None:
    rolled.put(keys.receipt(40), b"{")
    broken: list[StopError] = []
    found = list(recall_receipts(rolled, record, on_broken=broken.append))
    assert len(found) == SHARDS - 1
    assert [keys.receipt(40) in error.reason for error in broken] == [True]
    with pytest.raises(StopError):
        recalled(rolled, record)


def test_the_authority_reads_every_receipt_and_no_rollup(rolled: FaultyStore) -> None:
    assert len(list(iter_receipts(rolled))) == SHARDS
    assert receipts_read(rolled) == len(rolled.made("get")) == SHARDS


def test_a_driver_writes_one_a_thousand_when_it_is_full(
    store: FaultyStore, record: RunRecord
) -> None:
    rollups = Rollups(store, record)
    for shard in range(SHARDS):
        assert len(written(store)) == shard // 1000
        rollups.add(receipt_of(shard))
    rollups.flush()
    assert written(store) == THOUSANDS
    assert [call.method for call in store.calls] == ["put"] * 3
    store.calls.clear()
    assert len(recalled(store, record)) == SHARDS
    assert receipts_read(store) == 0


def test_an_unfinished_one_is_written_at_the_end_and_filled_by_the_next_driver(
    store: FaultyStore, record: RunRecord
) -> None:
    for shard in range(500, SHARDS):
        store.inner.delete(keys.receipt(shard))
    write_all(store, record)
    assert written(store) == [keys.rollup(0)]
    rollups = Rollups(store, record)
    assert len(list(recall_receipts(store, record, rollups=rollups))) == 500
    close_shards(store.inner, range(500, 1000))
    for shard in range(500, 1000):
        rollups.add(receipt_of(shard))
    assert written(store) == [keys.rollup(0)] * 2
    store.calls.clear()
    assert len(recalled(store, record)) == 1000
    assert receipts_read(store) == 0


def test_a_straggler_holds_nothing_up_and_is_added_when_it_comes(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore("memory://straggling/run"))
    record = make_record(store, tmp_path, 5000)
    rollups = Rollups(store, record)
    for shard in [*range(1, 1000), *range(1000, 3000, 2)]:
        rollups.add(receipt_of(shard))
    assert written(store) == []
    rollups.add(receipt_of(3000))
    assert written(store) == [keys.rollup(0)]  # given up waiting for shard 0
    rollups.add(receipt_of(0))
    assert written(store) == [keys.rollup(0)] * 2
    store.calls.clear()
    close_shards(store, range(1000))
    assert len(recalled(store, record)) == 1000
    assert receipts_read(store) == 0


def test_of_a_few_receipts_none_is_made(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore("memory://few/run"))
    record = make_record(store, tmp_path, 63)
    close_shards(store, range(63))
    store.calls.clear()
    write_all(store, record)
    assert written(store) == []
    assert not any(call.key.startswith(keys.ROLLUPS) for call in store.calls)


def test_what_a_driver_holds_is_bounded_in_whatever_order_shards_close(
    tmp_path: Path,
) -> None:
    store = FaultyStore(MemoryStore("memory://scattered/run"))
    record = make_record(store, tmp_path, 12_000)
    rollups = Rollups(store, record)
    most = 0
    for turn in range(200):
        for thousand in range(12):
            rollups.add(receipt_of(1000 * thousand + turn))
            most = max(most, sum(len(texts) for texts in rollups._held.values()))
    assert most <= 4 * 1000
    assert len(rollups._held) <= MOST_OPEN


def test_a_store_that_refuses_them_harms_nothing(store: FaultyStore, record: RunRecord) -> None:
    def refuses(call, act):
        raise Unavailable("memory://closed/run", call.key, "not today")

    store.script = lambda call: refuses if call.key.startswith(keys.ROLLUPS) else None
    assert write_manifest(store, record)
    assert exists(store, keys.MANIFEST)
    assert there(store.inner) == []


def test_two_drivers_write_the_same(store: FaultyStore, record: RunRecord) -> None:
    write_all(store, record)
    first = [store.inner.get(key) for key in THOUSANDS]
    for key in THOUSANDS:
        store.inner.delete(key)
    rollups = Rollups(store, record)
    for shard in reversed(range(SHARDS)):
        rollups.add(receipt_of(shard))
    rollups.flush()
    assert [store.inner.get(key) for key in THOUSANDS] == first
