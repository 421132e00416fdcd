"""What the end of a worker leaves in the logs of the shards that it had in hand."""

from __future__ import annotations

from render_farm.farm.scheduler import Scheduler
from render_farm.ledger.attempts import AttemptLog, Failure, read_attempts, record_failure
from render_farm.store.base import Store


def record_loss(store: Store, scheduler: Scheduler, failure: Failure) -> dict[int, AttemptLog]:
    """Note the end of a worker with the open shards it had begun; their logs.

    Begun is what it has noted rows of. If there is none, the shard that it was given first counts
    as begun: every end leaves a trace, so that a shard that ends its workers before they can note
    anything does not do so for ever.

    Raises:
        AccessDenied, Unavailable: the store failed.
    """
    lost = scheduler.hands.open_of(failure.worker)
    begun = [shard for shard in lost if _noted(store, shard, failure.worker)] or lost[:1]
    return {shard: record_attempt(store, scheduler, shard, failure) for shard in begun}


def record_attempt(store: Store, scheduler: Scheduler, shard: int, failure: Failure) -> AttemptLog:
    """Note the failure of one attempt at a shard, beside which another may be under way."""
    others = frozenset(scheduler.hands.holders(shard)) - {failure.worker}
    return record_failure(store, scheduler.log(shard), failure, others)


def _noted(store: Store, shard: int, worker: str) -> bool:
    current = read_attempts(store, shard).current
    return current is not None and current.worker == worker
