"""Complete runs of ten rows in each container, to be harmed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from render_farm.ledger.record import RunRecord, read_record
from render_farm.store.base import Store
from render_farm.store.open import open_store
from render_farm.views.verify import Verdict, verify_run
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import submit
from tests.set_checker import SetVerdict, check_set, folder_blobs
from tests.set_checker.harms_to_samples import SAMPLES

CONTAINERS = ("webdataset", "parquet", "files")
ROWS, SHARD_ROWS = 10, 4
QUARANTINED = 5  # of shard 1, which has the rows 4 to 7


@dataclass(frozen=True)
class Made:
    """A run in a folder, with its input."""

    folder: Path
    prompts: Path
    container: str

    def check(self) -> SetVerdict:
        blobs = folder_blobs(self.folder)
        return check_set(self.prompts, blobs, samples=SAMPLES, shard_rows=SHARD_ROWS)

    def verify(self) -> Verdict:
        return verify_run(self.store, self.record)

    @property
    def store(self) -> Store:
        return open_store(str(self.folder))

    @property
    def record(self) -> RunRecord:
        return read_record(self.store)


@pytest.fixture(scope="session", params=CONTAINERS)
def honest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A complete run; not to be written to."""
    folder = tmp_path_factory.mktemp(f"set-{request.param}")
    scales = [7.5] * ROWS
    scales[QUARANTINED] = -1.0
    prompts = write_prompts(folder / "prompts.parquet", ROWS, guidance_scale=scales)
    job = make_job(
        prompts,
        folder / "run",
        output={"container": request.param},
        shards={"rows": SHARD_ROWS},
        defaults={"width": 16, "height": 8, "samples": SAMPLES},
        limits={"max_quarantined": 1.0},
    )
    assert submit(job).drive().reason is None
    return Made(folder / "run", prompts, request.param)


@pytest.fixture
def made(honest: Made, tmp_path: Path) -> Made:
    """A copy of a complete run, to be harmed."""
    folder = tmp_path / "run"
    shutil.copytree(honest.folder, folder)
    return Made(folder, honest.prompts, honest.container)
