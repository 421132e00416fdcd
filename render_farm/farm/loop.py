"""The driver's loop: feeds what workers answer to the scheduler and carries out what it decides."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from render_farm.errors import InputError, ModelError, StopError, StoreError
from render_farm.farm.messages import (
    Answer,
    RunHalted,
    ShardClosed,
    ShardFailed,
    ShardGivenBack,
    Tally,
    WorkerOptions,
)
from render_farm.farm.pool import Answered, Lost, Pool, PoolEvent, Ready, Refusal
from render_farm.farm.progress import Progress
from render_farm.farm.scheduler import Assign, Decision, GiveUp, Replace, Scheduler, Stop
from render_farm.job.spec import LimitsSpec
from render_farm.ledger import keys
from render_farm.ledger.attempts import Failure, read_attempts, record_failure, write_attempts
from render_farm.ledger.cancel import is_cancelled
from render_farm.ledger.lease import Lease
from render_farm.ledger.manifest import write_manifest
from render_farm.ledger.quarantine import write_quarantine
from render_farm.ledger.receipt import iter_receipts
from render_farm.ledger.record import RunRecord
from render_farm.store.base import Store

log = logging.getLogger(__name__)

HOUSEKEEPING_S = 10.0
POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class DriveOptions:
    """How one invocation drives a run. `options` is the pattern for every worker's."""

    workers: int
    limits: LimitsSpec
    options: WorkerOptions
    driver: str


@dataclass(frozen=True, slots=True)
class DriveEnd:
    """How an invocation ended: `reason` and `fix` if it did so before the run was complete.

    `rows_per_s` is what it managed since its first worker was ready; None if it closed no shard.
    """

    samples_rendered: int
    rows_per_s: float | None
    reason: str | None
    fix: str | None


