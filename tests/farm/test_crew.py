"""The books on the workers: who is ended for its silence."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from render_farm.farm.crew import Crew
from render_farm.farm.messages import Assignment, Tally, WorkerOptions
from render_farm.farm.watch import FIRST_S, FLOOR_S, Watch
from render_farm.ledger.attempts import AttemptLog, Current, write_attempts
from render_farm.store.memory import MemoryStore

SHARD = 7


class Pool:
    """Remembers whom it was told to end."""

    def __init__(self, *, separate: bool = True) -> None:
        self.separate = separate
        self.started: list[str] = []
        self.ended: list[str] = []

    def start(self, options: WorkerOptions) -> None:
        self.started.append(options.worker)

    def assign(self, worker: str, assignment: Assignment) -> None: ...

    def discard(self, worker: str) -> None:
        self.ended.append(worker)

    def avoid(self, nodes: frozenset[str]) -> None: ...


def crew_with_a_shard(pool: Pool, stalled_after_s: float = 0.0, watch: Watch | None = None) -> Crew:
    options = WorkerOptions("memory://x", "t", "d", 1, 0.05, "keep", "/nonexistent")
    crew = Crew(pool, options, watch or Watch(stalled_after_s), lambda shard: 10)
    crew.start_one()
    crew.is_ready("d-1")
    crew.assign("d-1", Assignment(SHARD, AttemptLog(shard=SHARD), Tally()))
    time.sleep(0.01)
    return crew


def note(store: MemoryStore, worker: str, shard: int = SHARD) -> None:
    current = Current(attempt="a", worker=worker, started_at=datetime.now(UTC), in_flight=(1,))
    write_attempts(store, AttemptLog(shard=shard, current=current))


def test_a_worker_that_says_nothing_is_ended():
    pool, store = Pool(), MemoryStore()
    crew = crew_with_a_shard(pool)
    assert crew.end_stalled(store, time.monotonic()).keys() == {"d-1"}
    assert pool.ended == ["d-1"]


def test_what_came_while_the_driver_was_held_up_is_no_silence():
    pool, store = Pool(), MemoryStore()
    crew = crew_with_a_shard(pool, stalled_after_s=10.0)
    listened_s = time.monotonic()
    assert crew.end_stalled(store, listened_s) == {}
    assert crew.end_stalled(store, listened_s + 11.0).keys() == {"d-1"}


@pytest.mark.parametrize(("rendered", "limit_s"), [(True, FLOOR_S), (False, FIRST_S)])
def test_only_a_shard_that_was_rendered_teaches_how_long_one_takes(rendered: bool, limit_s: float):
    watch = Watch(None)
    crew = crew_with_a_shard(Pool(), watch=watch)
    crew.answered("d-1", SHARD, rendered=rendered)
    assert watch.limit_s(10) == limit_s


@pytest.mark.parametrize(("noted_by", "lives"), [("d-1", True), ("another", False)])
def test_a_new_note_of_its_own_on_its_shard_is_a_sign_of_life(noted_by: str, lives: bool):
    pool, store = Pool(), MemoryStore()
    crew = crew_with_a_shard(pool, stalled_after_s=0.2)
    time.sleep(0.3)
    note(store, noted_by)
    assert (crew.end_stalled(store, time.monotonic()) == {}) == lives


def test_a_note_on_any_of_its_shards_is_a_sign_of_life():
    pool, store = Pool(), MemoryStore()
    crew = crew_with_a_shard(pool, stalled_after_s=0.2)
    crew.assign("d-1", Assignment(8, AttemptLog(shard=8), Tally()))
    time.sleep(0.3)
    note(store, "d-1", shard=8)
    assert crew.end_stalled(store, time.monotonic()) == {}


def test_a_shard_more_is_no_sign_of_life_and_an_answer_is():
    crew = crew_with_a_shard(Pool(), stalled_after_s=10.0)
    listened_s = time.monotonic() + 10.0
    time.sleep(0.2)
    crew.assign("d-1", Assignment(8, AttemptLog(shard=8), Tally()))
    assert crew.end_stalled(MemoryStore(), listened_s).keys() == {"d-1"}
    crew.answered("d-1", SHARD, rendered=True)
    assert crew.end_stalled(MemoryStore(), time.monotonic() + 9.0) == {}
    assert crew.end_stalled(MemoryStore(), time.monotonic() + 11.0).keys() == {"d-1"}


def test_a_worker_that_has_answered_all_of_its_shards_is_not_waited_for():
    crew = crew_with_a_shard(Pool())
    assert crew.busy
    crew.answered("d-1", SHARD, rendered=True)
    assert not crew.busy
    assert crew.end_stalled(MemoryStore(), time.monotonic() + 1e6) == {}


def test_only_workers_that_wait_for_room_are_given_up_when_there_are_too_many():
    pool = Pool()
    crew = crew_with_a_shard(pool)
    for _ in range(3):
        crew.start_one()
    crew.placed("d-2")
    assert crew.size == 4
    crew.trim(3)
    assert pool.ended == ["d-3"]
    crew.trim(0)
    assert pool.ended == ["d-3", "d-4"]
    assert crew.size == 2


def test_a_worker_of_this_process_cannot_be_ended():
    pool, store = Pool(separate=False), MemoryStore()
    crew = crew_with_a_shard(pool)
    assert crew.end_stalled(store, time.monotonic() + 1e6) == {}
    assert pool.ended == []


def test_workers_that_wait_for_room_are_started_anew_where_nodes_are_left_out():
    pool = Pool()
    crew = crew_with_a_shard(pool)
    crew.start_one()
    crew.start_one()
    crew.placed("d-3")
    crew.avoid(frozenset({"sick"}))
    assert pool.started == ["d-1", "d-2", "d-3", "d-4"]
    assert pool.ended == ["d-2"]


def test_after_a_worker_that_could_not_start_the_next_waits_and_then_twice_as_long():
    pool = Pool()
    options = WorkerOptions("memory://x", "t", "d", 1, 0.05, "keep", "/nonexistent")
    crew = Crew(pool, options, Watch(None), lambda shard: 10, pause_s=0.2)
    crew.start_one()
    pauses = []
    for number in (1, 2, 3):
        began_s = time.monotonic()
        crew.replace(f"d-{number}")
        while len(pool.started) == number:
            time.sleep(0.005)
            crew.start_due()
        pauses.append(time.monotonic() - began_s)
    assert [pause >= least for pause, least in zip(pauses, (0.2, 0.4, 0.8), strict=True)] == [
        True
    ] * 3
    crew.is_ready("d-4")
    crew.replace("d-4")  # it had started well: its place is taken at once
    assert len(pool.started) == 5
