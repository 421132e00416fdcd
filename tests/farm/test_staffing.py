"""How many workers there are, as sentences. The test holds the clock and the cluster."""

from __future__ import annotations

from dataclasses import dataclass, field

from render_farm.farm.crew import Crew
from render_farm.farm.decisions import Assign, Decision, Release
from render_farm.farm.messages import Assignment, Tally, WorkerOptions
from render_farm.farm.scheduler import Scheduler
from render_farm.farm.staffing import (
    IDLE_S,
    LOOK_S,
    MOST_ASKED_FOR,
    SHARDS_WORTH_A_WORKER,
    Staffing,
)
from render_farm.farm.watch import Watch
from render_farm.ledger.attempts import AttemptLog
from render_farm.ledger.receipt import Receipt, RowCounts


@dataclass
class Pool:
    """A cluster with room for some workers; remembers what it was told."""

    places: int = 0
    started: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    separate: bool = True

    def start(self, options: WorkerOptions) -> None:
        self.started.append(options.worker)
        self.places -= 1

    def assign(self, worker: str, assignment: Assignment) -> None: ...

    def discard(self, worker: str) -> None:
        self.ended.append(worker)

    def room(self) -> int:
        return max(0, self.places)

    def want(self, workers: int) -> None:
        self.wanted.append(workers)


class Farm:
    """A staffing with the crew and the scheduler that it needs."""

    def __init__(self, shards: int, count: int | None, places: int = 0) -> None:
        self.pool = Pool(places)
        options = WorkerOptions("memory://x", "t", "w", 1, 0.05, "keep", "/nonexistent")
        self.crew = Crew(self.pool, options, Watch(None), lambda shard: 10)
        self.scheduler = Scheduler(iter(range(shards)), {}, Tally(), 3, 0.05)
        self.staffing = Staffing(self.pool, self.crew, count)
        self.shards = shards
        self.staffing.begin(shards)

    def look(self, now_s: float) -> list[Decision]:
        return self.staffing.adjust(self.scheduler, self.shards - self.scheduler.decided, now_s)

    def ready(self, worker: str) -> None:
        self.crew.is_ready(worker)
        for decision in self.scheduler.worker_ready(worker):
            if isinstance(decision, Assign):
                self.crew.assign(worker, decision.assignment)

    def close(self, worker: str) -> None:
        for shard in self.scheduler.hands.of(worker):
            receipt = Receipt(
                kind="rendered",
                shard=shard,
                attempt="a",
                first_row=shard,
                rows=1,
                counts=RowCounts(done=1),
            )
            self.scheduler.shard_closed(worker, receipt)


def test_as_many_workers_start_as_there_is_room_for():
    assert Farm(100, None, places=3).pool.started == ["w-1", "w-2", "w-3"]


def test_one_starts_where_there_is_no_room_so_that_the_cluster_knows_what_is_wanted():
    assert Farm(100, None, places=0).pool.started == ["w-1"]


def test_no_more_start_than_there_are_open_shards():
    assert len(Farm(2, None, places=5).pool.started) == 2
    assert len(Farm(2, 5).pool.started) == 2
    farm = Farm(3, None, places=1)
    farm.pool.places = 9
    farm.look(0.0)
    assert len(farm.pool.started) == 3


def test_a_node_that_joins_gets_workers_at_the_next_look():
    farm = Farm(100, None, places=1)
    farm.look(0.0)
    farm.pool.places = 2
    farm.look(LOOK_S - 0.1)
    assert len(farm.pool.started) == 1
    farm.look(LOOK_S)
    assert len(farm.pool.started) == 3


def test_a_count_that_is_given_stays_whatever_room_there_is():
    farm = Farm(100, 2, places=9)
    farm.look(0.0)
    assert len(farm.pool.started) == 2


def test_the_autoscaler_is_asked_for_what_the_shards_that_are_left_deserve():
    farm = Farm(2 * SHARDS_WORTH_A_WORKER + 1, None, places=1)
    assert farm.pool.wanted == [3]
    farm.ready("w-1")
    farm.close("w-1")
    farm.look(0.0)
    assert farm.pool.wanted == [3, 2]


def test_the_autoscaler_is_never_asked_for_more_than_the_job_allows():
    assert Farm(10**6, 7).pool.wanted == [7]
    assert Farm(10**6, None).pool.wanted == [MOST_ASKED_FOR]


def at_its_end() -> Farm:
    """One worker renders the last shard, one tries it as well, two have nothing in hand."""
    farm = Farm(4, 4)
    for number in range(1, 5):
        farm.ready(f"w-{number}")
    for worker in ("w-2", "w-3", "w-4", "w-3"):
        farm.close(worker)
    assert len(farm.scheduler.hands.empty) == 2
    return farm


def test_a_worker_that_there_is_nothing_for_is_given_back_after_a_while():
    farm = at_its_end()
    farm.look(0.0)
    assert farm.look(IDLE_S - 0.1) == []
    released = [d for d in farm.look(2 * IDLE_S) if isinstance(d, Release)]
    assert len(released) == 1  # the other stays, in case that both attempts fail


def test_a_worker_that_was_busy_in_between_begins_its_idleness_anew():
    farm = at_its_end()
    farm.look(0.0)
    (spare,) = farm.scheduler.spare()
    farm.scheduler.hands.give(spare, 99)
    farm.look(IDLE_S)
    farm.scheduler.hands.answered(spare, 99)
    assert farm.look(IDLE_S + LOOK_S) == []


def test_workers_that_wait_for_room_are_forgotten_when_nothing_waits_for_them():
    farm = Farm(3, 3)
    farm.crew.placed("w-1")
    farm.ready("w-1")
    farm.close("w-1")
    farm.look(0.0)
    assert farm.pool.ended == []  # a shard waits
    farm.close("w-1")
    farm.look(LOOK_S)
    assert len(farm.pool.ended) == 2
    assert farm.crew.size == 1


def test_a_run_that_was_stopped_starts_nobody():
    farm = Farm(100, None, places=1)
    farm.scheduler.stop("asked", "resume")
    farm.pool.places = 5
    assert farm.look(0.0) == []
    assert len(farm.pool.started) == 1


def test_an_attempt_log_is_no_reason_for_another_worker():
    """Shards that wait are counted by the plan, not by what is known of them."""
    farm = Farm(1, None, places=3)
    assert farm.scheduler.log(0) == AttemptLog(shard=0)
    assert len(farm.pool.started) == 1
