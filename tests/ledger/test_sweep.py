"""The sweep takes what lost, and nothing that may still win."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from render_farm.errors import StopError
from render_farm.farm.opening import new_run_record
from render_farm.farm.prepare import Prepared
from render_farm.ledger import keys
from render_farm.ledger.cancel import cancel_run
from render_farm.ledger.receipt import read_receipt
from render_farm.ledger.record import RunRecord, create_record
from render_farm.ledger.sweep import iter_orphans, sweep_run
from render_farm.store.memory import MemoryStore
from render_farm.views.verify import verify_run
from tests.making.stores import FaultyStore, drive_on, render_on


class Uploads(MemoryStore):
    """With unfinished uploads, by key."""

    def __init__(self) -> None:
        super().__init__()
        self.unfinished: set[str] = set()

    def abort_uploads(self, prefix: str, wanted: Callable[[str], bool] = lambda key: True) -> int:
        found = {key for key in self.unfinished if key.startswith(prefix) and wanted(key)}
        self.unfinished -= found
        return len(found)


@pytest.fixture
def store() -> Uploads:
    return Uploads()


@pytest.fixture
def record(prepared: Prepared, store: Uploads) -> RunRecord:
    return create_record(store, new_run_record(prepared))


LOST = (
    "data/000000-0dead.tar",
    "data/000000-0dead.parquet",
    "data/000000-zdead/000000000_00.png",
    "rejected/000000-0dead.parquet",
)
OPEN = ("data/000001-0live.tar", "data/000001-zlive/000000003_00.png", "rejected/000001-1.parquet")


def keys_of(store) -> set[str]:
    return {info.key for info in store.list()}


def test_losers_of_closed_shards_go_and_everything_else_stays(
    store: Uploads, record: RunRecord
) -> None:
    render_on(store, record, 0)
    for key in (*LOST, *OPEN, "data/notes.txt", "retries/001/data/000000-0dead.tar", "extra.json"):
        store.put(key, b"12345")
    before = keys_of(store)
    swept = sweep_run(store, record.plan.shards)
    assert before - keys_of(store) == set(LOST)
    assert (swept.objects, swept.size_bytes) == (4, 20)
    assert sweep_run(store, record.plan.shards).objects == 0
    # what is neither the run's nor an orphan is left to people, and verify tells them of it
    assert verify_run(store, record).findings.unexpected == 1


def test_what_a_zombie_uploads_after_a_sweep_is_an_orphan_that_the_next_one_takes(
    store: Uploads, record: RunRecord
) -> None:
    drive_on(store, record)
    assert sweep_run(store, record.plan.shards).objects == 0
    store.put("data/000000-0dead.tar", b"12345")
    verdict = verify_run(store, record)
    assert (verdict.ok, verdict.orphans) == (True, 1)
    assert sweep_run(store, record.plan.shards).objects == 1
    assert verify_run(store, record).orphans == 0


def test_an_open_shards_objects_survive_whatever_their_age(prepared: Prepared) -> None:
    now = [datetime(2020, 1, 1, tzinfo=UTC)]
    store = MemoryStore(clock=lambda: now[0])
    record = create_record(store, new_run_record(prepared))
    for key in OPEN:
        store.put(key, b"x")
    now[0] += timedelta(days=3650)
    assert sweep_run(store, record.plan.shards).objects == 0
    assert set(OPEN) <= keys_of(store)


def test_a_shard_that_closes_while_it_is_swept_keeps_its_winners_objects(
    store: Uploads, record: RunRecord
) -> None:
    """The objects are listed first and the receipt is read afterwards."""
    for key in OPEN:
        store.put(key, b"x")

    def commits(call, act):
        listed = list(act())
        if call.key == keys.DATA:
            render_on(store, record, 1)
        return iter(listed)

    late = FaultyStore(store, lambda call: commits if call.method == "list" else None)
    sweep_run(late, record.plan.shards)
    sweep_run(store, record.plan.shards)
    receipt = read_receipt(store, 1)
    assert {item.key for item in receipt.objects} <= keys_of(store)
    assert not set(OPEN) & keys_of(store)


def test_of_a_cancelled_shard_no_attempt_has_won(store: Uploads, record: RunRecord) -> None:
    for key in (*LOST, *OPEN):
        store.put(key, b"x")
    cancel_run(store, record)
    assert sweep_run(store, record.plan.shards).objects == len(LOST) + len(OPEN)
    assert verify_run(store, record).ok


def test_uploads_are_aborted_of_closed_shards_only(store: Uploads, record: RunRecord) -> None:
    store.unfinished = {"data/000000-x.tar", "rejected/000000-x.parquet", "data/000001-y.tar"}
    render_on(store, record, 0)
    assert sweep_run(store, record.plan.shards).uploads == 2
    assert store.unfinished == {"data/000001-y.tar"}
    render_on(store, record, 1)
    assert sweep_run(store, record.plan.shards).uploads == 1


def test_a_receipt_beyond_the_plan_does_not_pass_for_one_of_an_open_shard(
    store: Uploads, record: RunRecord
) -> None:
    render_on(store, record, 0)
    foreign = read_receipt(store, 0).model_copy(update={"shard": 9})
    store.create(keys.receipt(9), foreign.to_bytes())
    store.unfinished = {"data/000001-y.tar"}
    assert sweep_run(store, record.plan.shards).uploads == 0
    assert cancel_run(store, record) == 1


def test_receipts_the_record_and_retries_are_never_touched(
    store: Uploads, record: RunRecord
) -> None:
    drive_on(store, record)
    for key in LOST:
        store.put(key, b"x")
    watched = FaultyStore(store)
    sweep_run(watched, record.plan.shards)
    assert sorted(watched.made("delete")) == sorted(LOST)
    assert watched.made("put") == watched.made("create") == watched.made("upload") == []


def test_a_receipt_of_garbage_stops_the_sweep_before_it_takes_anything_of_that_shard(
    store: Uploads, record: RunRecord
) -> None:
    for key in LOST:
        store.put(key, b"x")
    store.put(keys.receipt(0), b"{}")
    with pytest.raises(StopError, match="000000"):
        sweep_run(store, record.plan.shards)
    assert set(LOST) <= keys_of(store)
    with pytest.raises(StopError):
        list(iter_orphans(store))
