"""Signals, cancelling and going on, by commands of their own and Ray's job service."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ray.job_submission import JobStatus, JobSubmissionClient

from tests.end_to_end.farm import PATIENCE_S, Running, farm
from tests.making.jobs import job_document, write_prompts
from tests.servers.ray_head import Head
from tests.set_checker import check_set, folder_blobs

ROWS, SHARD_ROWS = 1200, 10

pytestmark = [pytest.mark.timeout(600)]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "prompts.parquet", ROWS, row_group=400)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def job(prompts: Path, run: Path, tmp_path: Path) -> Path:
    sections = {"defaults": {"width": 128, "height": 128}, "shards": {"rows": SHARD_ROWS}}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job_document(prompts, run, **sections)))
    return path


def receipts(run: Path) -> int:
    return len(list((run / "receipts").glob("*.json")))


def assert_whole(prompts: Path, run: Path) -> None:
    verdict = check_set(prompts, folder_blobs(run), shard_rows=SHARD_ROWS)
    assert verdict.whole, verdict
    assert verdict.orphans == 0
    assert farm("verify", run).code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_the_batches_in_hand_and_resume_completes_it(
    number: signal.Signals, job: Path, prompts: Path, run: Path, tmp_path: Path
):
    driver = Running(tmp_path / "driver.log", "submit", job, "--local")
    driver.wait_until(lambda: receipts(run) >= 3)
    driver.process.send_signal(number)
    assert driver.finish() == 4, driver.log()
    assert "stopping after the batches in hand" in driver.log()
    stopped = farm("status", run, "--json").json
    assert (stopped["state"], stopped["reason"]) == ("stopped", "stopped as asked")
    assert 3 * SHARD_ROWS <= stopped["rows"]["done"] < ROWS
    assert farm("verify", run, "--json").json["orphans"] == 0
    resumed = farm("resume", run, "--local", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["samples"]["rendered"] == ROWS - stopped["rows"]["done"]
    assert_whole(prompts, run)


def test_a_second_signal_ends_it_at_once_and_loses_nothing(
    job: Path, prompts: Path, run: Path, tmp_path: Path
):
    driver = Running(tmp_path / "driver.log", "submit", job, "--local")
    driver.wait_until(lambda: receipts(run) >= 3)
    driver.process.send_signal(signal.SIGSTOP)  # so that both have come before it looks
    driver.process.send_signal(signal.SIGTERM)
    driver.process.send_signal(signal.SIGINT)
    driver.process.send_signal(signal.SIGCONT)
    assert driver.finish() == 4, driver.log()
    assert farm("submit", job, "--local").code == 0
    assert farm("sweep", run).code == 0
    assert_whole(prompts, run)


def test_a_cancel_from_elsewhere_ends_a_run_within_its_shards_in_hand_and_for_good(
    job: Path, prompts: Path, run: Path, tmp_path: Path
):
    driver = Running(tmp_path / "driver.log", "submit", job, "--local")
    driver.wait_until(lambda: receipts(run) >= 3)
    cancelled = farm("cancel", run, "--json")
    assert cancelled.code == 0, cancelled.err
    kinds = [json.loads(path.read_text())["kind"] for path in (run / "receipts").glob("*.json")]
    assert len(kinds) == ROWS // SHARD_ROWS
    assert kinds.count("cancelled") == cancelled.json["shards_cancelled"] > 0
    assert driver.finish() == 4, driver.log()
    status = farm("status", run, "--json").json
    assert status["state"] == "cancelled"
    assert status["rows"]["done"] == SHARD_ROWS * kinds.count("rendered")
    assert status["rows"]["done"] + status["rows"]["cancelled"] == ROWS
    assert_whole(prompts, run)  # what was in hand was withdrawn
    for command in (("resume", run), ("submit", job)):
        refused = farm(*command, "--local", "--json")
        assert refused.code == 2
        assert "retry" in refused.json["errors"][0]["fix"]
    retried = farm("retry", run, "--cancelled", "--local", "--json")
    assert retried.code == 0, retried.err
    assert retried.json["rows"]["done"] == status["rows"]["cancelled"]
    both = farm("verify", run, "--with-retries", "--json").json
    assert (both["ok"], both["rows"]["done"], both["rows"]["cancelled"]) == (True, ROWS, 0)


def _submitted(client: JobSubmissionClient, command: str) -> str:
    """Submit a job; the service answers before the agent is there that runs jobs."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return client.submit_job(entrypoint=command)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.mark.ray
def test_stopping_the_ray_job_of_a_driver_drains_its_run(job: Path, prompts: Path, run: Path):
    # Ray kills a job three seconds after it was asked to end, unless it is told to wait.
    patient = {"RAY_AUTH_MODE": "disabled", "RAY_JOB_STOP_WAIT_TIME_S": "120"}
    with Head("127.0.0.2", patient, dashboard=True) as head:
        jobs = JobSubmissionClient(head.dashboard)
        command = f"{sys.executable} -m render_farm submit {job} --address {head.address}"
        number = _submitted(jobs, command)

        def until(condition: Callable[[], bool]) -> None:
            deadline = time.monotonic() + PATIENCE_S
            while not condition():
                assert time.monotonic() < deadline, jobs.get_job_logs(number)[-4000:]
                time.sleep(0.05)

        def ended() -> bool:
            return jobs.get_job_status(number).is_terminal()

        until(lambda: receipts(run) >= 3 or ended())
        jobs.stop_job(number)
        until(ended)
        assert jobs.get_job_status(number) == JobStatus.STOPPED
        assert "stopping after the batches in hand" in jobs.get_job_logs(number)
    stopped = farm("status", run, "--json").json
    assert (stopped["state"], stopped["reason"]) == ("stopped", "stopped as asked")
    assert stopped["rows"]["done"] < ROWS
    assert farm("resume", run, "--local").code == 0
    assert_whole(prompts, run)
