"""The main job as its users run it: Parquet in S3 → Ray actors → a diffusers pipeline → S3."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from jobs.scenes.checker import matches, read
from jobs.scenes.world import parse
from render_farm.ledger.receipt import iter_receipts
from render_farm.ledger.record import read_record
from render_farm.output.codecs import decode
from render_farm.store.open import open_store
from render_farm.views.results import shard_samples
from tests.end_to_end.farm import Running, farm
from tests.servers.ceph import CephServer

MODEL = "jobs/scenes/model"
SETTINGS = {
    "width": 64,
    "height": 64,
    "steps": 20,
    "guidance_scale": 3.0,
    "scheduler": "ddim",
}

pytestmark = [pytest.mark.ceph, pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    def make(rows: int) -> Path:
        path = tmp_path_factory.getbasetemp() / f"prompts-{rows}.parquet"
        if not path.exists():
            command = ["-m", "jobs.scenes.prompts", "--out", str(path), "--rows", str(rows)]
            subprocess.run(
                [sys.executable, *command, "--held-out", "--row-group", "64"], check=True
            )
        return path

    return make


@pytest.fixture
def bucket(ceph: CephServer, s3_env: Callable[[Any], None], tmp_path: Path) -> str:
    s3_env(ceph)
    return ceph.make_bucket(f"e2e-{abs(hash(tmp_path.name)) % 10**8}")


def write_job(path: Path, prompts: str | Path, output: str | Path, **changes: Any) -> Path:
    document = {
        "name": "scenes",
        "prompts": {"path": str(prompts), "columns": {"prompt": "caption", "id": "key"}},
        "model": {"path": MODEL},
        "defaults": SETTINGS | changes.pop("defaults", {}),
        "output": {"uri": str(output)},
        "shards": {"rows": 25},
        "workers": {"count": 2, "batch_size": 8},
    }
    path.write_text(yaml.safe_dump(document | changes))
    return path


def samples(uri: str) -> Iterator[Any]:
    store = open_store(uri)
    record = read_record(store)
    for receipt in iter_receipts(store):
        yield from shard_samples(store, record, receipt)


def pictures(uri: str) -> set[tuple[int, int, str]]:
    return {(s.record["row"], s.record["sample"], s.record["sha256"]) for s in samples(uri)}


def test_pictures_in_s3_show_what_the_prompts_of_their_rows_say(
    bucket: str, prompts: Callable[[int], Path], tmp_path: Path
):
    """Swapped rows, wrong seeds or a broken denoise loop cannot pass: the checker sees pixels."""
    source = f"s3://{bucket}/prompts"
    dataset = prompts(100)
    open_store(source).upload("part-0.parquet", dataset)
    run = f"s3://{bucket}/runs/scenes"
    job = write_job(tmp_path / "job.yaml", f"{source}/", run)
    ended = farm("submit", job, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["samples"]["rendered"] == 100
    captions = pq.read_table(dataset)["caption"].to_pylist()
    right: Counter[str] = Counter()
    for sample in samples(run):
        caption = captions[sample.record["row"]]
        assert sample.record["prompt"] == caption
        scene = parse(caption)
        reading = read(decode(sample.image))
        right["all"] += matches(reading, scene)
        right["background"] += reading.background == scene.background
        assert sample.record["shape"] == scene.shape  # carried along
    assert right["background"] >= 98
    assert right["all"] >= 93
    verified = farm("verify", run, "--replay", "4", "--json")
    assert verified.code == 0, verified.err
    assert (verified.json["samples"], verified.json["replay_mismatches"]) == (100, 0)


def test_a_thousand_prompts_survive_a_worker_kill_and_a_driver_kill(
    bucket: str, prompts: Callable[[int], Path], tmp_path: Path
):
    dataset, few = prompts(1000), {"steps": 2}
    calm = tmp_path / "calm"
    quiet = write_job(tmp_path / "calm.yaml", dataset, calm, defaults=few)
    assert farm("submit", quiet, "--local").code == 0

    run = f"s3://{bucket}/runs/storm"
    store = open_store(run)
    job = write_job(tmp_path / "storm.yaml", dataset, run, defaults=few)

    def receipts() -> int:
        return sum(1 for _ in store.list("receipts/"))

    driver = Running(tmp_path / "driver.log", "submit", job)
    driver.wait_until(lambda: receipts() >= 4)
    before = receipts()
    driver.workers()[0].kill()
    driver.wait_until(lambda: receipts() >= before + 8)
    driver.kill()

    committed = receipts()
    assert committed < 40
    resumed = farm("submit", job, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["samples"]["rendered"] == (40 - committed) * 25
    verified = farm("verify", run, "--json")
    assert verified.code == 0
    counted = {k: verified.json[k] for k in ("samples", "lost", "duplicated", "corrupt")}
    assert counted == {"samples": 1000, "lost": 0, "duplicated": 0, "corrupt": 0}
    assert pictures(run) == pictures(str(calm))


def test_ctrl_c_stops_in_order_and_resume_goes_on(
    bucket: str, prompts: Callable[[int], Path], tmp_path: Path
):
    run = tmp_path / "run"
    job = write_job(tmp_path / "job.yaml", prompts(1000), run, defaults={"steps": 4})
    driver = Running(tmp_path / "driver.log", "submit", job)
    driver.wait_until(lambda: len(list((run / "receipts").glob("*.json"))) >= 2)
    assert driver.interrupt() == 4, driver.log()
    assert "stopping after the batches in hand" in driver.log()
    status = farm("status", run, "--json").json
    assert (status["state"], status["reason"]) == ("stopped", "stopped as asked")
    assert farm("verify", run).code == 4
    assert farm("cancel", run).code == 0
    assert farm("resume", run).code == 2


def test_wrong_credentials_and_a_missing_bucket_are_wrong_input(
    ceph: CephServer,
    bucket: str,
    prompts: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    job = write_job(tmp_path / "job.yaml", prompts(100), "s3://no-such-bucket-here/run")
    ended = farm("submit", job, "--json")
    assert ended.code == 2, ended.err
    assert ended.json["errors"][0]["field"] == "output.uri"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    job = write_job(tmp_path / "job.yaml", prompts(100), f"s3://{bucket}/run")
    ended = farm("submit", job, "--json")
    assert ended.code == 2, ended.err
    assert ended.json["errors"][0]["field"] == "output.uri"
    assert ceph.secret_key not in ended.out + ended.err