class Driver:
    """Drives one run to its end, or until it is asked to stop."""

    def __init__(
        self,
        store: Store,
        record: RunRecord,
        pool: Pool,
        how: DriveOptions,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._store = store
        self._record = record
        self._pool = pool
        self._how = how
        self._on_progress = on_progress
        self._asked_to_stop = threading.Event()
        self._progress = Progress(planned_rows=record.plan.rows)
        self._started = 0
        self._in_hand: dict[str, int] = {}
        self._ready: set[str] = set()

    def ask_to_stop(self) -> None:
        """End after the batches in hand; may be called from a signal handler."""
        self._asked_to_stop.set()

    def drive(self) -> DriveEnd:
        """Render what is open.

        Raises:
            InputError: a worker cannot start because of what the user gave.
            AccessDenied, Unavailable: the store failed the driver itself.
        """
        lease = Lease.take(self._store, self._how.driver)
        try:
            stop = self._drive(lease)
        except InputError as error:
            lease.end(str(error))
            raise
        lease.end(stop.reason if stop else None)
        reason, fix = (stop.reason, stop.fix) if stop else (None, None)
        rate = self._progress.rows_per_s(time.monotonic())
        return DriveEnd(self._progress.samples_rendered, rate, reason, fix)

    def _drive(self, lease: Lease) -> Stop | None:
        scheduler = self._scheduler()
        try:
            self._loop(scheduler, lease)
        finally:
            self._pool.close()
        if scheduler.given_up:
            count = len(scheduler.given_up)
            scheduler.stop(
                f"{count} shards used their attempts",
                "status shows their errors; resume tries them again.",
            )
        write_manifest(self._store, self._record)
        self._write_quarantine()
        return scheduler.stopped

    def _write_quarantine(self) -> None:
        """The file is for convenience; a run does not end otherwise because it cannot be made."""
        try:
            write_quarantine(self._store, self._record)
        except (InputError, StopError) as error:
            log.warning("no quarantine.parquet", extra={"error": str(error)})

    def _scheduler(self) -> Scheduler:
        """The scheduler of what the store says is open; a bit a shard is all that is kept."""
        closed = bytearray(self._record.plan.shards)
        tally = Tally()
        for receipt in iter_receipts(self._store, len(closed)):
            closed[receipt.shard] = 1
            tally = tally.plus(receipt)
            self._progress = self._progress.closed_before(receipt)
        logs, now = {}, self._store.now()
        for info in self._store.list(keys.ATTEMPTS):
            shard = keys.shard_of(info.key)
            if shard is not None and shard < len(closed) and not closed[shard]:
                logs[shard] = read_attempts(self._store, shard).taken_up(now)
        open_shards: Iterator[int] = (index for index, done in enumerate(closed) if not done)
        limits = self._how.limits
        self._open = closed.count(0)
        return Scheduler(
            open_shards,
            logs,
            tally,
            attempts=limits.attempts,
            max_quarantined=limits.max_quarantined,
            workers=self._how.workers,
        )

    def _loop(self, scheduler: Scheduler, lease: Lease) -> None:
        self._carry_out(scheduler, scheduler.start())
        if not scheduler.finished:
            for _ in range(min(self._how.workers, self._open)):
                self._start_worker()
        next_housekeeping = time.monotonic() + HOUSEKEEPING_S
        self._on_progress(self._progress)
        while not scheduler.finished:
            for event in self._pool.poll(POLL_S):
                self._carry_out(scheduler, self._handle(scheduler, event))
            if time.monotonic() >= next_housekeeping:
                self._carry_out(scheduler, self._housekeeping(scheduler, lease))
                next_housekeeping = time.monotonic() + HOUSEKEEPING_S
            if self._asked_to_stop.is_set():
                self._carry_out(scheduler, scheduler.stop("stopped as asked", "resume goes on."))
            self._on_progress(self._progress)

    def _housekeeping(self, scheduler: Scheduler, lease: Lease) -> list[Decision]:
        if lease.superseded():
            return scheduler.stop(
                "another driver has taken the run over", "Follow it with render-farm status."
            )
        lease.beat()
        if is_cancelled(self._store):
            return scheduler.stop("the run was cancelled", "retry --cancelled renders those rows.")
        return []

    def _handle(self, scheduler: Scheduler, event: PoolEvent) -> list[Decision]:
        match event:
            case Ready(worker):
                self._count_workers(self._ready | {worker})
                return scheduler.worker_ready(worker)
            case Refusal(worker, error):
                return self._refused(scheduler, worker, error)
            case Lost(worker, error):
                self._count_workers(self._ready - {worker})
                return self._lost(scheduler, worker, error)
            case Answered(worker, answer):
                return self._answered(scheduler, worker, answer)

    def _count_workers(self, ready: set[str]) -> None:
        self._ready = ready
        self._progress = self._progress.with_workers(len(ready), time.monotonic())

    def _refused(self, scheduler: Scheduler, worker: str, error: Exception) -> list[Decision]:
        """A worker that cannot start: the user's to mend, and after the first shard a stop."""
        if not isinstance(error, InputError | ModelError | StoreError):
            return self._lost(scheduler, worker, str(error))
        if self._progress.decided_here:
            return scheduler.stop(f"{worker} cannot start: {error}", "Then resume.")
        if isinstance(error, ModelError):
            raise InputError((error.problem,)) from error
        raise error

    def _answered(self, scheduler: Scheduler, worker: str, answer: Answer) -> list[Decision]:
        self._in_hand.pop(worker, None)
        match answer:
            case ShardClosed(receipt):
                self._progress = self._progress.closed(receipt, answer.samples_rendered)
                return scheduler.shard_closed(worker, receipt)
            case ShardFailed(shard, failure):
                left = record_failure(self._store, shard, failure)
                return scheduler.shard_failed(worker, shard, left)
            case ShardGivenBack():
                return scheduler.shard_given_back(worker)
            case RunHalted(_, reason, fix):
                return [*scheduler.stop(reason, fix), *scheduler.shard_given_back(worker)]

    def _lost(self, scheduler: Scheduler, worker: str, error: str) -> list[Decision]:
        shard = self._in_hand.pop(worker, None)
        log.warning("worker lost", extra={"worker": worker, "shard": shard, "error": error})
        if shard is None:
            return scheduler.worker_lost(worker, None)
        failure = Failure(
            attempt=None,
            worker=worker,
            error_type="worker_died",
            error=error[:2000],
            at=self._store.now(),
            end="process",
        )
        return scheduler.worker_lost(worker, record_failure(self._store, shard, failure))

    def _carry_out(self, scheduler: Scheduler, decisions: list[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Assign(worker, assignment):
                    self._in_hand[worker] = assignment.shard
                    self._pool.assign(worker, assignment)
                case Replace(worker):
                    self._pool.discard(worker)
                    self._count_workers(self._ready - {worker})
                    self._start_worker()
                case GiveUp(shard):
                    left = read_attempts(self._store, shard)
                    write_attempts(self._store, left.model_copy(update={"failed": True}))
                case Stop(reason):
                    log.warning("stopping", extra={"reason": reason})
                    self._pool.stop()

    def _start_worker(self) -> None:
        self._started += 1
        name = f"{self._how.options.worker}-{self._started}"
        self._pool.start(replace(self._how.options, worker=name))
