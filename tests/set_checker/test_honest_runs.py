"""Whatever a run is made of, an honest one is whole and its counts are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import boto3
import pyarrow as pa
import pytest

from render_farm.farm.pool import LocalPool
from render_farm.ledger.cancel import cancel_run
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import Run, submit
from tests.making.samplers import CuedSampler
from tests.servers.moto import MotoServer
from tests.set_checker import bucket_blobs, check_set, folder_blobs
from tests.set_checker.conftest import CONTAINERS, Made
from tests.set_checker.forgery import Forger, Sample

SMALL = {"width": 16, "height": 8}


def made_run(prompts: Path, folder: Path, /, **sections: object) -> Run:
    sections = {"defaults": SMALL, "limits": {"max_quarantined": 1.0}} | sections
    return submit(make_job(prompts, folder, **sections))


def test_several_files_and_a_limit_make_shards_as_the_design_says(tmp_path: Path) -> None:
    for name, rows in (("b.parquet", 5), ("a/z.parquet", 3), ("empty.parquet", 0), ("é.pq", 9)):
        write_prompts(tmp_path / "prompts" / name, rows)
    write_prompts(tmp_path / "prompts" / "_hidden.parquet", 4)
    run = made_run(
        tmp_path / "prompts", tmp_path / "run", prompts={"limit": 14}, shards={"rows": 4}
    )
    run.drive()
    blobs = folder_blobs(tmp_path / "run")
    verdict = check_set(tmp_path / "prompts", blobs, shard_rows=4, limit=14)
    assert verdict.whole, verdict
    assert (verdict.planned_rows, verdict.samples) == (14, 14)
    for wrong in ({"shard_rows": 4, "limit": 15}, {"shard_rows": 3, "limit": 14}):
        assert not check_set(tmp_path / "prompts", blobs, **wrong).whole


@pytest.mark.parametrize("image", ["jpeg", "webp"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_image_format_is_opened(tmp_path: Path, container: str, image: str) -> None:
    prompts = write_prompts(tmp_path / "p.parquet", 3)
    made_run(prompts, tmp_path / "run", output={"container": container, "image": image}).drive()
    verdict = check_set(prompts, folder_blobs(tmp_path / "run"), shard_rows=4)
    assert verdict.whole, verdict


def test_ids_are_those_of_the_column_that_the_job_named(tmp_path: Path) -> None:
    prompts = write_prompts(
        tmp_path / "p.parquet", 4, id=[7, None, 7, 2**60], caption=["a", "", "ü\n", "ü\n"]
    )
    columns = {"prompt": "caption"}
    made_run(prompts, tmp_path / "named", prompts={"columns": columns}).drive()
    made_run(prompts, tmp_path / "none", prompts={"columns": columns | {"id": None}}).drive()
    for run, named in (("named", "id"), ("none", None)):
        blobs = folder_blobs(tmp_path / run)
        for column in ("id", None):
            verdict = check_set(
                prompts, blobs, shard_rows=4, id_column=column, prompt_column="caption"
            )
            assert verdict.whole == (column == named), verdict
        assert not check_set(prompts, blobs, shard_rows=4, id_column=named).whole


def test_rows_that_cannot_be_rendered_are_counted_as_quarantined(tmp_path: Path) -> None:
    not_text = pa.array([b"fine", b"\xff\xfe", None, b"fine"], pa.binary()).view(pa.string())
    ids = pa.array([b"\xc3", b"b", b"c", b"d"], pa.binary()).view(pa.string())
    prompts = write_prompts(tmp_path / "p.parquet", 4, prompt=not_text, id=ids)
    made_run(prompts, tmp_path / "run").drive()
    verdict = check_set(prompts, folder_blobs(tmp_path / "run"), shard_rows=4)
    assert verdict.whole, verdict
    assert (verdict.done_rows, verdict.quarantined_rows) == (1, 3)


def test_the_open_rows_of_a_cancelled_run_are_cancelled(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.parquet", 10)
    run = made_run(prompts, tmp_path / "run")
    driver = run.driver(on_progress=lambda seen: seen.decided_rows >= 4 and driver.ask_to_stop())
    driver.drive()
    cancel_run(run.store, run.record)
    verdict = check_set(prompts, folder_blobs(tmp_path / "run"), shard_rows=4)
    assert verdict.whole, verdict
    assert verdict.cancelled_rows
    assert verdict.done_rows + verdict.cancelled_rows == 10


def test_a_row_whose_samples_are_all_filtered_is_filtered(made: Made) -> None:
    """No command filters yet; the layout has had the place for it from the beginning."""
    forger = Forger(made.folder, made.container)
    taken: list[Sample] = []

    def take(samples: list[Sample]) -> list[Sample]:
        taken.extend(samples[:2])
        return samples[2:]

    forger.rewrite_samples(take)
    for line in (sample.columns for sample in taken):
        forger.image_path(line).unlink(missing_ok=True)
    lines = [sample.columns | {"status": "filtered"} for sample in taken]
    forger.rewrite_lines(forger.key(".parquet", "rejected"), lambda others: [*lines, *others])
    counts = {"done": 2, "filtered": 1, "quarantined": 1, "cancelled": 0}
    forger.write_receipt(counts=counts, samples={"done": 4, "filtered": 2})
    verdict = made.check()
    assert verdict.whole, verdict
    assert (verdict.done_rows, verdict.filtered_rows, verdict.quarantined_rows) == (8, 1, 1)
    assert made.verify().ok


def test_what_is_not_rendered_yet_is_lost(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.parquet", 6)
    run = made_run(prompts, tmp_path / "run")
    nothing = check_set(prompts, folder_blobs(tmp_path / "run"), shard_rows=4)
    assert len(nothing.lost) == 6
    assert [*nothing.duplicated, *nothing.unexpected, *nothing.corrupt] == []
    run.drive()
    assert check_set(prompts, folder_blobs(tmp_path / "run"), shard_rows=4).whole


def test_a_row_that_the_engine_refuses_is_quarantined_with_all_its_samples(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.parquet", 5, prompt=["a", "refuse", "b", "c", "refuse"])
    run = made_run(prompts, tmp_path / "run", defaults=SMALL | {"samples": 3})
    run.drive(LocalPool(lambda record, options: CuedSampler()))
    verdict = check_set(prompts, folder_blobs(tmp_path / "run"), samples=3, shard_rows=4)
    assert verdict.whole, verdict
    assert (verdict.done_rows, verdict.quarantined_rows, verdict.samples) == (3, 2, 9)
    assert not check_set(prompts, folder_blobs(tmp_path / "run"), samples=2, shard_rows=4).whole


def test_a_bucket_is_read_as_a_folder_is(
    tmp_path: Path, moto_server: MotoServer, s3_env: Callable[[object], None]
) -> None:
    s3_env(moto_server)
    boto3.session.Session().client("s3").create_bucket(Bucket="set-checker")
    prompts = write_prompts(tmp_path / "p.parquet", 5)
    run = submit(make_job(prompts, "s3://set-checker/a/run", defaults=SMALL))
    run.drive()
    blobs = bucket_blobs("set-checker", "a/run")
    assert check_set(prompts, blobs, shard_rows=4).whole
    assert sorted(blobs.keys()) == sorted(info.key for info in run.store.list(""))
    run.store.delete(next(blobs.keys("data/")))
    assert not check_set(prompts, blobs, shard_rows=4).whole
    assert not check_set(prompts, bucket_blobs("set-checker", "a/ru"), shard_rows=4).whole
