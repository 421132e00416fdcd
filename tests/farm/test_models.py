"""Bringing a job's model to a node: a folder, an S3 prefix, a hub id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from render_farm.errors import ModelError
from render_farm.farm.models import locate_model
from render_farm.ledger.receipt import iter_receipts
from render_farm.store.open import open_store
from render_farm.views.results import shard_metadata
from render_farm.views.verify import verify_run
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import submit
from tests.models import folders
from tests.servers.moto import MotoServer


def test_a_folder_is_found_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    located = locate_model("models/mine", None, "cache")
    assert located.path == located.folder == str(tmp_path / "models" / "mine")


def test_a_model_behind_an_unknown_scheme_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"model\.path"):
        locate_model("https://models/sd15", None, str(tmp_path))


def test_a_run_renders_with_a_model_from_s3(
    moto_server: MotoServer, s3_env: Callable[[Any], None], tmp_path: Path
):
    s3_env(moto_server)
    moto_server.make_bucket("models-bucket")
    folder = tmp_path / "sd15"
    folders.make_sd15(folder)
    store = open_store("s3://models-bucket/sd15")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        store.upload(path.relative_to(folder).as_posix(), path)
    job = make_job(
        write_prompts(tmp_path / "p.parquet", 4),
        tmp_path / "run",
        model={"path": "s3://models-bucket/sd15", "engine": "auto"},
        defaults={"steps": 2},
        workers={"batch_size": 2},
    )
    run = submit(job, model_cache=str(tmp_path / "cache"))
    assert run.drive().reason is None
    assert verify_run(run.store, run.record).ok
    (receipt,) = iter_receipts(run.store)
    table = shard_metadata(run.store, receipt)
    assert table is not None
    assert set(table["model"].to_pylist()) == {"s3://models-bucket/sd15"}
    assert set(table["batch_shape"].to_pylist()) == {"2x64x64"}
