"""Cancelling ends what is open, for good, and nothing else."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from render_farm.errors import InputError
from render_farm.farm.messages import ShardClosed
from render_farm.farm.opening import new_run_record
from render_farm.farm.prepare import Prepared
from render_farm.ledger import keys
from render_farm.ledger.cancel import cancel_run, is_cancelled, refuse_cancelled
from render_farm.ledger.manifest import write_manifest
from render_farm.ledger.receipt import iter_receipts, read_receipt
from render_farm.ledger.record import RunRecord, create_record
from render_farm.ledger.sweep import iter_orphans
from render_farm.store.base import exists
from render_farm.store.memory import MemoryStore
from render_farm.views.verify import verify_run
from tests.making.stores import (
    FaultyStore,
    drive_on,
    exists_by_own_write,
    fails,
    in_turn,
    loses_answer,
    render_on,
)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def record(prepared: Prepared, store: MemoryStore) -> RunRecord:
    return create_record(store, new_run_record(prepared))


def ends(store) -> list[tuple[str, int, int]]:
    return [(r.kind, r.counts.decided, r.counts.cancelled) for r in iter_receipts(store)]


def test_open_shards_are_closed_and_done_ones_stay(store: MemoryStore, record: RunRecord) -> None:
    render_on(store, record, 0)
    before = read_receipt(store, 0)
    assert cancel_run(store, record) == 1
    assert read_receipt(store, 0) == before
    assert ends(store) == [("rendered", 3, 0), ("cancelled", 2, 2)]
    assert is_cancelled(store)
    assert verify_run(store, record).ok


def test_cancelling_again_is_harmless(store: MemoryStore, record: RunRecord) -> None:
    assert cancel_run(store, record) == 2
    before = list(iter_receipts(store))
    assert cancel_run(store, record) == 0
    assert list(iter_receipts(store)) == before


def test_a_cancel_that_was_cut_off_is_finished_by_the_next(
    store: MemoryStore, record: RunRecord
) -> None:
    store.create(keys.CANCEL, b"{}")
    assert cancel_run(store, record) == 2


def test_a_complete_run_is_left_as_it_is(store: MemoryStore, record: RunRecord) -> None:
    drive_on(store, record)
    before = {info.key: store.get(info.key) for info in store.list()}
    assert cancel_run(store, record) == 0
    assert {info.key: store.get(info.key) for info in store.list()} == before
    assert not is_cancelled(store)
    refuse_cancelled(store)


def test_a_cancelled_run_stays_so_whoever_drives_it(store: MemoryStore, record: RunRecord) -> None:
    cancel_run(store, record)
    before = list(iter_receipts(store))
    drive_on(store, record)
    assert isinstance(render_on(store, record, 0), ShardClosed)
    assert list(iter_receipts(store)) == before
    assert not list(store.list(keys.DATA))
    with pytest.raises(InputError, match=r"retry .* --cancelled"):
        refuse_cancelled(store)


def test_a_cancelled_run_has_a_manifest_that_says_so(store: MemoryStore, record: RunRecord) -> None:
    cancel_run(store, record)
    assert write_manifest(store, record)
    verdict = verify_run(store, record)
    assert verdict.ok
    assert verdict.rows["cancelled"] == record.plan.rows


@pytest.mark.parametrize("round_", range(12))
def test_against_a_worker_that_commits_exactly_one_receipt_wins(
    round_: int, store: MemoryStore, record: RunRecord
) -> None:
    barrier = Barrier(2)

    def waits(call, act):
        barrier.wait()
        return act()

    rendering = FaultyStore(store, in_turn("create", keys.receipt(0), waits))

    def cancel() -> int:
        barrier.wait()
        time.sleep(round_ / 6000)
        return cancel_run(store, record)

    with ThreadPoolExecutor(2) as pool:
        rendered, cancelled = pool.submit(render_on, rendering, record, 0), pool.submit(cancel)
        answer, count = rendered.result(), cancelled.result()
    assert isinstance(answer, ShardClosed)
    receipt = read_receipt(store, 0)
    assert answer.receipt == receipt
    assert answer.own == (receipt.kind == "rendered") == (count == 1)
    assert bool(list(store.list(keys.DATA))) == answer.own
    assert not list(iter_orphans(store))
    assert verify_run(store, record).ok


def test_a_worker_that_commits_just_before_the_cancel_writes_keeps_its_receipt(
    store: MemoryStore, record: RunRecord
) -> None:
    def rendered_first(call, act):
        render_on(store, record, 0)
        return act()

    late = FaultyStore(
        store,
        lambda call: (
            rendered_first
            if call.method in ("create", "put") and call.key == keys.receipt(0)
            else None
        ),
    )
    assert cancel_run(late, record) == 1
    assert [kind for kind, *_ in ends(store)] == ["rendered", "cancelled"]
    assert verify_run(store, record).ok


@pytest.mark.parametrize("fault", [fails, loses_answer, exists_by_own_write])
@pytest.mark.parametrize("key", [keys.CANCEL, keys.RECEIPTS])
def test_a_lost_answer_does_not_keep_a_run_from_being_cancelled(
    key: str, fault, store: MemoryStore, record: RunRecord
) -> None:
    assert cancel_run(FaultyStore(store, in_turn("create", key, fault)), record) == 2
    assert exists(store, keys.CANCEL)
    assert verify_run(store, record).rows["cancelled"] == record.plan.rows
