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


def failure(*rows: int, died: bool = True, **changes) -> Failure:
    given = {
        "attempt": None,
        "worker": "w1",
        "error_type": "worker_died",
        "error": "gone",
        "at": NOW,
        "in_flight": rows,
        "died": died,
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
    record_failure(store, 5, failure(died=False))
    assert len(read_attempts(store, 5).failures) == 1


def test_rows_in_flight_when_a_process_died_are_suspects() -> None:
    assert log().suspects() == frozenset()
    assert log(failure(1, 2), failure(2, 3)).suspects() == {1, 2, 3}


def test_rows_of_an_attempt_that_nobody_ended_are_suspects() -> None:
    assert log(now=current(4, 5)).suspects() == {4, 5}


def test_an_attempt_that_failed_and_lived_makes_no_suspects() -> None:
    assert log(failure(1, 2, died=False)).suspects() == frozenset()


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
    if deaths:
        *earlier, last = deaths
        unended = log(*(failure(*rows) for rows in earlier), now=current(*last))
        assert unended.condemned() == condemned


def test_failures_that_lived_condemn_nobody() -> None:
    assert log(failure(1, died=False), failure(1, died=False)).condemned() == frozenset()


def test_a_death_takes_over_what_the_attempt_had_noted() -> None:
    store = MemoryStore()
    write_attempts(store, log(now=current(3, 4)))
    left = record_failure(store, 5, failure())
    assert left == read_attempts(store, 5)
    assert (left.failures[0].attempt, left.failures[0].in_flight) == ("a9", (3, 4))
    assert left.current is None


def test_failures_add_up_in_order() -> None:
    store = MemoryStore()
    for number in range(3):
        record_failure(store, 5, failure(died=False, error=f"error {number}"))
    assert [known.error for known in read_attempts(store, 5).failures] == [
        "error 0",
        "error 1",
        "error 2",
    ]
