"""Taking a run up costs few requests, however many shards it has."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from render_farm.farm.taking_up import TakenUp, take_up
from render_farm.job.spec import LimitsSpec
from render_farm.ledger import keys
from render_farm.ledger.attempts import AttemptLog, Failure, write_attempts
from render_farm.ledger.record import RunRecord
from render_farm.store.memory import MemoryStore
from tests.making.closed import close_shards, make_record, receipt_of
from tests.making.stores import FaultyStore

SHARDS, CLOSED = 3000, 2500

Made = tuple[FaultyStore, RunRecord]


@pytest.fixture
def half_done(tmp_path: Path) -> Made:
    """A run whose drivers were killed before they wrote a rollup."""
    store = FaultyStore(MemoryStore("memory://half/run"))
    record = make_record(store, tmp_path, SHARDS)
    close_shards(store, range(CLOSED))
    store.calls.clear()
    return store, record


def taken_up(made: Made) -> TakenUp:
    return take_up(*made, LimitsSpec(), workers=2)


def gets(store: FaultyStore, prefix: str) -> int:
    return sum(key.startswith(prefix) for key in store.made("get"))


def test_a_killed_runs_receipts_are_read_once_and_rolled_up(half_done: Made) -> None:
    store, _ = half_done
    run = taken_up(half_done)
    assert (run.open_shards, run.progress.decided_rows) == (SHARDS - CLOSED, CLOSED)
    assert gets(store, keys.RECEIPTS) == CLOSED
    assert store.made("put") == [keys.rollup(0), keys.rollup(1), keys.rollup(2)]
    store.calls.clear()
    again = taken_up(half_done)
    assert (again.open_shards, again.progress) == (run.open_shards, run.progress)
    assert store.made("list").count(keys.RECEIPTS) == 1
    assert gets(store, keys.ROLLUPS) == 3
    assert gets(store, keys.RECEIPTS) == 0
    assert store.made("put") == []


def test_what_an_invocation_closes_completes_what_it_found(half_done: Made) -> None:
    store, _ = half_done
    run = taken_up(half_done)
    close_shards(store, range(CLOSED, SHARDS))
    for shard in range(CLOSED, SHARDS):
        run.rollups.add(receipt_of(shard))
    assert store.made("put")[3:] == [keys.rollup(2)]
    store.calls.clear()
    assert taken_up(half_done).open_shards == 0
    assert gets(store, keys.RECEIPTS) == 0


def test_logs_are_read_of_open_shards_alone_and_many_at_once(half_done: Made) -> None:
    store, _ = half_done
    failure = Failure(
        attempt="a",
        worker="w",
        error_type="OSError",
        error="no",
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    for shard in range(CLOSED - 100, CLOSED + 100):
        write_attempts(store, AttemptLog(shard=shard, failures=(failure,)))
    store.put(f"{keys.ATTEMPTS}strange.json", b"{}")
    store.put(keys.attempts(SHARDS), b"{}")
    store.calls.clear()
    taken_up(half_done)
    read = [key for key in store.made("get") if key.startswith(keys.ATTEMPTS)]
    assert sorted(read) == [keys.attempts(shard) for shard in range(CLOSED, CLOSED + 100)]


def test_twenty_thousand_shards_are_taken_up_by_one_list_and_twenty_requests(
    tmp_path: Path, figure: Callable[[str, object], None]
) -> None:
    shards = 20_000
    store = FaultyStore(MemoryStore("memory://large/run"))
    record = make_record(store, tmp_path, shards)
    close_shards(store, range(shards - 10))
    taken_up((store, record))
    store.calls.clear()
    begun_s = time.monotonic()
    assert taken_up((store, record)).open_shards == 10
    seconds = time.monotonic() - begun_s
    assert gets(store, keys.ROLLUPS) == 20
    assert len(store.calls) <= 20 + 2
    figure("taking up 20,000 shards: requests (a LIST counts as one)", len(store.calls))
    figure("taking up 20,000 shards: seconds, in memory", round(seconds, 2))
