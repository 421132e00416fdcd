"""Runs that were submitted, and driven in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from render_farm.farm.loop import DriveEnd, DriveOptions, Driver
from render_farm.farm.messages import WorkerOptions
from render_farm.farm.models import build_pinned
from render_farm.farm.opening import open_run
from render_farm.farm.pool import LocalPool, Pool
from render_farm.farm.prepare import prepare
from render_farm.farm.worker import SamplerBuilder, ShardWorker
from render_farm.job.spec import JobSpec
from render_farm.ledger.attempts import Failure
from render_farm.ledger.record import RunRecord
from render_farm.store.base import Store


@dataclass(frozen=True)
class Run:
    """A run in a store, ready to be driven."""

    store: Store
    record: RunRecord
    model_cache: str

    def options(self, worker: str = "test") -> WorkerOptions:
        return WorkerOptions(
            run_uri=self.store.uri,
            token=self.record.token,
            worker=worker,
            cpus=1,
            max_quarantined=self.record.job.limits.max_quarantined,
            on_flagged=self.record.job.limits.on_flagged,
            model_cache=self.model_cache,
        )

    def worker(self, build: SamplerBuilder = build_pinned, name: str = "test") -> ShardWorker:
        return ShardWorker.open(self.options(name), build)

    def driver(
        self,
        pool: Pool | None = None,
        workers: int = 1,
        on_progress: Callable[[object], None] = lambda progress: None,
        **limits: Any,
    ) -> Driver:
        how = DriveOptions(
            workers=workers,
            limits=self.record.job.limits.model_copy(update=limits),
            options=replace(self.options(), **{k: v for k, v in limits.items() if k != "attempts"}),
            driver="test",
            pause_s=0.0,
        )
        return Driver(self.store, self.record, pool or LocalPool(build_pinned), how, on_progress)

    def drive(self, pool: Pool | None = None, **limits: Any) -> DriveEnd:
        return self.driver(pool, **limits).drive()


def died(*in_flight: int) -> Failure:
    """What is left of an attempt whose process ended while it rendered these rows."""
    return Failure(
        attempt="a",
        worker="w",
        error_type="e",
        error="x",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        in_flight=in_flight,
        end="process",
    )


def submit(job: JobSpec, model_cache: str = "/dev/null/no-folder") -> Run:
    """Check a job and make its run, as `render-farm submit` does before it renders."""
    store, record = open_run(prepare(job, model_cache), allow_no_cas=False)
    return Run(store, record, model_cache)
