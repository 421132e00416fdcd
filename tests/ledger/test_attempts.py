"""What an attempt leaves for the next one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from render_farm.ledger import keys
from render_farm.ledger.attempts import (
    AttemptLog,
    Current,
    Failure,
    clear_attempts,
    read_attempts,
    record_failure,
    write_attempts,
)
from render_farm.store.memory import MemoryStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def failure(*rows: int, end: str = "process", **changes) -> Failure:
    given = {
        "attempt": None,
        "worker": "w1",
        "error_type": "worker_died",
        "error": "gone",
        "at": NOW,
        "in_flight": rows,
        "end": end,
    }
    return Failure(**(given | changes))


def current(*rows: int) -> Current:
    return Current(attempt="a9", worker="w9", started_at=NOW, in_flight=rows)


def log(*failures: Failure, now: Current | None = None) -> AttemptLog:
    return AttemptLog(shard=5, failures=failures, current=now)


def test_a_shard_that_nobody_tried_has_an_empty_log() -> None:
    assert read_attempts(MemoryStore(), 5) == AttemptLog(shard=5)


def test_a_log_reads_back_as_it_was_written_and_is_forgotten_when_cleared() -> None:
    store = MemoryStore()
    written = log(failure(1, 2), now=current(3)).model_copy(update={"failed": True})
    write_attempts(store, written)
    assert read_attempts(store, 5) == written
    clear_attempts(store, 5)
    clear_attempts(store, 5)
    assert read_attempts(store, 5) == AttemptLog(shard=5)


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b'{"shard": 5, "failures": 3}', b"\xff"])
def test_an_object_of_garbage_costs_its_knowledge_and_nothing_else(garbage: bytes) -> None:
    store = MemoryStore()
    store.put(keys.attempts(5), garbage)
    assert read_attempts(store, 5) == AttemptLog(shard=5)
    record_failure(store, AttemptLog(shard=5), failure(end="error"))
    assert len(read_attempts(store, 5).failures) == 1


def test_rows_in_flight_when_a_process_died_are_suspects() -> None:
    assert log().suspects() == frozenset()
    assert log(failure(1, 2), failure(2, 3)).suspects() == {1, 2, 3}


def test_a_driver_that_ended_with_its_workers_makes_no_suspects_the_first_time() -> None:
    """A killed driver must not cost the next one a full batch for every row it had in flight."""
    assert log(now=current(4, 5)).suspects() == frozenset()
    assert log(now=current(4, 5)).taken_up(NOW).suspects() == frozenset()


def test_rows_in_flight_at_two_ends_that_nobody_saw_are_suspects() -> None:
    once = log(now=current(4, 5)).taken_up(NOW)
    twice = once.model_copy(update={"current": current(5, 6)}).taken_up(NOW)
    assert twice.suspects() == {5}
    assert twice.condemned() == frozenset()
    alone = twice.model_copy(update={"current": current(5)}).taken_up(NOW)
    assert alone.condemned() == {5}


def test_a_new_driver_takes_a_shard_up_anew_and_keeps_what_is_known() -> None:
    left = log(failure(1), now=current(2)).model_copy(update={"failed": True}).taken_up(NOW)
    assert not left.failed
    assert left.current is None
    assert [(f.end, f.in_flight) for f in left.failures] == [("process", (1,)), ("unseen", (2,))]


def test_an_attempt_that_failed_and_lived_makes_no_suspects() -> None:
    assert log(failure(1, 2, end="error")).suspects() == frozenset()


@pytest.mark.parametrize(
    ("deaths", "condemned"),
    [
        ([], set()),
        ([(1,)], set()),  # alone by chance, the first time
        ([(1, 2)], set()),
        ([(1, 2), (1, 2)], set()),  # never alone
        ([(1, 2), (1,)], {1}),
        ([(1,), (1,)], {1}),
        ([(1,), (1, 2)], set()),  # alone first, in company later
        ([(1, 2), (3,)], set()),  # alone, and not suspected before
        ([(1, 2), (1,), (2,)], {1, 2}),
    ],
)
def test_a_row_is_condemned_that_ended_a_process_alone_after_an_earlier_end(
    deaths: list[tuple[int, ...]], condemned: set[int]
) -> None:
    assert log(*(failure(*rows) for rows in deaths)).condemned() == condemned


def test_failures_that_lived_condemn_nobody() -> None:
    assert log(failure(1, end="error"), failure(1, end="error")).condemned() == frozenset()


def test_a_death_takes_over_what_the_attempt_had_noted() -> None:
    store = MemoryStore()
    write_attempts(store, log(now=current(3, 4)))
    left = record_failure(store, AttemptLog(shard=5), failure())
    assert left == read_attempts(store, 5)
    assert (left.failures[0].attempt, left.failures[0].in_flight) == ("a9", (3, 4))
    assert left.current is None


def test_failures_add_up_in_order() -> None:
    store = MemoryStore()
    for number in range(3):
        record_failure(store, AttemptLog(shard=5), failure(end="error", error=f"error {number}"))
    assert [known.error for known in read_attempts(store, 5).failures] == [
        "error 0",
        "error 1",
        "error 2",
    ]
