"""Runs to look at."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from render_farm.farm.opening import new_run_record
from render_farm.farm.prepare import prepare
from render_farm.ledger.record import RunRecord, create_record
from render_farm.output.layout import CONTAINERS
from render_farm.store.memory import MemoryBucket, MemoryStore
from tests.making.jobs import make_job, write_prompts
from tests.making.stores import drive_on

ROWS = 10
POISONED = 5

Made = tuple[MemoryStore, RunRecord]
_numbers = count()


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Made]:
    """Makes a run of ten rows, two samples each, row 5 poisoned.

    `columns` are of the dataset, sections as of a job file.
    """

    def make(rows: int = ROWS, columns: Any = (), **sections: Any) -> Made:
        scales = [7.5] * rows
        if rows > POISONED:
            scales[POISONED] = -1.0
        number = next(_numbers)
        given = {"guidance_scale": scales} | dict(columns)
        prompts = write_prompts(tmp_path / f"{number}.parquet", rows, **given)
        sections = {
            "defaults": {"width": 16, "height": 16, "samples": 2},
            "limits": {"max_quarantined": 1.0},
        } | sections
        job = make_job(prompts, f"memory://views-{number}/run", **sections)
        store = MemoryStore(job.output.uri)
        return store, create_record(store, new_run_record(prepare(job, "/nonexistent")))

    return make


@pytest.fixture(scope="module", params=CONTAINERS)
def whole_run(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Made:
    """A complete run in each container; not to be written to."""
    folder = tmp_path_factory.mktemp("whole")
    scales = [7.5] * ROWS
    scales[POISONED] = -1.0
    prompts = write_prompts(folder / "prompts.parquet", ROWS, guidance_scale=scales)
    job = make_job(
        prompts,
        f"memory://whole-{request.param}/run",
        output={"container": request.param},
        defaults={"width": 16, "height": 16, "samples": 2},
        limits={"max_quarantined": 1.0},
    )
    store = MemoryStore(job.output.uri)
    record = create_record(store, new_run_record(prepare(job, "/nonexistent")))
    drive_on(store, record)
    return store, record


@pytest.fixture
def run(whole_run: Made) -> Made:
    """A copy of a complete run, in each container, to be harmed."""
    store, record = whole_run
    copy = MemoryStore(store.uri, bucket=MemoryBucket())
    for info in store.list():
        copy.put(info.key, store.get(info.key))
    return copy, record
