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
        self._in_hand: dict[str, dict[int, int]] = {}

    @property
    def size(self) -> int:
        """Workers that are ready, make themselves ready, wait for room, or are due to start."""
        return len(self.ready) + len(self._starting) + len(self._due_s)

    @property
    def busy(self) -> bool:
        """Whether an answer is to come."""
        return bool(self._in_hand)

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
        rows = self._rows_of(assignment.shard)
        if worker in self._in_hand:
            self._watch.takes(worker, rows)
        else:
            self._watch.renders(worker, rows, time.monotonic())
        self._in_hand.setdefault(worker, {})[assignment.shard] = rows
        self._pool.assign(worker, assignment)

    def abandon(self, worker: str, shard: int, *, unless_begun: bool) -> None:
        """Ask a worker to give a shard back."""
        self._pool.abandon(worker, shard, unless_begun=unless_begun)

    def answered(self, worker: str, shard: int, *, rendered: bool) -> None:
        """A worker has a shard no more; if it `rendered` it, its pace says what is usual."""
        in_hand = self._in_hand[worker]
        rows = in_hand.pop(shard)
        now_s = time.monotonic()
        if rendered:
            self._watch.closed(worker, rows, now_s)
        if in_hand:
            self._watch.renders(worker, max(in_hand.values()), now_s)
        else:
            del self._in_hand[worker]
            self._watch.rests(worker)

    def gone(self, worker: str) -> None:
        """A worker is no more."""
        self._watch.rests(worker)
        self._waiting_for_room.discard(worker)
        self.ready.discard(worker)
        self._in_hand.pop(worker, None)
        if worker in self._starting:
            self._starting.discard(worker)
            self._failed_starts += 1

    def release(self, worker: str) -> None:
        """End a worker for good."""
        self._pool.discard(worker)
        self.gone(worker)

    def trim(self, most: int) -> None:
        """Wait for room with no more workers than that `most` are left in all."""
        for worker in sorted(self._waiting_for_room)[: max(0, self.size - most)]:
            self._starting.discard(worker)  # it has not failed
            self.release(worker)

    def replace(self, worker: str) -> None:
        """End a worker, if it still lives, and start another, if need be after a pause."""
        self.release(worker)
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
        new note on a shard in hand is a sign of life. Workers that are no processes of their own
        cannot be ended.
        """
        if not self._pool.separate:
            return {}
        for worker in self._watch.silent(heard_s):
            ago = (noted_ago(store, shard, worker) for shard in self._in_hand.get(worker, ()))
            noted_s = min((seconds for seconds in ago if seconds is not None), default=None)
            if noted_s is not None:
                self._watch.seen(worker, time.monotonic() - noted_s)
        stalled = self._watch.silent(heard_s)
        for worker in stalled:
            self._pool.discard(worker)
        return stalled
