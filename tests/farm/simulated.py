"""A farm that is played by chance: workers begin, close, fail, give back and die in any order.

It holds the scheduler to its word at every decision. Notes of rows in flight and the logs of lost
workers go through a store, as they do in a run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random

from render_farm.farm.decisions import (
    Abandon,
    Assign,
    Avoid,
    Decision,
    GiveUp,
    Release,
    Replace,
)
from render_farm.farm.losses import record_attempt, record_loss
from render_farm.farm.messages import Assignment, Tally
from render_farm.farm.scheduler import Scheduler
from render_farm.ledger.attempts import Current, Failure, write_attempts
from render_farm.ledger.receipt import Receipt, RowCounts
from render_farm.store.memory import MemoryStore

ROWS = 10
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NODES = ("n1", "n2", "n3")
MOST_STEPS = 20_000


@dataclass
class SimulatedWorker:
    node: str
    hand: list[Assignment] = field(default_factory=list)
    begun: set[int] = field(default_factory=set)
    abandoned: dict[int, bool] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    answers: int = 0


@dataclass
class SimulatedFarm:
    """`killers` end the process of every worker that has begun them; `deaths` and `errors` are how
    many other ends of processes, and failures of attempts, chance may spend."""

    random: Random
    shards: int
    places: int
    attempts: int
    workers: int = 3
    killers: frozenset[int] = frozenset()
    deaths: int = 0
    errors: int = 0
    drains: int = 0
    patient: bool = True
    closed: list[int] = field(default_factory=list)
    killed_by: Counter[int] = field(default_factory=Counter)
    at_once: int = 0

    def __post_init__(self) -> None:
        self.store = MemoryStore()
        self.scheduler = Scheduler(
            iter(range(self.shards)),
            {},
            Tally(),
            self.attempts,
            max_quarantined=1.0,
            # So many may be lost in a row that the run is not stopped for it.
            workers=1000 if self.patient else self.workers,
        )
        self.live: dict[str, SimulatedWorker] = {}
        self.starting = [f"w{number}" for number in range(self.workers)]
        self.born = self.workers
        self.avoided: frozenset[str] = frozenset()
        self.drained: set[str] = set()
        self.given_up: set[int] = set()

    def play(self) -> None:
        """Let chance decide what happens next, until the run is finished."""
        for _ in range(MOST_STEPS):
            if self.scheduler.finished:
                return
            moves = self._moves()
            assert moves, "the run is not finished and nothing can happen any more"
            move, worker, shard = self.random.choice(moves)
            self._carry_out(getattr(self, f"_{move}")(worker, shard))
        raise AssertionError("the run does not end")

    def _moves(self) -> list[tuple[str, str, int]]:
        moves = [("ready", worker, -1) for worker in self.starting if self._room()]
        for name, worker in self.live.items():
            moves += self._moves_of(name, worker)
            if self.deaths:
                moves.append(("die", name, -1))
        if self.drains:
            moves += [("drain", node, -1) for node in set(NODES[1:]) - self.drained]
        moves += [("release", worker, -1) for worker in self.scheduler.spare()]
        return moves

    def _room(self) -> list[str]:
        return sorted(set(NODES) - self.avoided - self.drained)

    def _moves_of(self, name: str, worker: SimulatedWorker) -> list[tuple[str, str, int]]:
        moves = []
        for shard in (assignment.shard for assignment in worker.hand):
            if worker.abandoned.get(shard) is False or (
                shard in worker.abandoned and shard not in worker.begun
            ):
                moves.append(("give_back", name, shard))
            if shard in self.closed:
                moves.append(("close", name, shard))
            elif shard not in worker.begun:
                moves.append(("begin", name, shard))
            elif shard in self.killers:
                moves.append(("kill", name, shard))
            else:
                moves.append(("close", name, shard))
                if self.errors:
                    moves.append(("fail", name, shard))
        return moves

    def _ready(self, name: str, _: int) -> list[Decision]:
        self.starting.remove(name)
        node = self.random.choice(self._room())
        self.live[name] = SimulatedWorker(node)
        self.scheduler.worker_placed(name, node)
        return self.scheduler.worker_ready(name, self.places)

    def _begin(self, name: str, shard: int) -> list[Decision]:
        (assignment,) = (a for a in self.live[name].hand if a.shard == shard)
        rows = (shard * ROWS, shard * ROWS + 1)
        current = Current(attempt="a", worker=name, started_at=NOW, in_flight=rows)
        write_attempts(self.store, assignment.log.model_copy(update={"current": current}))
        self.live[name].begun.add(shard)
        return []

    def _close(self, name: str, shard: int) -> list[Decision]:
        self._answered(name, shard)
        if shard not in self.closed:
            self.closed.append(shard)
        receipt = Receipt(
            kind="rendered",
            shard=shard,
            attempt="a",
            first_row=shard * ROWS,
            rows=ROWS,
            counts=RowCounts(done=ROWS),
        )
        return self.scheduler.shard_closed(name, receipt)

    def _fail(self, name: str, shard: int) -> list[Decision]:
        self.errors -= 1
        self._answered(name, shard)
        self.live[name].failed.add(shard)
        if not self.scheduler.hands.is_open(shard):
            return self.scheduler.shard_given_back(name, shard)
        log = record_attempt(self.store, self.scheduler, shard, self._failure(name, "error"))
        return self.scheduler.shard_failed(name, shard, log)

    def _give_back(self, name: str, shard: int) -> list[Decision]:
        self._answered(name, shard)
        return self.scheduler.shard_given_back(name, shard)

    def _kill(self, name: str, shard: int) -> list[Decision]:
        self.killed_by[shard] += 1
        return self._lost(name)

    def _die(self, name: str, _: int) -> list[Decision]:
        self.deaths -= 1
        return self._lost(name)

    def _drain(self, node: str, _: int) -> list[Decision]:
        self.drains -= 1
        self.drained.add(node)
        return self.scheduler.node_drains({node})

    def _release(self, name: str, _: int) -> list[Decision]:
        return self.scheduler.release(name)

    def _lost(self, name: str) -> list[Decision]:
        logs = record_loss(self.store, self.scheduler, self._failure(name, "process"))
        del self.live[name]
        return self.scheduler.worker_lost(name, logs)

    def _failure(self, name: str, end: str) -> Failure:
        return Failure(
            attempt=None,
            worker=name,
            error_type="e",
            error=f"of {name}",
            at=NOW,
            end="error" if end == "error" else "process",
        )

    def _answered(self, name: str, shard: int) -> None:
        worker = self.live[name]
        worker.hand = [a for a in worker.hand if a.shard != shard]
        worker.begun.discard(shard)
        worker.abandoned.pop(shard, None)
        worker.answers += 1

    def _carry_out(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Assign(name, assignment):
                    self._assigned(name, assignment)
                case Abandon(name, shard, unless_begun):
                    assert shard in {a.shard for a in self.live[name].hand}
                    before = self.live[name].abandoned.get(shard, True)
                    self.live[name].abandoned[shard] = before and unless_begun
                case Replace(name) | Release(name):
                    gone = self.live.pop(name, None)
                    assert gone is None or not gone.hand
                    if isinstance(decision, Replace):
                        self.starting.append(f"w{self.born}")
                        self.born += 1
                case Avoid(nodes):
                    self.avoided = nodes
                case GiveUp(shard):
                    assert shard not in self.given_up
                    self.given_up.add(shard)

    def _assigned(self, name: str, assignment: Assignment) -> None:
        worker, shard = self.live[name], assignment.shard
        holders = [w for w in self.live.values() if shard in {a.shard for a in w.hand}]
        assert worker not in holders
        assert len(holders) < 2
        assert not (holders and assignment.log.ended_a_process)
        assert len(worker.hand) < self.places
        assert shard not in self.closed
        assert shard not in self.given_up
        assert shard not in worker.failed
        assert worker.node not in self.drained
        assert assignment.heard == worker.answers
        if worker.hand:
            assert not assignment.log.ended_a_process
            assert not any(other.log.ended_a_process for other in worker.hand)
        worker.hand.append(assignment)
        self.at_once = max(self.at_once, len(worker.hand))
