"""One measured run: the job is made, opened and driven as `submit` does it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from render_farm.errors import StopError
from render_farm.farm.bench.building import build_measured
from render_farm.farm.bench.figures import FarmFigures, farm_figures
from render_farm.farm.bench.observed_pool import Observed, ObservedPool
from render_farm.farm.bench.options import FarmOptions
from render_farm.farm.cluster import connect, disconnect
from render_farm.farm.driver import RayPool
from render_farm.farm.loop import DriveEnd, Driver
from render_farm.farm.opening import open_run
from render_farm.farm.prepare import prepare
from render_farm.farm.progress import Progress
from render_farm.farm.session import Where, drive_options, free_keys
from render_farm.farm.worker import SamplerBuilder
from render_farm.job.load import parse_job
from render_farm.job.spec import JobSpec
from render_farm.memory import peak_memory_bytes
from render_farm.store.counting import CountingStore

NO_MODELS = "/dev/null/no-folder"


@dataclass(frozen=True, slots=True)
class Seen:
    """A run that was driven, and what was seen of it.

    `requests` are the calls of the driver's store by kind, `connected_at` is when there was a
    cluster, in seconds since the epoch; `end` says whether the run is complete.
    """

    observed: Observed
    requests: dict[str, int]
    connected_at: float
    end: DriveEnd


@dataclass(frozen=True, slots=True)
class Measured:
    """How a run is driven that is looked at: its job, the engine of its workers, and where.

    `together` workers get their first shards together, see `ObservedPool`.
    """

    job: JobSpec
    build: SamplerBuilder
    together: int
    address: str | None = None
    model_cache: str = NO_MODELS

    def drive(
        self,
        on_progress: Callable[[Progress], None],
        on_driver: Callable[[Driver, Observed], None] = lambda driver, observed: None,
    ) -> Seen:
        """Make the run, or go on with it, on a Ray cluster.

        Raises:
            InputError: something is wrong with the job, or with the cluster.
        """
        opened, record = open_run(prepare(self.job, self.model_cache), allow_no_cas=False)
        store = CountingStore(opened)
        resources = connect(self.address, self.job.workers)
        try:
            connected_at = time.time()
            pool = ObservedPool(RayPool(resources, self.build), self.together)
            where = Where(local=False, address=self.address, model_cache=self.model_cache)
            free = free_keys(record.job)
            how = drive_options(store, record, where, free, resources.count)
            driver = Driver(store, record, pool, how, on_progress)
            on_driver(driver, pool.observed)
            end = driver.drive()
        finally:
            disconnect()
        return Seen(pool.observed, store.counts(), connected_at, end)


def measure(
    options: FarmOptions, prompts: str, output: str, on_progress: Callable[[Progress], None]
) -> FarmFigures:
    """Render the prompts into a new run at `output`, with workers on Ray, and say what it took.

    The figures of memory are this process's: it should have done nothing else.

    Raises:
        InputError: something is wrong with `output`, or with the cluster.
        StopError: the run did not come to its end.
    """
    job = parse_job(options.job(prompts, output))
    seen = Measured(job, build_measured, options.workers, options.address).drive(on_progress)
    if seen.end.reason is not None:
        raise StopError(seen.end.reason, seen.end.fix or "")
    return farm_figures(options, seen.observed, seen.requests, peak_memory_bytes())
