"""The driver's loop: feeds what workers answer to the scheduler and carries out what it decides."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from render_farm.errors import InputError
from render_farm.farm.concluding import conclude
from render_farm.farm.crew import Crew
from render_farm.farm.decisions import (
    Abandon,
    Assign,
    Avoid,
    Decision,
    GiveUp,
    Release,
    Replace,
    Stop,
)
from render_farm.farm.hearing import Hearing
from render_farm.farm.messages import Usage, WorkerOptions
from render_farm.farm.pool import Pool
from render_farm.farm.progress import Progress
from render_farm.farm.scheduler import Scheduler
from render_farm.farm.staffing import Staffing
from render_farm.farm.taking_up import take_up
from render_farm.farm.watch import Watch
from render_farm.job.spec import LimitsSpec
from render_farm.ledger.attempts import read_attempts, write_attempts
from render_farm.ledger.cancel import is_cancelled
from render_farm.ledger.lease import Lease
from render_farm.ledger.record import RunRecord
from render_farm.store.base import Store

log = logging.getLogger(__name__)

HOUSEKEEPING_S = 10.0
POLL_S = 0.5

ABANDON_S = 5.0
"""How long an attempt that came second may take to delete what it has uploaded."""


@dataclass(frozen=True, slots=True)
class DriveOptions:
    """How one invocation drives a run. `options` is the pattern for every worker's.

    There are `workers` of them; if `elastic`, as many as there is room for as the cluster changes.
    `pause_s` is waited after a worker that could not start, and twice as long after each more.
    """

    workers: int
    limits: LimitsSpec
    options: WorkerOptions
    driver: str
    elastic: bool = False
    pause_s: float = 1.0


@dataclass(frozen=True, slots=True)
class DriveEnd:
    """How an invocation ended: `reason` and `fix` if it did so before the run was complete.

    `rows_per_s` is what it managed since its first worker was ready; None if it closed no shard.
    `usages` are the last of each worker's, `loads_s` the seconds that each took to open the run and
    load the model, in the order in which they were ready.
    """

    samples_rendered: int
    rows_per_s: float | None
    reason: str | None
    fix: str | None
    usages: dict[str, Usage] = field(default_factory=dict)
    loads_s: tuple[float, ...] = ()


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
            heard, stop = self._drive(lease)
        except InputError as error:
            lease.end(str(error))
            raise
        lease.end(stop.reason if stop else None)
        reason, fix = (stop.reason, stop.fix) if stop else (None, None)
        rate = heard.progress.rows_per_s(time.monotonic())
        rendered, loads_s = heard.progress.samples_rendered, tuple(heard.loads_s)
        return DriveEnd(rendered, rate, reason, fix, heard.usages, loads_s)

    def _drive(self, lease: Lease) -> tuple[Hearing, Stop | None]:
        run = take_up(self._store, self._record, self._how.limits, self._how.workers)
        scheduler = run.scheduler
        places = self._how.options.open_shards
        hearing = Hearing(self._store, self._crew, run, places)
        try:
            self._loop(scheduler, hearing, lease, run.open_shards)
            self._wait_for_the_abandoned(hearing)
        finally:
            self._pool.close()
        run.rollups.flush()
        conclude(self._store, self._record, scheduler)
        return hearing, scheduler.stopped

    def _loop(self, scheduler: Scheduler, hearing: Hearing, lease: Lease, shards: int) -> None:
        staffing = Staffing(
            self._pool, self._crew, None if self._how.elastic else self._how.workers
        )
        self._carry_out(scheduler.start())
        if not scheduler.finished:
            staffing.begin(shards)
        next_housekeeping = time.monotonic() + HOUSEKEEPING_S
        self._show(hearing)
        while not scheduler.finished:
            self._crew.start_due()
            heard_s = time.monotonic()
            self._listen(hearing)
            self._carry_out(
                staffing.adjust(scheduler, shards - scheduler.decided, time.monotonic()),
            )
            if time.monotonic() >= next_housekeeping:
                self._carry_out(self._housekeeping(scheduler, hearing, lease, heard_s))
                next_housekeeping = time.monotonic() + HOUSEKEEPING_S
            if self._asked_to_stop.is_set():
                self._carry_out(scheduler.stop("stopped as asked", "resume goes on."))
            self._show(hearing)

    def _listen(self, hearing: Hearing) -> None:
        for event in self._pool.poll(POLL_S):
            self._carry_out(hearing.hear(event))

    def _wait_for_the_abandoned(self, hearing: Hearing) -> None:
        """Let the attempts that came second clear up after themselves; the sweep would as well."""
        deadline_s = time.monotonic() + ABANDON_S
        while self._crew.busy and time.monotonic() < deadline_s:
            self._listen(hearing)

    def _show(self, hearing: Hearing) -> None:
        hearing.progress = hearing.progress.with_workers(len(self._crew.ready), time.monotonic())
        self._on_progress(hearing.progress)

    def _housekeeping(
        self, scheduler: Scheduler, hearing: Hearing, lease: Lease, heard_s: float
    ) -> list[Decision]:
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
            decisions += hearing.lost(worker, f"no sign of life for {silent_s:.0f} s")
        return decisions

    def _carry_out(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Assign(worker, assignment):
                    self._crew.assign(worker, assignment)
                case Abandon(worker, shard, unless_begun):
                    self._crew.abandon(worker, shard, unless_begun=unless_begun)
                case Release(worker):
                    self._crew.release(worker)
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
