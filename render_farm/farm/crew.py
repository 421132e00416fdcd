"""The driver's workers by name: who is ready, what each has in hand, who says nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from render_farm.farm.messages import Assignment, WorkerOptions
from render_farm.farm.pool import Pool
from render_farm.farm.watch import Watch
from render_farm.ledger.attempts import noted_ago
from render_farm.store.base import Store

log = logging.getLogger(__name__)


LONGEST_PAUSE_S = 30.0


class Crew:
    """Keeps the books on the workers of a pool.

    `options` is the pattern for every worker's, `rows_of` the number of rows of a shard. After a
    worker that never became ready the next start waits `pause_s`, and twice as long after each
    more: a cluster that is not well for some seconds must not use up all patience in one.
    """

    def __init__(
        self,
        pool: Pool,
        options: WorkerOptions,
        watch: Watch,
        rows_of: Callable[[int], int],
        pause_s: float = 1.0,
    ) -> None:
        self.ready: set[str] = set()
        self._pool = pool
        self._options = options
        self._watch = watch
        self._rows_of = rows_of
        self._pause_s = pause_s
        self._started = 0
        self._starting: set[str] = set()
        self._failed_starts = 0
        self._due_s: list[float] = []
        self._waiting_for_room: set[str] = set()
        self._in_hand: dict[str, int] = {}

    def start_one(self) -> None:
        """Start a worker under a new name."""
        self._started += 1
        name = f"{self._options.worker}-{self._started}"
        self._starting.add(name)
        self._waiting_for_room.add(name)
        self._pool.start(replace(self._options, worker=name))

    def start_due(self) -> None:
        """Start the workers whose pause is over."""
        now_s = time.monotonic()
        due = [at_s for at_s in self._due_s if at_s <= now_s]
        self._due_s = [at_s for at_s in self._due_s if at_s > now_s]
        for _ in due:
            self.start_one()

    def placed(self, worker: str) -> None:
        """A worker's process runs, and opens the run."""
        self._waiting_for_room.discard(worker)
        self._watch.starts(worker, time.monotonic())

    def is_ready(self, worker: str) -> None:
        """A worker can take a shard."""
        self._waiting_for_room.discard(worker)
        self._watch.rests(worker)
        self._starting.discard(worker)
        self._failed_starts = 0
        self.ready.add(worker)

    def assign(self, worker: str, assignment: Assignment) -> None:
        """Hand a shard to a worker."""
        self._in_hand[worker] = assignment.shard
        self._watch.renders(worker, self._rows_of(assignment.shard), time.monotonic())
        self._pool.assign(worker, assignment)

    def answered(self, worker: str, *, rendered: bool) -> None:
        """A worker has nothing in hand any more; if it `rendered`, its pace says what is usual."""
        self._in_hand.pop(worker, None)
        if rendered:
            self._watch.closed(worker, time.monotonic())
        self._watch.rests(worker)

    def gone(self, worker: str) -> int | None:
        """A worker is no more; the shard it had in hand."""
        self._watch.rests(worker)
        self._waiting_for_room.discard(worker)
        self.ready.discard(worker)
        if worker in self._starting:
            self._starting.discard(worker)
            self._failed_starts += 1
        return self._in_hand.pop(worker, None)

    def replace(self, worker: str) -> None:
        """End a worker, if it still lives, and start another, if need be after a pause."""
        self._pool.discard(worker)
        self.gone(worker)
        doublings = self._failed_starts - 1
        pause_s = 0.0 if doublings < 0 else min(LONGEST_PAUSE_S, self._pause_s * 2.0**doublings)
        self._due_s.append(time.monotonic() + pause_s)
        self.start_due()

    def avoid(self, nodes: frozenset[str]) -> None:
        """Start workers elsewhere from now on, those too that wait for room."""
        what = "nodes are left out" if nodes else "no worker is elsewhere: nodes are tried again"
        log.warning(what, extra={"nodes": sorted(nodes)})
        self._pool.avoid(nodes)
        for worker in sorted(self._waiting_for_room):
            self._starting.discard(worker)  # it has not failed
            self.replace(worker)

    def end_stalled(self, store: Store, heard_s: float) -> dict[str, float]:
        """End the workers that were silent for too long at `heard_s`; the seconds by name.

        `heard_s` is when the caller last listened: what lies in wait since then is not silence. A
        new note on the shard in hand is a sign of life. Workers that are no processes of their own
        cannot be ended.
        """
        if not self._pool.separate:
            return {}
        for worker in self._watch.silent(heard_s):
            shard = self._in_hand.get(worker)
            noted_s = None if shard is None else noted_ago(store, shard, worker)
            if noted_s is not None:
                self._watch.seen(worker, time.monotonic() - noted_s)
        stalled = self._watch.silent(heard_s)
        for worker in stalled:
            self._pool.discard(worker)
        return stalled
