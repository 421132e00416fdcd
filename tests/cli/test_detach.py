"""A detached driver: a job of the cluster, which the same command starts again after its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import yaml
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from tests.end_to_end.farm import PATIENCE_S, farm
from tests.making.jobs import job_document, write_prompts
from tests.servers.ray_head import Head
from tests.set_checker import SetVerdict, check_set, folder_blobs

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

ROWS, SHARD_ROWS = 1600, 10
TOKEN = "0123456789abcdef" * 4


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    """One that asks for a token, and takes jobs."""
    asks = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # By which a head keeps to the loopback.
    alone = {"PATH": here, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    for name, value in asks.items():
        monkeypatch.setenv(name, value)
    with Head("127.0.0.1", asks | alone, dashboard=True) as head:
        yield head


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "prompts.parquet", ROWS, row_group=400)


@pytest.fixture
def job(prompts: Path, run: Path, tmp_path: Path) -> Path:
    sections = {"defaults": {"width": 512, "height": 512}, "shards": {"rows": SHARD_ROWS}}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job_document(prompts, run, **sections)))
    return path


def assert_whole(verdict: SetVerdict) -> None:
    """Whole, but for files under hidden names that a killed writer left in the folder."""
    strangers = [name for name in verdict.unexpected if "/.render-farm-tmp-" not in name]
    assert (verdict.lost, verdict.duplicated, strangers, verdict.corrupt) == ([], [], [], [])
    assert verdict.done_rows == verdict.planned_rows


def test_a_driver_that_died_is_started_again_by_the_same_submit_and_a_living_one_is_not(
    head: Head, job: Path, run: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
):
    # What is asked for wins over what the environment says, with Ray's client for jobs, too.
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    submit = ("submit", job, "--detach", "--json", "--set", "limits.attempts=7")
    first = farm(*submit, "--address", head.address)
    assert first.code == 0, first.err
    told = first.json
    assert told["started"]
    assert told["run"] == str(run)
    assert told["address"] == head.dashboard
    assert told["follow"] == f"ray job logs -f {told['job']} --address {head.dashboard}"

    monkeypatch.delenv("RAY_ADDRESS")
    jobs = JobSubmissionClient(head.dashboard, headers={"Authorization": f"Bearer {TOKEN}"})
    about = until(jobs, told["job"], lambda job: receipts(run) >= 3)
    for address in (head.address, head.dashboard):
        again = farm(*submit, "--address", address)
        assert again.code == 0, again.err
        assert again.json == told | {"started": False}
    assert "limits.attempts=7" in about.entrypoint
    assert not (about.runtime_env or {}).get("env_vars")
    assert TOKEN not in json.dumps(about.model_dump(mode="json"))

    driver_of(run).kill()
    until(jobs, told["job"], lambda job: job.status == JobStatus.FAILED)
    assert receipts(run) < ROWS // SHARD_ROWS
    monkeypatch.setenv("RAY_ADDRESS", head.dashboard)  # as `ray job submit` would have it
    second = farm("resume", run, "--detach")
    assert second.code == 0, second.err
    assert f"render-farm status {run}" in second.out
    following = told["job"].removesuffix("1") + "2"
    assert f"job {following}, submitted" in second.out
    until(jobs, following, lambda job: job.status.is_terminal())
    assert jobs.get_job_status(following) == JobStatus.SUCCEEDED, jobs.get_job_logs(following)
    assert_whole(check_set(prompts, folder_blobs(run), shard_rows=SHARD_ROWS))
    assert farm("verify", run).code == 0
    # A run that is complete is told of, and needs no driver.
    complete = farm(*submit)
    assert complete.json["state"] == "complete"
    assert len([job for job in jobs.list_jobs() if job.submission_id]) == 2


ELSEWHERE = """
import sys
from ray._private import ray_constants
from ray._raylet import GcsClient
key, there = ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD
head = GcsClient(address=sys.argv[1])
assert head.internal_kv_get(key, there)
head.internal_kv_put(key, sys.argv[2].encode(), True, there)
"""


def test_a_dashboard_that_leads_to_another_cluster_from_here_gets_no_job(head: Head, job: Path):
    """One that listens on the loopback of its head is somebody else's on this machine."""
    visits = []

    class OtherDashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            visits.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"ray_version": "2.60.0", "session_name": "session_of_others"}')

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), OtherDashboard) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            there = f"127.0.0.1:{other.server_port}"
            command = [sys.executable, "-c", ELSEWHERE, head.address, there]
            subprocess.run(command, check=True, timeout=PATIENCE_S)
            refused = farm("submit", job, "--detach", "--address", head.address, "--json")
        finally:
            other.shutdown()
            thread.join()
    assert refused.code == 2, refused.err
    (problem,) = refused.json["errors"]
    assert problem["field"] == "--detach"
    assert "leads elsewhere" in problem["value"]
    assert set(visits) == {"/api/version"}


def receipts(run: Path) -> int:
    return len(list((run / "receipts").glob("*.json")))


def until(
    jobs: JobSubmissionClient, name: str, condition: Callable[[JobDetails], bool]
) -> JobDetails:
    deadline = time.monotonic() + PATIENCE_S
    while not condition(found := jobs.get_job_info(name)):
        assert time.monotonic() < deadline, jobs.get_job_logs(name)[-4000:]
        time.sleep(0.05)
    return found


def driver_of(run: Path) -> psutil.Process:
    (found,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [])[1:5] == ["-m", "render_farm", "resume", str(run)]
    ]
    return found
