"""Taking a run up: what the store says is done, is open and was tried before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from render_farm.farm.messages import Tally
from render_farm.farm.progress import Progress
from render_farm.farm.scheduler import Scheduler
from render_farm.job.spec import LimitsSpec
from render_farm.ledger import keys
from render_farm.ledger.attempts import read_attempts
from render_farm.ledger.receipt import iter_receipts
from render_farm.ledger.record import RunRecord
from render_farm.store.base import Store


@dataclass(frozen=True, slots=True)
class TakenUp:
    """A run as a new driver finds it."""

    scheduler: Scheduler
    progress: Progress
    open_shards: int


def take_up(store: Store, record: RunRecord, limits: LimitsSpec, workers: int) -> TakenUp:
    """Read how a run stands; a bit a shard is all that is kept.

    Raises:
        AccessDenied, Unavailable: the store failed.
        StopError: a receipt cannot be read.
    """
    closed = bytearray(record.plan.shards)
    tally, progress = Tally(), Progress(planned_rows=record.plan.rows)
    for receipt in iter_receipts(store, len(closed)):
        closed[receipt.shard] = 1
        tally = tally.plus(receipt)
        progress = progress.closed_before(receipt)
    logs, now = {}, store.now()
    for info in store.list(keys.ATTEMPTS):
        shard = keys.shard_of(info.key)
        if shard is not None and shard < len(closed) and not closed[shard]:
            logs[shard] = read_attempts(store, shard).taken_up(now)
    open_shards: Iterator[int] = (index for index, done in enumerate(closed) if not done)
    scheduler = Scheduler(
        open_shards,
        logs,
        tally,
        attempts=limits.attempts,
        max_quarantined=limits.max_quarantined,
        workers=workers,
    )
    return TakenUp(scheduler, progress, closed.count(0))
