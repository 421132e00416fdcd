"""Two attempts at one shard, a sweep and a cancel, interleaved call by call.

All four are the real code, each in a thread of its own. Before every call to the store a seeded
chance decides who goes on, and now and then that an answer is lost. Whatever the order, the shard
ends once, nothing of the winner is touched, and everybody knows how it ended.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from render_farm.errors import StoreError
from render_farm.farm.messages import ShardClosed, ShardFailed
from render_farm.farm.opening import new_run_record
from render_farm.farm.prepare import prepare
from render_farm.ledger import keys
from render_farm.ledger.cancel import cancel_run
from render_farm.ledger.record import RunRecord, create_record
from render_farm.ledger.sweep import sweep_run
from render_farm.store.base import Store
from render_farm.store.memory import MemoryBucket, MemoryStore
from tests.ledger.turns import Turns
from tests.ledger.whole import (
    Line,
    assert_only_named_objects,
    read_lines,
    read_receipts,
)
from tests.making.jobs import make_job, write_prompts
from tests.making.stores import Call, Fault, FaultyStore, fails, loses_answer, render_on

SCHEDULES = 1500
FEWEST_DIFFERENT = 1000
STEADY = [0.0, 0.25, 0.5, 0.75]
"""How probably a participant goes on alone: from a fine shuffle to long stretches."""

ATTEMPTS = ("attempt a", "attempt b")
SWEEPS = 3
LATEST_START = 15
"""A participant comes after up to so many idle turns; an attempt has about as many calls."""

FAULTS: list[Fault] = [loses_answer, loses_answer, fails]
FAULTLESS = 40
"""One call in so many is struck."""


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, MemoryBucket]:
    """A run of one shard, a picture and a quarantined row, as it is before anybody renders it."""
    folder: Path = tmp_path_factory.mktemp("lone")
    prompts = write_prompts(folder / "prompts.parquet", rows=2, guidance_scale=[7.5, -1.0])
    job = make_job(
        prompts,
        "memory://lone/run",
        shards={"rows": 2},
        defaults={"width": 8, "height": 8},
        limits={"max_quarantined": 1.0},
        workers={"count": 1, "batch_size": 2},
    )
    bucket = MemoryBucket()
    record = create_record(MemoryStore(bucket=bucket), new_run_record(prepare(job, "/nonexistent")))
    return record, bucket


@pytest.fixture(scope="module")
def expected(submitted: tuple[RunRecord, MemoryBucket]) -> list[Line]:
    """The lines of the shard, had nobody interfered."""
    record, bucket = submitted
    store = MemoryStore(bucket=MemoryBucket(dict(bucket.objects)))
    render_on(store, record, 0)
    return read_lines(store)


@dataclass(frozen=True)
class Deletion:
    """Who deleted which object of an attempt, and who held the receipt at that moment."""

    by: str
    key: str
    winner: str | None


@dataclass
class Story:
    """One schedule: what everybody did, in order, and how it ended."""

    record: RunRecord
    store: MemoryStore
    turns: Turns
    faulty: bool
    trace: list[tuple[str, str, str, str]] = field(default_factory=list)
    attempts: dict[str, str] = field(default_factory=dict)
    deletions: list[Deletion] = field(default_factory=list)
    struck: set[str] = field(default_factory=set)
    ends: dict[str, object] = field(default_factory=dict)

    def play(self) -> Story:
        deeds: dict[str, Callable[[Store], object]] = {
            **{name: lambda store: render_on(store, self.record, 0) for name in ATTEMPTS},
            "sweep": sweep_again_and_again,
            "cancel": lambda store: cancel_run(store, self.record),
        }
        self.ends = self.turns.run({name: self._part(name, deeds[name]) for name in deeds})
        return self

    def _part(self, name: str, deed: Callable[[Store], object]) -> Callable[[], object]:
        late = self.turns.chance.randrange(LATEST_START)

        def part() -> object:
            for _ in range(late):
                self.turns.wait(name)
            return deed(self._seen_by(name))

        return part

    @property
    def receipt(self) -> dict[str, Any] | None:
        receipts = read_receipts(self.store)
        return receipts[0] if receipts else None

    def _seen_by(self, name: str) -> FaultyStore:
        def script(call: Call) -> Fault | None:
            self.turns.wait(name)
            self._remember(name, call)
            fault = self._fault()
            self.trace.append((name, call.method, _room(call.key), fault.__name__ if fault else ""))
            if fault:
                self.struck.add(name)
            return fault

        return FaultyStore(self.store, script)

    def _remember(self, name: str, call: Call) -> None:
        owner = keys.owner(call.key)
        if owner and call.method == "upload":
            self.attempts[name] = owner[1]
        if owner and call.method == "delete":
            winner = self.receipt
            self.deletions.append(Deletion(name, call.key, winner and winner["attempt"]))

    def _fault(self) -> Fault | None:
        chance = self.turns.chance
        struck = self.faulty and chance.randrange(FAULTLESS) == 0
        return chance.choice(FAULTS) if struck else None


def sweep_again_and_again(store: Store) -> int:
    """One sweep alone has mostly ended before there is any orphan."""
    return sum(sweep_run(store, 1).objects for _ in range(SWEEPS))


def _room(key: str) -> str:
    """The part of a key that is no random name, so that schedules can be compared."""
    return key.partition("-")[0]


def tell(seed: int, submitted: tuple[RunRecord, MemoryBucket]) -> Story:
    """The schedule of a seed."""
    record, bucket = submitted
    chance = random.Random(seed)
    steady = chance.choice(STEADY)
    store = MemoryStore(bucket=MemoryBucket(dict(bucket.objects)))
    return Story(record, store, Turns(chance, steady), faulty=seed % 2 == 1).play()


def assert_the_shard_ended_once(story: Story, expected: list[Line]) -> None:
    receipt = story.receipt
    for deletion in story.deletions:
        assert deletion.winner is not None, f"{deletion}: nobody had won"
        assert deletion.winner not in deletion.key, f"{deletion}: the winner's own"
        own = story.attempts.get(deletion.by, "nothing")
        assert deletion.by == "sweep" or own in deletion.key, f"{deletion}: of a rival"
    for name in ATTEMPTS:
        assert_knows(story, name, receipt)
    cancelled = receipt is not None and receipt["kind"] == "cancelled"
    end = story.ends["cancel"]
    assert end == int(cancelled) or ("cancel" in story.struck and isinstance(end, StoreError)), end
    assert isinstance(story.ends["sweep"], int | StoreError), story.ends["sweep"]
    assert "sweep" in story.struck or isinstance(story.ends["sweep"], int)
    if receipt is None:  # everybody's store failed: it is as if nothing had been
        assert story.struck >= {*ATTEMPTS, "cancel"}
        render_on(story.store, story.record, 0)
        cancelled = False
    assert read_lines(story.store) == ([] if cancelled else expected)
    sweep_run(story.store, 1)
    assert_only_named_objects(story.store)
    assert len(read_receipts(story.store)) == 1


def assert_knows(story: Story, name: str, receipt: dict[str, Any] | None) -> None:
    """What the attempt answered is what came of it, and it took back what did not come to it."""
    answer, own = story.ends[name], story.attempts.get(name)
    won = receipt is not None and own == receipt["attempt"]
    if isinstance(answer, ShardClosed):
        assert receipt is not None
        assert (answer.receipt.attempt, answer.own) == (receipt["attempt"], won)
        if not won:
            left = [info.key for info in story.store.list() if own and own in info.key]
            assert left == [], f"{name} withdrew and left {left}"
    else:
        assert isinstance(answer, ShardFailed), answer
        assert name in story.struck, f"{name}: {answer.failure.error}"
        assert not won


def test_the_same_seed_gives_the_same_schedule(
    submitted: tuple[RunRecord, MemoryBucket],
) -> None:
    for seed in range(20):
        assert tell(seed, submitted).trace == tell(seed, submitted).trace


@pytest.mark.timeout(1800)
def test_whatever_the_order_of_calls_a_shard_ends_once(
    submitted: tuple[RunRecord, MemoryBucket],
    expected: list[Line],
    figure: Callable[[str, object], None],
) -> None:
    started, cpu = time.monotonic(), time.process_time()
    traces: set[int] = set()
    winners = dict.fromkeys((*ATTEMPTS, "cancel", "nobody"), 0)
    struck = deletions = 0
    for seed in range(SCHEDULES):
        story = tell(seed, submitted)
        winners[winner_of(story)] += 1
        try:
            assert_the_shard_ended_once(story, expected)
        except AssertionError as error:
            error.add_note("\n".join([f"seed {seed}", *map(str, story.trace), str(story.ends)]))
            raise
        traces.add(hash(tuple(story.trace)))
        struck += len([step for step in story.trace if step[3]])
        deletions += len(story.deletions)
    figure("interleavings: schedules of two attempts, sweeps and a cancel", SCHEDULES)
    figure("interleavings: different ones", len(traces))
    figure("interleavings: calls whose answer was lost or that failed", struck)
    figure("interleavings: objects of losers deleted", deletions)
    figure("interleavings: who won", ", ".join(f"{k} {v}" for k, v in winners.items()))
    figure("interleavings: seconds", round(time.monotonic() - started))
    figure("interleavings: seconds of CPU", round(time.process_time() - cpu))
    assert len(traces) >= FEWEST_DIFFERENT
    assert all(winners[name] for name in (*ATTEMPTS, "cancel"))
    assert deletions > SCHEDULES / 2


def winner_of(story: Story) -> str:
    receipt = story.receipt
    if receipt is None:
        return "nobody"
    if receipt["kind"] == "cancelled":
        return "cancel"
    return next(name for name, own in story.attempts.items() if own == receipt["attempt"])
