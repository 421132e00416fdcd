"""Who renders what next: events in, decisions out, no clock, no store, no Ray.

A worker has several shards in hand. A shard that failed goes to a worker that has not failed it
yet. When there is none left, a worker is replaced, so that the next attempt meets a fresh process.
Once its attempts are used the shard is given up, and the others go on. A death that convicts a row
uses no attempt: the next one goes on without that row. Nor does one that may have been another
shard's doing: but from then on the shard is rendered alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set

from render_farm.farm.blame import Blame
from render_farm.farm.dealing import Dealer
from render_farm.farm.decisions import Abandon, Avoid, Decision, GiveUp, Release, Replace, Stop
from render_farm.farm.early_stop import over_limit
from render_farm.farm.hands import Hands
from render_farm.farm.leaving import Leaving
from render_farm.farm.messages import Tally
from render_farm.farm.shard_queue import ShardQueue
from render_farm.ledger.attempts import AttemptLog
from render_farm.ledger.receipt import Receipt


class Scheduler:
    """Decides for one invocation of the driver.

    `shards` yields the open ones in order, `logs` what earlier invocations left of some of them.
    Attempts are counted anew; suspects are not forgotten. `decided` counts the shards that were
    closed or given up, `hands` says who has what, `last_error` is what the last shard that was
    given up failed with.
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
        self.decided = 0
        self.hands = Hands()
        self._queue = ShardQueue(shards, logs, attempts)
        self._max_quarantined = max_quarantined
        self._blame = Blame(workers, attempts)
        self._leaving = Leaving(self._blame)
        self._dealer = Dealer(self.hands, self._queue, self._blame)

    @property
    def finished(self) -> bool:
        """No open shard is being rendered and nothing is left to hand out."""
        return not self.hands.open_shards and (self.stopped is not None or not self._queue)

    @property
    def waiting(self) -> bool:
        """Whether shards wait for a worker."""
        return bool(self._queue)

    def log(self, shard: int) -> AttemptLog:
        """What is known of the attempts at a shard that is not decided."""
        return self._queue.log(shard)

    def start(self) -> list[Decision]:
        """Decide before any worker is ready: a run may already be over its limits."""
        return self._stop_if_over_limit()

    def worker_placed(self, worker: str, node: str) -> None:
        """A worker's process has started on a node and makes itself ready."""
        self._blame.placed(worker, node)

    def worker_ready(self, worker: str, places: int = 1) -> list[Decision]:
        """A worker can take `places` shards at a time."""
        self.hands.join(worker, places)
        return self._decide()

    def worker_lost(self, worker: str, logs: Mapping[int, AttemptLog]) -> list[Decision]:
        """A worker's process ended.

        `logs` are those of the open shards it had begun, with this failure in them. One that it
        had in hand and had not begun goes back as if nothing had been.
        """
        node = self._blame.node_of(worker)
        alone = len(self.hands.of(worker)) == 1
        lost = self.hands.open_of(worker)
        self.hands.leave(worker)
        convicted, decisions = False, list[Decision]()
        for shard in lost:
            if shard in logs:
                convicts = self._queue.convicts(shard, logs[shard])
                convicted = convicted or convicts
                self._queue.failed(worker, node, logs[shard], counts=alone and not convicts)
            decisions += self._settle(shard)
        if not convicted:  # else it was a row's doing
            if reason := self._blame.lost():
                decisions += self.stop(*reason)
            what = next((f"shard {shard}" for shard in lost if shard in logs), worker)
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
        shard = receipt.shard
        if not self.hands.is_open(shard):  # another's answer came first
            return self.shard_given_back(worker, shard)
        self.hands.answered(worker, shard)
        self._blame.forgive(worker)
        self.tally = self.tally.plus(receipt)
        others = [Abandon(w, shard, unless_begun=False) for w in self.hands.holders(shard)]
        self._forget(shard)
        return [*self._stop_if_over_limit(), *others, *self._decide()]

    def shard_failed(self, worker: str, shard: int, log: AttemptLog) -> list[Decision]:
        """An attempt at an open shard failed and its worker lives.

        A worker that fails again and again is replaced: what it suffers from may be its own; a
        node on which several shards fail is left out. When all attempts fail alike and none closes
        a shard, the run stops.
        """
        self.hands.answered(worker, shard)
        self._queue.failed(worker, self._blame.node_of(worker), log, counts=True)
        decisions = self._settle(shard)
        if log.failures and (reason := self._blame.alike(*_last_error(log))):
            decisions += self.stop(*reason)
        decisions += self._without_node(self._blame.against_node(worker, f"shard {shard}"))
        if self._blame.against_worker(worker):
            self._leaving.sends(worker)
            decisions += self._emptied([worker])
        return decisions + self._decide()

    def shard_given_back(self, worker: str, shard: int) -> list[Decision]:
        """A worker stopped as it was asked to; the shard stays open, if it was."""
        was_open = self.hands.is_open(shard)
        self.hands.answered(worker, shard)
        return (self._settle(shard) if was_open else []) + self._decide()

    def node_drains(self, nodes: Set[str]) -> list[Decision]:
        """These nodes will go: workers there end what they have begun and take no more."""
        self._leaving.drains(nodes)
        there = [w for w in self.hands.workers if self._blame.node_of(w) in nodes]
        return self._emptied(there) + self._decide()

    def spare(self) -> list[str]:
        """Workers that there is nothing left for; one stays while a shard may still fail."""
        if self._queue:
            return []
        return list(self.hands.empty[1 if self.hands.open_shards else 0 :])

    def release(self, worker: str) -> list[Decision]:
        """End a spare worker."""
        self._part_with(worker)
        return [Release(worker), *self._on_any_node()]

    def stop(self, reason: str, fix: str) -> list[Decision]:
        """End the run before its end; the first reason stands."""
        if self.stopped is not None:
            return []
        self.stopped = Stop(reason, fix)
        return [self.stopped]

    def _forget(self, shard: int) -> None:
        self.decided += 1
        self.hands.settle(shard)
        self._queue.forget(shard)

    def _settle(self, shard: int) -> list[Decision]:
        """What becomes of a shard whose attempt came to nothing, if no other is under way."""
        if self.hands.holders(shard):
            return []
        if not self._queue.used_up(shard):
            self._queue.put_back(shard)
            return []
        self.given_up.add(shard)
        self.last_error = ": ".join(_last_error(self._queue.log(shard)))
        self._forget(shard)
        return [GiveUp(shard)]

    def _without_node(self, node: str | None) -> list[Decision]:
        """Leave a node out; its workers end their shards."""
        return [] if node is None else [Avoid(frozenset(self._blame.left_out))]

    def _emptied(self, workers: Iterable[str]) -> list[Decision]:
        """Take back what the workers have not begun."""
        return [
            Abandon(worker, shard, unless_begun=True)
            for worker in workers
            for shard in self.hands.open_of(worker)
        ]

    def _part_with(self, worker: str) -> None:
        self.hands.leave(worker)
        self._queue.gone(worker)
        self._leaving.gone(worker)
        self._blame.gone(worker)

    def _dismissed(self, worker: str) -> list[Decision]:
        """End a worker with nothing in hand; another in its place only if there is work for it."""
        self._part_with(worker)
        if self.finished or self.stopped:
            return []
        return [Replace(worker) if self._queue or not self.hands.workers else Release(worker)]

    def _replace_lost(self, worker: str) -> list[Decision]:
        """Start another in place of a worker that is no more, on any node if none is at work."""
        self._part_with(worker)
        decisions = self._on_any_node()
        if self.stopped is None and self._queue:
            decisions.append(Replace(worker))
        return decisions

    def _on_any_node(self) -> list[Decision]:
        """Forgive the nodes that are left out if no worker is anywhere else."""
        if self.stopped is None and self._queue and self._blame.take_back():
            return [Avoid(frozenset())]
        return []

    def _stop_if_over_limit(self) -> list[Decision]:
        reason = over_limit(self.tally, self._max_quarantined)
        return self.stop(*reason) if reason else []

    def _decide(self) -> list[Decision]:
        """See off the workers that are to go; hand shards to all others that can take some."""
        decisions: list[Decision] = []
        for worker in self.hands.free:
            if self._leaving.goes(worker):
                self._queue.gone(worker)
                if not self.hands.of(worker):
                    decisions += self._dismissed(worker)
            elif self.stopped is None:
                decisions += self._dealer.fill(worker, self.tally)
        if self.stopped is None:
            decisions += self._refresh() + self._dealer.steal(self.tally) + self._on_any_node()
        return decisions

    def _refresh(self) -> list[Decision]:
        """Replace a worker with nothing in hand for each shard that all of them have failed."""
        decisions: list[Decision] = []
        for shard in self._queue.failed_by_all(self.hands.workers):
            stale = next(iter(self.hands.empty), None)
            if stale is not None and self._queue.has_failed(stale, shard):
                decisions += self._dismissed(stale)
        return decisions


def _last_error(log: AttemptLog) -> tuple[str, str]:
    return log.failures[-1].error_type, log.failures[-1].error
