"""One invocation on one run: from "these workers, there" to a driver that has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from render_farm.errors import InputError, Problem
from render_farm.farm.loop import DriveEnd, DriveOptions, Driver
from render_farm.farm.messages import WorkerOptions
from render_farm.farm.models import build_pinned
from render_farm.farm.opening import changed_versions
from render_farm.farm.pool import LocalPool, Pool
from render_farm.farm.progress import Progress
from render_farm.farm.worker import process_name
from render_farm.job.load import override_job
from render_farm.job.spec import JobSpec, LimitsSpec, WorkersSpec
from render_farm.ledger import keys
from render_farm.ledger.record import RunRecord, is_free
from render_farm.store.base import Store, exists

OPEN_SHARDS = 3
"""One that is rendered, one that is read ahead, one that is written and uploaded."""


@dataclass(frozen=True, slots=True)
class Where:
    """Where the workers run: in this process, or on a Ray cluster (None: one of our own).

    `allow_open` takes a cluster that asks for no token though other machines reach it, `ship_code`
    sends this very package to its nodes.
    """

    local: bool
    address: str | None
    model_cache: str
    allow_open: bool = False
    ship_code: bool = False


@dataclass(frozen=True, slots=True)
class FreeKeys:
    """What an invocation may choose anew."""

    workers: WorkersSpec
    limits: LimitsSpec


def free_keys(job: JobSpec, overrides: tuple[str, ...] = ()) -> FreeKeys:
    """The free keys of a job, with ``key=value`` texts applied.

    Raises:
        InputError: an override is for a pinned key.
    """
    names = [override.partition("=")[0] for override in overrides]
    pinned = [name for name in names if name == "name" or not is_free(name)]
    if pinned:
        allowed = "limits.…, workers.… but workers.batch_size"
        fix = "leave it out; a run keeps what it was submitted with"
        raise InputError(tuple(Problem(f"--set {name}", "pinned", allowed, fix) for name in pinned))
    job = override_job(job, overrides)
    return FreeKeys(job.workers, job.limits)


def check_versions(record: RunRecord, *, strict: bool) -> dict[str, tuple[str, str]]:
    """Libraries that are not what they were at the first submit: name: (then, now).

    Raises:
        InputError: there are some, and `strict`.
    """
    changed = changed_versions(record)
    if changed and strict:
        raise InputError(
            tuple(
                Problem(f"version of {name}", now, then, f"install {name}=={then}")
                for name, (then, now) in changed.items()
            )
        )
    return changed


def check_where(store: Store, where: Where) -> Where:
    """Where the workers of a run should be; in this process if there is nothing left to render.

    Raises:
        InputError: strangers could join that cluster, or there is none.
    """
    if where.local or exists(store, keys.MANIFEST):
        return replace(where, local=True)
    if where.address is not None and not where.allow_open:
        # Ray takes a second to import: only those who use it wait for it.
        from render_farm.farm.open_cluster import refuse_open_cluster  # noqa: PLC0415

        refuse_open_cluster(where.address)
    return where


def drive_run(
    store: Store,
    record: RunRecord,
    where: Where,
    free: FreeKeys,
    on_driver: Callable[[Driver], None],
    on_progress: Callable[[Progress], None],
) -> DriveEnd:
    """Drive a run until it ends or is asked to stop.

    `on_driver` gets the driver before it starts, to stop it by.

    Raises: as `Driver.drive`, and `InputError` if there is no cluster.
    """
    where = check_where(store, where)
    with _pool(where, free.workers) as (pool, count):
        how = drive_options(store, record, where, free, count)
        driver = Driver(store, record, pool, how, on_progress)
        on_driver(driver)
        return driver.drive()


def drive_options(
    store: Store, record: RunRecord, where: Where, free: FreeKeys, workers: int
) -> DriveOptions:
    """How this process drives a run with so many workers, or, if they are ``auto``, at first."""
    chosen = free.workers.open_shards
    driver = process_name()
    return DriveOptions(
        workers=workers,
        limits=free.limits,
        options=WorkerOptions(
            run_uri=store.uri,
            token=record.token,
            worker=driver,
            cpus=free.workers.cpus,
            max_quarantined=free.limits.max_quarantined,
            on_flagged=free.limits.on_flagged,
            model_cache=where.model_cache,
            open_shards=OPEN_SHARDS if chosen == "auto" else chosen,
        ),
        driver=driver,
        elastic=free.workers.count == "auto" and not where.local,
    )


@contextmanager
def _pool(where: Where, workers: WorkersSpec) -> Iterator[tuple[Pool, int]]:
    if where.local:
        yield LocalPool(build_pinned), 1
        return
    from render_farm.farm.cluster import connect, disconnect  # noqa: PLC0415
    from render_farm.farm.driver import RayPool  # noqa: PLC0415

    resources = connect(where.address, workers, ship_code=where.ship_code)
    try:
        yield RayPool(resources, build_pinned), resources.count
    finally:
        disconnect()
