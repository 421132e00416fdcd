"""A small job whose run holds everything: two shards, two samples a row, a quarantined row."""

from __future__ import annotations

from pathlib import Path

import pytest

from render_farm.farm.prepare import Prepared, prepare
from tests.making.jobs import make_job, write_prompts

SCALES = [7.5, 7.5, 7.5, 7.5, -1.0]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder: Path = tmp_path_factory.mktemp("small")
    prompts = write_prompts(folder / "prompts.parquet", rows=len(SCALES), guidance_scale=SCALES)
    job = make_job(
        prompts,
        "memory://small/run",
        shards={"rows": 3},
        defaults={"width": 16, "height": 16, "samples": 2},
        limits={"max_quarantined": 1.0},
        workers={"count": 1, "batch_size": 2},
    )
    return prepare(job, "/nonexistent")
