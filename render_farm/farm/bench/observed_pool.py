"""A pool that notes what passes between the driver and its workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field

from render_farm.farm.messages import Assignment, ShardClosed, Usage, WorkerOptions
from render_farm.farm.pool import Answered, Lost, Placed, Pool, PoolEvent, Ready, Refusal


@dataclass(frozen=True, slots=True)
class Commit:
    """A shard that a worker committed, and when the driver heard of it.

    `at` is in seconds since the epoch, as the times of `Usage` are.
    """

    worker: str
    at: float
    rows: int
    samples: int


@dataclass(slots=True)
class Observed:
    """What was noted. `usages` are the last of each worker, `nodes` where each was placed."""

    messages: int = 0
    commits: list[Commit] = field(default_factory=list)
    usages: dict[str, Usage] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    first_assigned_at: dict[str, float] = field(default_factory=dict)


class ObservedPool:
    """Passes everything on to a `Pool` and notes it.

    Workers that start get their first shard together: until `together` of them are ready, or one
    of them cannot be, nobody is. How long processes take to start is Ray's affair, and the farm is
    measured with all of its workers at work.
    """

    def __init__(self, pool: Pool, together: int, clock: Callable[[], float] = time.time) -> None:
        self.observed = Observed()
        self._pool = pool
        self._missing = together
        self._held: list[Ready] = []
        self._clock = clock

    @property
    def separate(self) -> bool:
        return self._pool.separate

    def start(self, options: WorkerOptions) -> None:
        self._pool.start(options)

    def assign(self, worker: str, assignment: Assignment) -> None:
        self.observed.messages += 1
        self.observed.first_assigned_at.setdefault(worker, self._clock())
        self._pool.assign(worker, assignment)

    def abandon(self, worker: str, shard: int, *, unless_begun: bool) -> None:
        self.observed.messages += 1
        self._pool.abandon(worker, shard, unless_begun=unless_begun)

    def stop(self) -> None:
        self._pool.stop()

    def discard(self, worker: str) -> None:
        self._held = [ready for ready in self._held if ready.worker != worker]
        self._pool.discard(worker)

    def avoid(self, nodes: Set[str]) -> None:
        self._pool.avoid(nodes)

    def room(self) -> int:
        return self._pool.room()

    def want(self, workers: int) -> None:
        self._pool.want(workers)

    def poll(self, timeout_s: float) -> Iterator[PoolEvent]:
        """As `Pool.poll`; `Ready` waits for the others."""
        for event in self._pool.poll(timeout_s):
            self._note(event)
            if not self._waits(event):
                yield event
            while self._held and not self._missing:
                yield self._held.pop(0)

    def close(self) -> None:
        self._pool.close()

    def _waits(self, event: PoolEvent) -> bool:
        """Whether the event is held back until the others are ready."""
        if isinstance(event, Lost | Refusal):
            self._missing = 0
        if not self._missing or not isinstance(event, Ready):
            return False
        self._missing -= 1
        self._held.append(event)
        return True

    def _note(self, event: PoolEvent) -> None:
        if isinstance(event, Placed):
            self.observed.nodes[event.worker] = event.node
        if isinstance(event, Answered):
            self.observed.messages += 1
            if isinstance(event.answer, ShardClosed):
                self._note_closed(event.worker, event.answer)

    def _note_closed(self, worker: str, closed: ShardClosed) -> None:
        if closed.usage is not None:
            self.observed.usages[worker] = closed.usage
        if closed.own:
            rows, samples = closed.receipt.rows, closed.samples_rendered
            self.observed.commits.append(Commit(worker, self._clock(), rows, samples))
