"""The newest driver drives; an older one notices and keeps quiet."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from render_farm.ledger import keys
from render_farm.ledger.lease import FRESH, Lease, read_heartbeat
from render_farm.store.memory import MemoryStore
from tests.making.stores import FaultyStore, exists_by_own_write, fails, in_turn, loses_answer


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def test_the_newest_driver_wins_at_once_and_the_older_notices() -> None:
    store = MemoryStore()
    old = Lease.take(store, "old")
    assert not old.superseded()
    new = Lease.take(store, "new")
    assert new.epoch > old.epoch
    assert old.superseded()
    assert not new.superseded()


def test_an_older_driver_that_ends_leaves_the_newers_word() -> None:
    store = MemoryStore()
    old = Lease.take(store, "old")
    new = Lease.take(store, "new")
    old.end("I was superseded")
    heartbeat, _ = read_heartbeat(store)
    assert (heartbeat.epoch, heartbeat.state, heartbeat.reason) == (new.epoch, "running", None)


def test_a_driver_that_ends_says_why() -> None:
    store = MemoryStore()
    lease = Lease.take(store, "only")
    lease.end("stopped as asked")
    heartbeat, _ = read_heartbeat(store)
    assert (heartbeat.state, heartbeat.reason) == ("ended", "stopped as asked")
    Lease.take(store, "next")
    assert read_heartbeat(store)[0].state == "running"


def test_freshness_goes_by_the_stores_clock() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    lease = Lease.take(store, "driver")
    clock.now += FRESH - timedelta(seconds=1)
    assert read_heartbeat(store)[1]
    clock.now += timedelta(seconds=1)
    assert not read_heartbeat(store)[1]
    lease.beat()
    assert read_heartbeat(store)[1]


def test_a_run_that_nobody_drove_has_no_heartbeat() -> None:
    assert read_heartbeat(MemoryStore()) is None


@pytest.mark.parametrize("garbage", [b"", b"{", b'{"epoch": "x"}'])
def test_a_heartbeat_of_garbage_is_none(garbage: bytes) -> None:
    store = MemoryStore()
    store.put(keys.HEARTBEAT, garbage)
    assert read_heartbeat(store) is None


def test_drivers_that_begin_at_once_get_epochs_of_their_own() -> None:
    store = MemoryStore()
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda number: Lease.take(store, f"driver {number}"), range(8)))
    assert sorted(lease.epoch for lease in leases) == list(range(1, 9))
    assert sum(not lease.superseded() for lease in leases) == 1


@pytest.mark.parametrize("fault", [fails, loses_answer, exists_by_own_write])
def test_an_epoch_whose_answer_was_lost_is_never_shared(fault) -> None:
    store = FaultyStore(MemoryStore(), in_turn("create", keys.EPOCHS, fault))
    lease = Lease.take(store, "driver")
    assert not lease.superseded()
    assert Lease.take(store, "rival").epoch > lease.epoch
    assert lease.superseded()


def test_a_drivers_name_may_hold_anything() -> None:
    store = MemoryStore()
    lease = Lease.take(store, 'node "7"\\')
    assert b'node \\"7\\"' in store.get(keys.epoch(lease.epoch))
