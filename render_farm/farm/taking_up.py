"""Taking a run up: what the store says is done, is open and was tried before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from render_farm.farm.messages import Tally
from render_farm.farm.progress import Progress
from render_farm.farm.scheduler import Scheduler
from render_farm.job.spec import LimitsSpec
from render_farm.ledger import keys
from render_farm.ledger.attempts import AttemptLog, read_attempts
from render_farm.ledger.read_ahead import read_ahead
from render_farm.ledger.record import RunRecord
from render_farm.ledger.rollup import Rollups, recall_receipts
from render_farm.store.base import Store


@dataclass(frozen=True, slots=True)
class TakenUp:
    """A run as a new driver finds it; `rollups` wants the receipt of every shard that it closes."""

    scheduler: Scheduler
    progress: Progress
    open_shards: int
    rollups: Rollups


def take_up(store: Store, record: RunRecord, limits: LimitsSpec, workers: int) -> TakenUp:
    """Read how a run stands: a byte a shard is all that is kept, beside the logs of open ones.

    Raises:
        AccessDenied, Unavailable: the store failed.
        StopError: a receipt cannot be read.
    """
    closed = bytearray(record.plan.shards)
    tally, progress = Tally(), Progress(planned_rows=record.plan.rows)
    rollups = Rollups(store, record)
    for receipt in recall_receipts(store, record, rollups=rollups):
        closed[receipt.shard] = 1
        tally = tally.plus(receipt)
        progress = progress.closed_before(receipt)
    rollups.flush()
    open_shards: Iterator[int] = (index for index, done in enumerate(closed) if not done)
    scheduler = Scheduler(
        open_shards,
        _logs(store, closed),
        tally,
        attempts=limits.attempts,
        max_quarantined=limits.max_quarantined,
        workers=workers,
    )
    return TakenUp(scheduler, progress, closed.count(0), rollups)


def _logs(store: Store, closed: bytearray) -> dict[int, AttemptLog]:
    """What is known of the attempts at open shards, where there is something."""
    now = store.now()
    noted = (keys.shard_of(info.key) for info in store.list(keys.ATTEMPTS))
    wanted = (
        shard for shard in noted if shard is not None and shard < len(closed) and not closed[shard]
    )
    return dict(
        read_ahead(lambda shard: (shard, read_attempts(store, shard).taken_up(now)), wanted)
    )
