"""How many workers there are to be, as the cluster changes and the work grows less."""

from __future__ import annotations

from render_farm.farm.crew import Crew
from render_farm.farm.decisions import Decision
from render_farm.farm.pool import Pool
from render_farm.farm.scheduler import Scheduler

LOOK_S = 2.0

IDLE_S = 30.0
"""How long a worker that there is nothing for is kept, should a shard fail after all."""

SHARDS_WORTH_A_WORKER = 4
"""What a new node is to get for the minutes in which it starts and loads its model."""

MOST_ASKED_FOR = 10_000


class Staffing:
    """Starts workers where there is room for them, gives back those that have nothing to do.

    `count` workers, or, if it is None, as many as there is room for; never more than open shards.
    """

    def __init__(self, pool: Pool, crew: Crew, count: int | None) -> None:
        self._pool = pool
        self._crew = crew
        self._count = count
        self._next_look_s: float | None = None
        self._idle_since_s: dict[str, float] = {}

    def begin(self, open_shards: int) -> None:
        """Start the first workers: one at least, so that the cluster knows what is wanted."""
        room = self._pool.room() if self._count is None else self._count
        for _ in range(min(max(room, 1), open_shards)):
            self._crew.start_one()
        self._want(open_shards)

    def adjust(self, scheduler: Scheduler, open_shards: int, now_s: float) -> list[Decision]:
        """Look around, if it is time to."""
        if scheduler.stopped or (self._next_look_s is not None and now_s < self._next_look_s):
            return []
        self._next_look_s = now_s + LOOK_S
        if self._count is None:
            for _ in range(min(self._pool.room(), open_shards - self._crew.size)):
                self._crew.start_one()
        if not scheduler.waiting:
            self._crew.trim(open_shards)
        self._want(open_shards)
        return self._release(scheduler, now_s)

    def _want(self, open_shards: int) -> None:
        deserved = -(-open_shards // SHARDS_WORTH_A_WORKER)
        self._pool.want(min(deserved, self._count or MOST_ASKED_FOR))

    def _release(self, scheduler: Scheduler, now_s: float) -> list[Decision]:
        since_s = {w: self._idle_since_s.get(w, now_s) for w in scheduler.spare()}
        done = [worker for worker, idle_s in since_s.items() if now_s - idle_s >= IDLE_S]
        self._idle_since_s = since_s
        return [decision for worker in done for decision in scheduler.release(worker)]
