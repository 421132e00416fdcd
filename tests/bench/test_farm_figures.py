"""What the figures of a measured run are made of: pure, from made-up events."""

from __future__ import annotations

from dataclasses import replace

import pytest

from render_farm.errors import InputError, StopError
from render_farm.farm.bench.figures import FarmFigures, farm_figures
from render_farm.farm.bench.observed_pool import Commit, Observed, ObservedPool
from render_farm.farm.bench.options import FarmOptions
from render_farm.farm.messages import Assignment, ShardClosed, Tally, Usage, WorkerOptions
from render_farm.farm.pool import Answered, Lost, PoolEvent, Ready
from render_farm.ledger.attempts import AttemptLog
from render_farm.ledger.receipt import Receipt, RowCounts, SampleCounts

MB = 1_000_000


def usage(
    engine_s: float = 1.0, images: tuple[float, float] = (100.0, 110.0), peak: int = 100 * MB
) -> Usage:
    return Usage(peak, engine_s, *images, requests={"get": 5, "put": 1})


def observed(*commits: Commit, **usages: Usage) -> Observed:
    found = Observed(messages=2 * len(commits), commits=list(commits))
    found.usages = usages or {commit.worker: usage() for commit in commits}
    return found


def figures(options: FarmOptions, found: Observed) -> FarmFigures:
    return farm_figures(options, found, {"get": 7, "list": 2}, 200 * MB)


PLAIN = FarmOptions(rows=60)
STAND_IN = FarmOptions(rows=640, sleep_ms=30, steps=20, batch=16)


def test_rates_are_from_the_first_commit_to_the_last_without_each_workers_first_shard():
    """Two workers in step commit ten rows each a second: twenty rows a second."""
    commits = [Commit(worker, float(at), 10, 10) for at in range(1, 4) for worker in ("a", "b")]
    found = figures(PLAIN, observed(*commits))
    assert (found.rows, found.seconds, found.rows_per_s) == (60, 2.0, 20.0)


def test_requests_are_those_of_the_driver_and_of_every_worker_by_kind():
    found = figures(PLAIN, observed(Commit("a", 1, 1, 1), Commit("b", 2, 1, 1)))
    assert found.store_requests == {"get": 17, "put": 2, "list": 2}


def test_memory_is_the_drivers_and_the_largest_workers():
    usages = {"a": usage(peak=120 * MB), "b": usage(peak=130 * MB)}
    found = figures(PLAIN, observed(Commit("a", 1, 1, 1), Commit("b", 2, 1, 1), **usages))
    assert (found.driver_peak_mb, found.worker_peak_mb) == (200, 130)


def test_duty_is_of_all_workers_from_the_very_first_image_to_the_very_last():
    usages = {"a": usage(6.0, (100.0, 108.0)), "b": usage(8.0, (102.0, 110.0))}
    found = figures(PLAIN, observed(Commit("a", 1, 1, 1), Commit("b", 2, 1, 1), **usages))
    assert found.duty == pytest.approx(14 / 20)


def test_of_a_stand_in_only_lanes_that_became_pictures_count_and_no_first_batch():
    """Twenty batches of 0.6 s each, of which one is before each worker's first image."""
    usages = {"a": usage(99.0, (100.0, 112.0)), "b": usage(99.0, (100.0, 112.0))}
    commits = [Commit(worker, at, 160, 160) for at in (1.0, 2.0) for worker in ("a", "b")]
    found = figures(STAND_IN, observed(*commits, **usages))
    assert found.duty == pytest.approx(2 * 19 * 0.6 / (2 * 12))
    lost = [replace(commit, samples=150) for commit in commits]
    assert figures(STAND_IN, observed(*lost, **usages)).duty < found.duty


def test_workers_that_do_not_say_what_they_used_are_an_error_and_no_zero():
    with pytest.raises(StopError, match="nothing is known of what b used"):
        figures(PLAIN, observed(Commit("a", 1, 1, 1), Commit("b", 2, 1, 1), a=usage()))


def test_fewer_shards_than_could_be_counted_are_refused():
    with pytest.raises(InputError) as refused:
        FarmOptions(rows=10, shard_rows=5).resolved()
    assert refused.value.problems[0].field == "--rows"
    assert FarmOptions(rows=2000).resolved().shard_rows == 50
    assert FarmOptions(rows=10**6).resolved().shard_rows == 1000
    assert FarmOptions(rows=10**6, sleep_ms=30).resolved().shard_rows == 64


class ScriptedPool:
    """Answers `poll` with what it was given, a list a call."""

    separate = True

    def __init__(self, *polls: list[PoolEvent]) -> None:
        self.polls = list(polls)
        self.calls: list[str] = []

    def poll(self, timeout_s: float) -> list[PoolEvent]:
        return self.polls.pop(0) if self.polls else []

    def start(self, options: WorkerOptions) -> None: ...
    def assign(self, worker: str, assignment: Assignment) -> None:
        self.calls.append(f"assign {worker} {assignment.shard}")

    def abandon(self, worker: str, shard: int, *, unless_begun: bool) -> None:
        self.calls.append(f"abandon {worker} {shard}")

    def discard(self, worker: str) -> None:
        self.calls.append(f"discard {worker}")

    def stop(self) -> None: ...
    def avoid(self, nodes: object) -> None: ...
    def close(self) -> None: ...


def closed(own: bool = True, rows: int = 4) -> ShardClosed:
    receipt = Receipt(
        kind="rendered",
        shard=0,
        attempt="a" * 12,
        first_row=0,
        rows=rows,
        counts=RowCounts(done=rows),
        samples=SampleCounts(done=rows),
        objects=(),
        errors_by_type={},
        versions={},
    )
    return ShardClosed(receipt, own, samples_rendered=rows, usage=usage())


def test_nobody_is_ready_before_all_are():
    pool = ObservedPool(ScriptedPool([Ready("a")], [], [Ready("b")], [Ready("c")]), together=2)
    assert [list(pool.poll(0)) for _ in range(4)] == [
        [],
        [],
        [Ready("a"), Ready("b")],
        [Ready("c")],
    ]


def test_a_worker_that_cannot_start_holds_nobody_back():
    pool = ObservedPool(ScriptedPool([Ready("a")], [Lost("b", "gone")]), together=2)
    assert list(pool.poll(0)) == []
    assert list(pool.poll(0)) == [Lost("b", "gone"), Ready("a")]


def test_a_worker_that_was_discarded_is_never_ready():
    pool = ObservedPool(ScriptedPool([Ready("a")], [Ready("b")]), together=2)
    assert list(pool.poll(0)) == []
    pool.discard("a")
    assert list(pool.poll(0)) == [Ready("b")]


def test_messages_are_assignments_abandonings_and_answers():
    inner = ScriptedPool([Answered("a", closed()), Answered("b", closed(own=False))])
    pool = ObservedPool(inner, together=0, clock=lambda: 5.0)
    pool.assign("a", Assignment(0, AttemptLog(shard=0), Tally()))
    pool.assign("b", Assignment(0, AttemptLog(shard=0), Tally()))
    pool.abandon("b", 0, unless_begun=True)
    assert len(list(pool.poll(0))) == 2
    assert inner.calls == ["assign a 0", "assign b 0", "abandon b 0"]
    assert pool.observed.messages == 5
    assert pool.observed.commits == [Commit("a", 5.0, 4, 4)]
    assert set(pool.observed.usages) == {"a", "b"}
    assert pool.observed.first_assigned_at == {"a": 5.0, "b": 5.0}
