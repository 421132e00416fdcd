"""What the end of a worker leaves in the store."""

from __future__ import annotations

from datetime import UTC, datetime

from render_farm.farm.losses import record_attempt, record_loss
from render_farm.farm.messages import Tally
from render_farm.farm.scheduler import Scheduler
from render_farm.ledger import keys
from render_farm.ledger.attempts import AttemptLog, Current, Failure, read_attempts, write_attempts
from render_farm.store.base import exists
from render_farm.store.memory import MemoryStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def scheduler_with(**places: int) -> Scheduler:
    scheduler = Scheduler(iter(range(4)), {}, Tally(), 3, 0.05)
    for worker, count in places.items():
        scheduler.worker_ready(worker, count)
    return scheduler


def note(store: MemoryStore, shard: int, worker: str, *rows: int) -> None:
    current = Current(attempt="a", worker=worker, started_at=NOW, in_flight=rows)
    write_attempts(store, AttemptLog(shard=shard, current=current))


def death(worker: str) -> Failure:
    return Failure(
        attempt=None, worker=worker, error_type="worker_died", error="x", at=NOW, end="process"
    )


def test_the_shards_that_were_begun_know_of_it_and_the_others_are_untouched():
    store, scheduler = MemoryStore(), scheduler_with(a=3)
    note(store, 0, "a", 1, 2)
    note(store, 1, "a", 5)
    logs = record_loss(store, scheduler, death("a"))
    assert {shard: log.suspects() for shard, log in logs.items()} == {0: {1, 2}, 1: {5}}
    assert not exists(store, keys.attempts(2))


def test_a_worker_that_ended_before_it_noted_anything_leaves_a_trace_all_the_same():
    store, scheduler = MemoryStore(), scheduler_with(a=3)
    logs = record_loss(store, scheduler, death("a"))
    assert list(logs) == [0]
    assert logs[0].ended_a_process
    assert logs[0].suspects() == frozenset()


def test_a_worker_without_a_shard_leaves_none():
    assert record_loss(MemoryStore(), scheduler_with(a=4, b=1), death("nobody")) == {}


def test_the_note_of_another_attempt_that_goes_on_stands():
    store, scheduler = MemoryStore(), scheduler_with(a=4, b=1)  # b tries the last one as well
    assert scheduler.hands.holders(3) == ("a", "b")
    note(store, 3, "b", 7, 8)
    left = record_attempt(store, scheduler, 3, death("a"))
    assert left.suspects() == frozenset()
    assert [failure.worker for failure in left.failures] == ["a"]
    assert read_attempts(store, 3).current is not None


def test_a_note_of_the_other_attempt_does_not_make_the_driver_forget_a_failure():
    store, scheduler = MemoryStore(), scheduler_with(a=4, b=1)
    scheduler.shard_failed("a", 3, record_attempt(store, scheduler, 3, death("a")))
    note(store, 3, "b", 7, 8)  # as b knows the shard: without that failure
    left = record_attempt(store, scheduler, 3, death("b"))
    assert [failure.worker for failure in left.failures] == ["a", "b"]
