"""Who renders what next: events in, decisions out, no clock, no store, no Ray.

A shard that failed goes to a worker that has not failed it yet. When there is none left, a worker
is replaced, so that the next attempt meets a fresh process. Once its attempts are used the shard
is given up, and the others go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from render_farm.farm.messages import Assignment, Tally
from render_farm.ledger.attempts import AttemptLog
from render_farm.ledger.receipt import Receipt

MIN_ROWS_FOR_FRACTION = 200
MIN_QUARANTINED_FOR_FRACTION = 20
MIN_ROWS_ALL_FAILED = 8
LOSSES_PER_WORKER = 3
FAILURES_BEFORE_REPLACED = 2
FAILURES_ALL_ALIKE = 8


@dataclass(frozen=True, slots=True)
class Assign:
    """Give the assignment to the worker."""

    worker: str
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Replace:
    """End the worker, if it still lives, and start another."""

    worker: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The shard has used its attempts."""

    shard: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Assign nothing more and ask the workers to give back what they have."""

    reason: str
    fix: str


Decision = Assign | Replace | GiveUp | Stop


class Scheduler:
    """Decides for one invocation of the driver.

    `shards` yields the open ones in order, `logs` what earlier invocations left of some of them.
    Attempts are counted anew; suspects are not forgotten.
    """

    def __init__(
        self,
        shards: Iterator[int],
        logs: Mapping[int, AttemptLog],
        tally: Tally,
        attempts: int,
        max_quarantined: float,
        workers: int = 1,
    ) -> None:
        self.tally = tally
        self.stopped: Stop | None = None
        self.given_up: set[int] = set()
        self._fresh = shards
        self._next: int | None = next(shards, None)
        self._logs = dict(logs)
        self._attempts = attempts
        self._max_quarantined = max_quarantined
        self._retries: deque[int] = deque()
        self._failed_by: dict[int, list[str]] = {}
        self._idle: list[str] = []
        self._running: dict[str, int] = {}
        self._losses = 0
        self._most_losses = LOSSES_PER_WORKER * max(workers, attempts, 2)
        self._failures_of: dict[str, int] = {}
        self._failures_alike: tuple[str, int] = ("", 0)

    @property
    def finished(self) -> bool:
        """Nothing is being rendered and nothing is left to hand out."""
        return not self._running and (self.stopped is not None or not self._left())

    def start(self) -> list[Decision]:
        """Decide before any worker is ready: a run may already be over its limits."""
        return self._stop_if_over_limit()

    def worker_ready(self, worker: str) -> list[Decision]:
        """A worker can take a shard."""
        self._idle.append(worker)
        return self._decide()

    def worker_lost(self, worker: str, log: AttemptLog | None) -> list[Decision]:
        """A worker's process ended; `log` is that of the shard it had, with this failure in it."""
        shard = self._running.pop(worker, None)
        if worker in self._idle:
            self._idle.remove(worker)
        self._losses += 1
        decisions: list[Decision] = []
        if shard is not None and log is not None:
            decisions += self._failed(shard, worker, log)
        if self._losses >= self._most_losses:
            decisions += self.stop(
                f"{self._losses} workers ended one after another without finishing a shard",
                "Look into the workers' logs; then resume.",
            )
        if self.stopped is None and self._left():
            decisions.append(Replace(worker))
        return decisions + self._decide()

    def shard_closed(self, worker: str, receipt: Receipt) -> list[Decision]:
        """A shard has its receipt, written by this worker's attempt or by another."""
        self._release(worker)
        self._losses = 0
        self._failures_of.pop(worker, None)
        self._failures_alike = ("", 0)
        self.tally = self.tally.plus(receipt)
        self._failed_by.pop(receipt.shard, None)
        self._logs.pop(receipt.shard, None)
        return self._stop_if_over_limit() + self._decide()

    def shard_failed(self, worker: str, shard: int, log: AttemptLog) -> list[Decision]:
        """An attempt failed and its worker lives.

        A worker that fails again and again is replaced: what it suffers from may be its own. When
        all of them fail alike and none closes a shard, the run stops.
        """
        self._release(worker)
        decisions = self._failed(shard, worker, log) + self._stop_if_all_alike(log)
        self._failures_of[worker] = self._failures_of.get(worker, 0) + 1
        if self._failures_of[worker] >= FAILURES_BEFORE_REPLACED and not self.finished:
            del self._failures_of[worker]
            self._idle.remove(worker)
            decisions.append(Replace(worker))
        return decisions + self._decide()

    def shard_given_back(self, worker: str) -> list[Decision]:
        """A worker stopped as it was asked to; the shard stays open."""
        self._release(worker)
        return self._decide()

    def stop(self, reason: str, fix: str) -> list[Decision]:
        """End the run before its end; the first reason stands."""
        if self.stopped is not None:
            return []
        self.stopped = Stop(reason, fix)
        return [self.stopped]

    def _release(self, worker: str) -> None:
        del self._running[worker]
        self._idle.append(worker)

    def _failed(self, shard: int, worker: str, log: AttemptLog) -> list[Decision]:
        self._logs[shard] = log
        failed_by = self._failed_by.setdefault(shard, [])
        failed_by.append(worker)
        if len(failed_by) >= self._attempts:
            self.given_up.add(shard)
            return [GiveUp(shard)]
        self._retries.append(shard)
        return []

    def _stop_if_all_alike(self, log: AttemptLog) -> list[Decision]:
        error_type = log.failures[-1].error_type if log.failures else ""
        last, count = self._failures_alike
        self._failures_alike = (error_type, count + 1 if error_type == last else 1)
        if self._failures_alike[1] < max(FAILURES_ALL_ALIKE, self._most_losses):
            return []
        return self.stop(
            f"{self._failures_alike[1]} attempts failed one after another with {error_type}: "
            f"{log.failures[-1].error}",
            "Look into that error; then resume.",
        )

    def _stop_if_over_limit(self) -> list[Decision]:
        reason = over_limit(self.tally, self._max_quarantined)
        return self.stop(*reason) if reason else []

    def _left(self) -> bool:
        return self._next is not None or bool(self._retries)

    def _decide(self) -> list[Decision]:
        """Hand a shard to every idle worker that there is one for."""
        if self.stopped is not None:
            return []
        decisions: list[Decision] = []
        for worker in list(self._idle):
            shard = self._take(worker)
            if shard is not None:
                self._idle.remove(worker)
                self._running[worker] = shard
                log = self._logs.get(shard, AttemptLog(shard=shard))
                decisions.append(Assign(worker, Assignment(shard, log, self.tally)))
        return decisions + self._refresh()

    def _take(self, worker: str) -> int | None:
        for shard in self._retries:
            if worker not in self._failed_by[shard]:
                self._retries.remove(shard)
                return shard
        fresh = self._next
        if fresh is not None:
            self._next = next(self._fresh, None)
        return fresh

    def _refresh(self) -> list[Decision]:
        """Replace an idle worker for each shard that every living worker has failed."""
        decisions: list[Decision] = []
        for shard in self._retries:
            stale = [worker for worker in self._idle if worker in self._failed_by[shard]]
            if stale and all(worker in self._failed_by[shard] for worker in self._running):
                self._idle.remove(stale[0])
                decisions.append(Replace(stale[0]))
        return decisions


def over_limit(tally: Tally, max_quarantined: float) -> tuple[str, str] | None:
    """Why and with what fix the run should stop instead of quarantining on, or None.

    One mistake that spoils every row must not quarantine a million of them: the run stops once
    the fraction is above its limit (of at least 200 decided rows, at least 20 quarantined), or
    when all rows so far, at least 8, failed with one error.
    """
    if not tally.decided or tally.quarantined / tally.decided <= max_quarantined:
        return None
    commonest, count = max(tally.errors_by_type.items(), key=lambda item: (item[1], item[0]))
    enough = (
        tally.decided >= MIN_ROWS_FOR_FRACTION and tally.quarantined >= MIN_QUARANTINED_FOR_FRACTION
    )
    all_alike = tally.decided == count >= MIN_ROWS_ALL_FAILED
    if not enough and not all_alike:
        return None
    reason = (
        f"{tally.quarantined} of {tally.decided} rows could not be rendered, more than "
        f"limits.max_quarantined={max_quarantined:g} allows; the commonest error is {commonest} "
        f"({count} rows)"
    )
    fix = (
        "Correct the dataset or the job; or, if such rows are expected, go on with "
        "resume --set limits.max_quarantined=1."
    )
    return reason, fix
