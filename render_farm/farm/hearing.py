"""What workers say, as the scheduler's events; what is to be noted of it in the store is noted."""

from __future__ import annotations

import logging

from render_farm.errors import InputError, ModelError, StoreError, Unavailable
from render_farm.farm.crew import Crew
from render_farm.farm.decisions import Decision
from render_farm.farm.losses import record_attempt, record_loss
from render_farm.farm.messages import (
    Answer,
    RunHalted,
    ShardClosed,
    ShardFailed,
    ShardGivenBack,
    Usage,
)
from render_farm.farm.pool import Answered, Draining, Lost, Placed, PoolEvent, Ready, Refusal
from render_farm.farm.taking_up import TakenUp
from render_farm.ledger.attempts import End, Failure
from render_farm.store.base import Store

log = logging.getLogger(__name__)


class Hearing:
    """Turns the events of a pool into the scheduler's, and keeps count of what they come to.

    `places` is how many shards a worker has in hand at a time, `usages` the last of each worker's,
    `loads_s` the seconds that each took to load the model.
    """

    def __init__(self, store: Store, crew: Crew, run: TakenUp, places: int) -> None:
        self.progress = run.progress
        self.usages: dict[str, Usage] = {}
        self.loads_s: list[float] = []
        self._store = store
        self._crew = crew
        self._scheduler = run.scheduler
        self._rollups = run.rollups
        self._places = places

    def hear(self, event: PoolEvent) -> list[Decision]:
        """What the scheduler makes of an event.

        Raises:
            InputError: a worker cannot start because of what the user gave.
            AccessDenied, Unavailable: the store failed the driver itself.
        """
        match event:
            case Placed(worker, node):
                self._crew.placed(worker)
                self._scheduler.worker_placed(worker, node)
                return []
            case Ready(worker, load_s):
                self._crew.is_ready(worker)
                self.loads_s.append(load_s)
                return self._scheduler.worker_ready(worker, self._places)
            case Refusal(worker, error):
                return self._refused(worker, error)
            case Lost(worker, error, with_node):
                return self.lost(worker, error, "unseen" if with_node else "process")
            case Draining(node):
                log.warning("a node drains", extra={"node": node})
                return self._scheduler.node_drains({node})
            case Answered(worker, answer):
                return self._answered(worker, answer)

    def lost(self, worker: str, error: str, end: End = "process") -> list[Decision]:
        """A worker's process has ended."""
        shards = self._scheduler.hands.of(worker)
        log.warning("worker lost", extra={"worker": worker, "shards": shards, "error": error})
        self._crew.gone(worker)
        if not shards:
            return self._scheduler.worker_lost(worker, {})
        failure = Failure(
            attempt=None,
            worker=worker,
            error_type="worker_died",
            error=error[:2000],
            at=self._store.now(),
            end=end,
        )
        logs = record_loss(self._store, self._scheduler, failure)
        return self._scheduler.worker_lost(worker, logs)

    def _refused(self, worker: str, error: Exception) -> list[Decision]:
        """A worker that cannot start: before the first shard the user's to mend.

        Whether a store that does not answer one worker answers nobody the driver finds out.
        """
        told = isinstance(error, InputError | ModelError | StoreError)
        if not told or isinstance(error, Unavailable):
            return self.lost(worker, str(error))
        if self.progress.decided_here:
            self._crew.gone(worker)
            return self._scheduler.worker_refused(worker, str(error))
        if isinstance(error, ModelError):
            raise InputError((error.problem,)) from error
        raise error

    def _answered(self, worker: str, answer: Answer) -> list[Decision]:
        """An answer to a shard that is settled already tells nothing of it any more."""
        shard, scheduler = answer.shard, self._scheduler
        is_open = scheduler.hands.is_open(shard)
        rendered = answer.samples_rendered if isinstance(answer, ShardClosed) else 0
        self._crew.answered(worker, shard, rendered=rendered > 0)
        self.progress = self.progress.rendered(rendered)
        match answer:
            case ShardClosed(receipt, usage=usage):
                if usage is not None:
                    self.usages[worker] = usage
                if is_open:
                    self.progress = self.progress.closed(receipt)
                    self._rollups.add(receipt)
                return scheduler.shard_closed(worker, receipt)
            case ShardFailed(_, failure) if is_open:
                left = record_attempt(self._store, scheduler, shard, failure)
                return scheduler.shard_failed(worker, shard, left)
            case ShardFailed() | ShardGivenBack():
                return scheduler.shard_given_back(worker, shard)
            case RunHalted(_, reason, fix):
                return [
                    *scheduler.stop(reason, fix),
                    *scheduler.shard_given_back(worker, shard),
                ]
