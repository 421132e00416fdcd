"""The driver's loop: feeds what workers answer to the scheduler and carries out what it decides."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from render_farm.errors import InputError, ModelError, StoreError, Unavailable
from render_farm.farm.concluding import conclude
from render_farm.farm.crew import Crew
from render_farm.farm.decisions import Assign, Avoid, Decision, GiveUp, Replace, Stop
from render_farm.farm.messages import (
    Answer,
    RunHalted,
    ShardClosed,
    ShardFailed,
    ShardGivenBack,
    WorkerOptions,
)
from render_farm.farm.pool import Answered, Lost, Placed, Pool, PoolEvent, Ready, Refusal
from render_farm.farm.progress import Progress
from render_farm.farm.scheduler import Scheduler
from render_farm.farm.taking_up import take_up
from render_farm.farm.watch import Watch
from render_farm.job.spec import LimitsSpec
from render_farm.ledger.attempts import (
    End,
    Failure,
    read_attempts,
    record_failure,
    write_attempts,
)
from render_farm.ledger.cancel import is_cancelled
from render_farm.ledger.lease import Lease
from render_farm.ledger.record import RunRecord
from render_farm.store.base import Store

log = logging.getLogger(__name__)

HOUSEKEEPING_S = 10.0
POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class DriveOptions:
    """How one invocation drives a run. `options` is the pattern for every worker's.

    `pause_s` is waited after a worker that could not start, and twice as long after each more.
    """

    workers: int
    limits: LimitsSpec
    options: WorkerOptions
    driver: str
    pause_s: float = 1.0


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
        stalled_after_s = how.limits.stalled_after_s
        plan = record.make_plan()
        self._crew = Crew(
            pool,
            how.options,
            Watch(None if stalled_after_s == "auto" else stalled_after_s),
            lambda shard: plan.shard(shard).rows,
            how.pause_s,
        )

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
        run = take_up(self._store, self._record, self._how.limits, self._how.workers)
        scheduler, self._progress = run.scheduler, run.progress
        try:
            self._loop(scheduler, lease, run.open_shards)
        finally:
            self._pool.close()
        conclude(self._store, self._record, scheduler)
        return scheduler.stopped

    def _loop(self, scheduler: Scheduler, lease: Lease, open_shards: int) -> None:
        self._carry_out(scheduler, scheduler.start())
        if not scheduler.finished:
            for _ in range(min(self._how.workers, open_shards)):
                self._crew.start_one()
        next_housekeeping = time.monotonic() + HOUSEKEEPING_S
        self._show()
        while not scheduler.finished:
            self._crew.start_due()
            heard_s = time.monotonic()
            for event in self._pool.poll(POLL_S):
                self._carry_out(scheduler, self._handle(scheduler, event))
            if time.monotonic() >= next_housekeeping:
                self._carry_out(scheduler, self._housekeeping(scheduler, lease, heard_s))
                next_housekeeping = time.monotonic() + HOUSEKEEPING_S
            if self._asked_to_stop.is_set():
                self._carry_out(scheduler, scheduler.stop("stopped as asked", "resume goes on."))
            self._show()

    def _show(self) -> None:
        self._progress = self._progress.with_workers(len(self._crew.ready), time.monotonic())
        self._on_progress(self._progress)

    def _housekeeping(self, scheduler: Scheduler, lease: Lease, heard_s: float) -> list[Decision]:
        decisions: list[Decision] = []
        if lease.superseded():
            decisions += scheduler.stop(
                "another driver has taken the run over", "Follow it with render-farm status."
            )
        else:
            lease.beat()
            if is_cancelled(self._store):
                decisions += scheduler.stop(
                    "the run was cancelled", "retry --cancelled renders those rows."
                )
        for worker, silent_s in self._crew.end_stalled(self._store, heard_s).items():
            decisions += self._lost(scheduler, worker, f"no sign of life for {silent_s:.0f} s")
        return decisions

    def _handle(self, scheduler: Scheduler, event: PoolEvent) -> list[Decision]:
        match event:
            case Placed(worker, node):
                self._crew.placed(worker)
                scheduler.worker_placed(worker, node)
                return []
            case Ready(worker):
                self._crew.is_ready(worker)
                return scheduler.worker_ready(worker)
            case Refusal(worker, error):
                return self._refused(scheduler, worker, error)
            case Lost(worker, error, with_node):
                return self._lost(scheduler, worker, error, "unseen" if with_node else "process")
            case Answered(worker, answer):
                return self._answered(scheduler, worker, answer)

    def _refused(self, scheduler: Scheduler, worker: str, error: Exception) -> list[Decision]:
        """A worker that cannot start: before the first shard the user's to mend.

        Whether a store that does not answer one worker answers nobody the driver finds out.
        """
        told = isinstance(error, InputError | ModelError | StoreError)
        if not told or isinstance(error, Unavailable):
            return self._lost(scheduler, worker, str(error))
        if self._progress.decided_here:
            self._crew.gone(worker)
            return scheduler.worker_refused(worker, str(error))
        if isinstance(error, ModelError):
            raise InputError((error.problem,)) from error
        raise error

    def _answered(self, scheduler: Scheduler, worker: str, answer: Answer) -> list[Decision]:
        rendered = isinstance(answer, ShardClosed) and answer.samples_rendered > 0
        self._crew.answered(worker, rendered=rendered)
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

    def _lost(
        self, scheduler: Scheduler, worker: str, error: str, end: End = "process"
    ) -> list[Decision]:
        shard = self._crew.gone(worker)
        log.warning("worker lost", extra={"worker": worker, "shard": shard, "error": error})
        if shard is None:
            return scheduler.worker_lost(worker, None)
        failure = Failure(
            attempt=None,
            worker=worker,
            error_type="worker_died",
            error=error[:2000],
            at=self._store.now(),
            end=end,
        )
        return scheduler.worker_lost(worker, record_failure(self._store, shard, failure))

    def _carry_out(self, scheduler: Scheduler, decisions: list[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Assign(worker, assignment):
                    self._crew.assign(worker, assignment)
                case Replace(worker):
                    self._crew.replace(worker)
                case Avoid(nodes):
                    self._crew.avoid(nodes)
                case GiveUp(shard):
                    left = read_attempts(self._store, shard)
                    write_attempts(self._store, left.model_copy(update={"failed": True}))
                case Stop(reason):
                    log.warning("stopping", extra={"reason": reason})
                    self._pool.stop()
