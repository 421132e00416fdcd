"""How a run stands, from the store alone."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from render_farm.ledger import keys
from render_farm.ledger.attempts import read_attempts
from render_farm.ledger.cancel import is_cancelled
from render_farm.ledger.lease import read_heartbeat
from render_farm.ledger.manifest import Totals, sum_receipts
from render_farm.ledger.read_ahead import read_ahead
from render_farm.ledger.record import RunRecord, read_record
from render_farm.ledger.rollup import recall_receipts
from render_farm.store.base import ObjectInfo, Store, exists

State = Literal["running", "complete", "stopped", "cancelled"]
RATE_WINDOW = timedelta(minutes=10)
RATE_RECEIPTS = 256


@dataclass(frozen=True, slots=True)
class FailedShard:
    """A shard that used its attempts, with the last error."""

    shard: int
    attempts: int
    error_type: str
    error: str
    worker: str


@dataclass(frozen=True, slots=True)
class Status:
    """A run in figures. `rate` is rows per second, `eta_s` seconds; None when it is not running."""

    run: str
    state: State
    rows: dict[str, int]
    samples: dict[str, int]
    shards: dict[str, int]
    failed_shards: tuple[FailedShard, ...] = ()
    rate: float | None = None
    eta_s: float | None = None
    reason: str | None = None
    errors_by_type: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The JSON of the design."""
        return asdict(self)


def read_status(store: Store, samples_rendered: int = 0) -> Status:
    """Read how a run stands; `samples_rendered` is what this invocation did.

    Raises: `InputError` if there is no run.
    """
    record = read_record(store)
    newest = _Newest()
    receipts = recall_receipts(store, record, on_broken=lambda broken: None, on_listed=newest.add)
    totals = sum_receipts(receipts)
    failed = tuple(_failed_shards(store))
    state, reason = _state(store, record, totals)
    counts = totals.row_counts()
    pending = record.plan.rows - counts.decided
    rate = _rate(newest, record, store.now()) if state == "running" else None
    still_open = record.plan.shards - totals.shards - len(failed)
    return Status(
        run=store.uri,
        state=state,
        rows={"planned": record.plan.rows, **counts.model_dump(), "pending": pending},
        samples={
            "planned": record.plan.samples,
            **totals.sample_counts().model_dump(),
            "rendered": samples_rendered,
        },
        shards={
            "planned": record.plan.shards,
            "done": totals.shards,
            "failed": len(failed),
            "open": still_open,
        },
        failed_shards=failed,
        rate=rate,
        eta_s=pending / rate if rate else None,
        reason=reason,
        errors_by_type=dict(totals.errors_by_type),
    )


def _state(store: Store, record: RunRecord, totals: Totals) -> tuple[State, str | None]:
    closed = totals.shards == record.plan.shards
    # A cancel that found no open shard any more has changed nothing.
    if is_cancelled(store) and not (closed and not totals.rows["cancelled"]):
        return "cancelled", None
    if closed and exists(store, keys.MANIFEST):
        return "complete", None
    heartbeat = read_heartbeat(store)
    if heartbeat is None:
        return "stopped", "no driver has taken it up yet"
    last, fresh = heartbeat
    if last.state == "running" and fresh:
        return "running", None
    return "stopped", last.reason or "the driver has fallen silent"


def _failed_shards(store: Store) -> Iterator[FailedShard]:
    noted = (keys.shard_of(info.key) for info in store.list(keys.ATTEMPTS))
    wanted = (shard for shard in noted if shard is not None)
    for failed in read_ahead(lambda shard: _failed_shard(store, shard), wanted):
        if failed is not None:
            yield failed


def _failed_shard(store: Store, shard: int) -> FailedShard | None:
    log = read_attempts(store, shard)
    if not (log.failed and log.failures) or exists(store, keys.receipt(shard)):
        return None
    last = log.failures[-1]
    return FailedShard(shard, len(log.failures), last.error_type, last.error, last.worker)


class _Newest:
    """The newest `RATE_RECEIPTS` receipts of those that pass by: (time, shard), oldest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[datetime, int]] = []

    def add(self, shard: int, info: ObjectInfo) -> None:
        push = heapq.heappush if len(self._heap) < RATE_RECEIPTS else heapq.heappushpop
        push(self._heap, (info.modified_at, shard))

    def since(self, time: datetime) -> list[tuple[datetime, int]]:
        return sorted((at, shard) for at, shard in self._heap if at > time)


def _rate(newest: _Newest, record: RunRecord, now: datetime) -> float | None:
    """Rows per second by the times of the newest receipts, as the store's clock wrote them."""
    recent = newest.since(now - RATE_WINDOW)
    if len(recent) < 2:
        return None
    # The oldest receipt only marks where the time begins.
    plan, (oldest, _) = record.make_plan(), recent[0]
    rows = sum(plan.shard(shard).rows for _, shard in recent[1:])
    elapsed = (now - oldest).total_seconds()
    return rows / elapsed if elapsed > 0 else None
