"""Who renders what next: events in, decisions out, no clock, no store, no Ray.

A shard that failed goes to a worker that has not failed it yet. When there is none left, a worker
is replaced, so that the next attempt meets a fresh process. Once its attempts are used the shard
is given up, and the others go on. A death that convicts a row uses no attempt: the next one goes on
without that row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from render_farm.farm.blame import Blame
from render_farm.farm.decisions import Assign, Avoid, Decision, GiveUp, Replace, Stop
from render_farm.farm.early_stop import over_limit
from render_farm.farm.messages import Assignment, Tally
from render_farm.ledger.attempts import AttemptLog
from render_farm.ledger.receipt import Receipt


class Scheduler:
    """Decides for one invocation of the driver.

    `shards` yields the open ones in order, `logs` what earlier invocations left of some of them.
    Attempts are counted anew; suspects are not forgotten. `last_error` is what the last shard that
    was given up failed with.
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
        self.last_error = ""
        self._fresh = shards
        self._next: int | None = next(shards, None)
        self._logs = dict(logs)
        self._attempts = attempts
        self._max_quarantined = max_quarantined
        self._retries: deque[int] = deque()
        self._failed_by: dict[int, set[str]] = {}
        self._failed_on: dict[int, set[str]] = {}
        self._attempts_used: dict[int, int] = {}
        self._idle: list[str] = []
        self._running: dict[str, int] = {}
        self._blame = Blame(workers, attempts)

    @property
    def finished(self) -> bool:
        """Nothing is being rendered and nothing is left to hand out."""
        return not self._running and (self.stopped is not None or not self._left())

    def start(self) -> list[Decision]:
        """Decide before any worker is ready: a run may already be over its limits."""
        return self._stop_if_over_limit()

    def worker_placed(self, worker: str, node: str) -> None:
        """A worker's process has started on a node and makes itself ready."""
        self._blame.placed(worker, node)

    def worker_ready(self, worker: str) -> list[Decision]:
        """A worker can take a shard."""
        self._idle.append(worker)
        return self._dismiss([worker]) + self._decide()

    def worker_lost(self, worker: str, log: AttemptLog | None) -> list[Decision]:
        """A worker's process ended; `log` is that of the shard it had, with this failure in it."""
        shard = self._running.pop(worker, None)
        if worker in self._idle:
            self._idle.remove(worker)
        decisions: list[Decision] = []
        convicted = False
        if shard is not None and log is not None:
            convicted = self._convicts(shard, log)
            decisions += self._failed(shard, worker, log, convicted=convicted)
        if not convicted:  # else it was a row's doing
            if reason := self._blame.lost():
                decisions += self.stop(*reason)
            what = worker if shard is None else f"shard {shard}"
            decisions += self._without_node(self._blame.against_node(worker, what))
        return decisions + self._replace_lost(worker) + self._decide()

    def worker_refused(self, worker: str, reason: str) -> list[Decision]:
        """A worker cannot start where it is: its node is left out, unless there is no other."""
        if self._blame.is_left_out(worker):  # it began before its node was left out
            return self._replace_lost(worker) + self._decide()
        node = self._blame.refused(worker)
        decisions = self._without_node(node)
        if node is None:
            decisions += self.stop(
                f"{worker} cannot start: {reason}", "See to its node; then resume."
            )
        return decisions + self._replace_lost(worker) + self._decide()

    def shard_closed(self, worker: str, receipt: Receipt) -> list[Decision]:
        """A shard has its receipt, written by this worker's attempt or by another."""
        self._release(worker)
        self._blame.forgive(worker)
        self.tally = self.tally.plus(receipt)
        self._forget(receipt.shard)
        return self._stop_if_over_limit() + self._dismiss([worker]) + self._decide()

    def shard_failed(self, worker: str, shard: int, log: AttemptLog) -> list[Decision]:
        """An attempt failed and its worker lives.

        A worker that fails again and again is replaced: what it suffers from may be its own; a
        node on which several shards fail is left out. When all attempts fail alike and none closes
        a shard, the run stops.
        """
        self._release(worker)
        decisions = self._failed(shard, worker, log, convicted=False)
        if log.failures and (reason := self._blame.alike(*_last_error(log))):
            decisions += self.stop(*reason)
        decisions += self._without_node(self._blame.against_node(worker, f"shard {shard}"))
        if self._blame.against_worker(worker) and worker in self._idle and not self.finished:
            decisions += self._dismissed(worker)
        return decisions + self._decide()

    def shard_given_back(self, worker: str) -> list[Decision]:
        """A worker stopped as it was asked to; the shard stays open."""
        self._release(worker)
        return self._dismiss([worker]) + self._decide()

    def stop(self, reason: str, fix: str) -> list[Decision]:
        """End the run before its end; the first reason stands."""
        if self.stopped is not None:
            return []
        self.stopped = Stop(reason, fix)
        return [self.stopped]

    def _release(self, worker: str) -> None:
        del self._running[worker]
        self._idle.append(worker)

    def _forget(self, shard: int) -> None:
        """Nothing is kept of a shard that will not be tried again: memory must not grow."""
        for kept in (self._failed_by, self._failed_on, self._attempts_used, self._logs):
            kept.pop(shard, None)

    def _convicts(self, shard: int, log: AttemptLog) -> bool:
        """Whether the last failure in a shard's log convicts a row that was none before."""
        before = self._logs.get(shard, AttemptLog(shard=shard))
        return len(log.condemned()) > len(before.condemned())

    def _failed(
        self, shard: int, worker: str, log: AttemptLog, *, convicted: bool
    ) -> list[Decision]:
        self._logs[shard] = log
        self._failed_by.setdefault(shard, set()).add(worker)
        self._failed_on.setdefault(shard, set()).add(self._blame.node_of(worker))
        used = self._attempts_used.get(shard, 0) + (0 if convicted else 1)
        self._attempts_used[shard] = used
        if used >= self._attempts:
            self.given_up.add(shard)
            self.last_error = ": ".join(_last_error(log))
            self._forget(shard)
            return [GiveUp(shard)]
        self._retries.append(shard)
        return []

    def _without_node(self, node: str | None) -> list[Decision]:
        """Leave a node out, and dismiss the idle workers on it; the others end their shards."""
        if node is None:
            return []
        return [Avoid(frozenset(self._blame.left_out)), *self._dismiss(list(self._idle))]

    def _dismiss(self, workers: list[str]) -> list[Decision]:
        """Replace those of the idle `workers` whose node is left out."""
        doomed = [w for w in workers if w in self._idle and self._blame.is_left_out(w)]
        return [decision for worker in doomed for decision in self._dismissed(worker)]

    def _dismissed(self, worker: str) -> list[Decision]:
        self._idle.remove(worker)
        self._blame.gone(worker)
        return [] if self.finished or self.stopped else [Replace(worker)]

    def _replace_lost(self, worker: str) -> list[Decision]:
        """Start another in place of a worker that is no more, on any node if none is at work."""
        self._blame.gone(worker)
        decisions = self._on_any_node()
        if self.stopped is None and self._left():
            decisions.append(Replace(worker))
        return decisions

    def _on_any_node(self) -> list[Decision]:
        """Forgive the nodes that are left out if no worker is anywhere else."""
        if self.stopped is None and self._left() and self._blame.take_back():
            return [Avoid(frozenset())]
        return []

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
        return decisions + self._refresh() + self._on_any_node()

    def _take(self, worker: str) -> int | None:
        """A shard that failed on other nodes, a fresh one, or one that failed on this node, too."""
        node = self._blame.node_of(worker)
        retries = [shard for shard in self._retries if worker not in self._failed_by[shard]]
        elsewhere = [shard for shard in retries if node not in self._failed_on[shard]]
        if not elsewhere and self._next is not None:
            fresh, self._next = self._next, next(self._fresh, None)
            return fresh
        shard = next(iter(elsewhere or retries), None)
        if shard is not None:
            self._retries.remove(shard)
        return shard

    def _refresh(self) -> list[Decision]:
        """Replace an idle worker for each shard that every living worker has failed."""
        decisions: list[Decision] = []
        for shard in self._retries:
            stale = [worker for worker in self._idle if worker in self._failed_by[shard]]
            if stale and all(worker in self._failed_by[shard] for worker in self._running):
                decisions += self._dismissed(stale[0])
        return decisions


def _last_error(log: AttemptLog) -> tuple[str, str]:
    return log.failures[-1].error_type, log.failures[-1].error
