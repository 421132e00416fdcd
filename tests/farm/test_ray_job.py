"""Giving a driver to a Jobs API: once a run, whoever asks, by a command that says it all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import DriverInfo, JobDetails, JobStatus, JobType

from render_farm.errors import InputError
from render_farm.farm.code_on_nodes import shipped_code
from render_farm.farm.ray_job import DriverJob, await_driver, submit_driver

DRIVER = DriverJob("s3://bucket/run", "0123456789abcdef", ("--set", "limits.attempts=3"))
NAME = "render-farm-0123456789ab"


class Jobs:
    """A Jobs API in memory; `refusals` are what it answers to the next submits."""

    def __init__(self, *refusals: str) -> None:
        self.requests: list[dict[str, Any]] = []
        self.jobs: dict[str, JobDetails] = {}
        self.logs: dict[str, str] = {}
        self.later: Iterator[JobDetails] = iter(())
        self._refusals = list(refusals)
        self._lock = threading.Lock()

    def get_address(self) -> str:
        return "http://head:8265"

    def list_jobs(self) -> list[JobDetails]:
        return list(self.jobs.values())

    def get_job_info(self, job_id: str) -> JobDetails:
        return next(self.later, self.jobs[job_id])

    def get_job_logs(self, job_id: str) -> str:
        return self.logs[job_id]

    def submit_job(self, **request: Any) -> str:
        with self._lock:
            if self._refusals:
                raise RuntimeError(self._refusals.pop(0))
            name = request["submission_id"]
            if name in self.jobs:
                raise RuntimeError(f"Job with submission_id {name} already exists.")
            self.requests.append(request)
            self.jobs[name] = job(name)
            return name


def job(name: str | None, status: JobStatus = JobStatus.RUNNING, **more: Any) -> JobDetails:
    return JobDetails(
        type=JobType.SUBMISSION, submission_id=name, status=status, entrypoint="", **more
    )


def test_a_run_that_is_driven_by_a_job_gets_no_second_one():
    jobs = Jobs()
    first, second = submit_driver(jobs, DRIVER), submit_driver(jobs, DRIVER)
    assert (first.job, first.started) == (f"{NAME}-1", True)
    assert (second.job, second.started) == (f"{NAME}-1", False)
    assert first.dashboard == second.dashboard == "http://head:8265"
    assert len(jobs.requests) == 1


def test_a_job_that_waits_to_start_is_going_on_as_well():
    jobs = Jobs()
    jobs.jobs[f"{NAME}-1"] = job(f"{NAME}-1", JobStatus.PENDING)
    assert not submit_driver(jobs, DRIVER).started


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.STOPPED, JobStatus.SUCCEEDED])
def test_where_jobs_of_the_run_have_ended_the_same_submit_starts_the_next(status: JobStatus):
    jobs = Jobs()
    for number in (2, 10):
        jobs.jobs[f"{NAME}-{number}"] = job(f"{NAME}-{number}", status)
    assert submit_driver(jobs, DRIVER).job == f"{NAME}-11"


def test_jobs_of_others_are_not_taken_for_the_runs():
    jobs = Jobs()
    for name in ("raysubmit_1", "render-farm-ffffffffffff-7", f"{NAME}-x", None):
        jobs.jobs[str(name)] = job(name)
    assert submit_driver(jobs, DRIVER).job == f"{NAME}-1"


def test_of_many_calls_at_once_one_submits_and_the_others_name_its_job():
    class Together(Jobs):
        """Everybody has looked before anybody submits."""

        def __init__(self) -> None:
            super().__init__()
            self._looked = threading.Barrier(8)
            self._first = threading.local()

        def list_jobs(self) -> list[JobDetails]:
            found = super().list_jobs()
            if not getattr(self._first, "done", False):
                self._first.done = True
                self._looked.wait(60)
            return found

    jobs = Together()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: submit_driver(jobs, DRIVER), range(8)))
    assert {one.job for one in found} == {f"{NAME}-1"}
    assert sum(one.started for one in found) == len(jobs.requests) == 1


def test_a_head_that_has_just_started_is_waited_for():
    jobs = Jobs("500: No available agent to submit job, please try again later.")
    assert submit_driver(jobs, DRIVER).started


def test_what_a_head_refuses_is_told_as_it_is():
    with pytest.raises(InputError, match="disk full") as refused:
        submit_driver(Jobs("500: disk full"), DRIVER)
    assert refused.value.problems[0].field == "--detach"


def test_the_job_carries_no_variables_and_reserves_nothing():
    """Variables are shown to whoever asks the Jobs API, and a job that reserves leaves the head."""
    for driver in (DRIVER, DriverJob(DRIVER.run, DRIVER.token, (), ship_code=True)):
        jobs = Jobs()
        submit_driver(jobs, driver)
        (request,) = jobs.requests
        assert set(request) == {"entrypoint", "submission_id", "runtime_env", "metadata"}
        assert request["runtime_env"] == (shipped_code() if driver.ship_code else {})
        assert request["metadata"]["run"] == driver.run
        assert DRIVER.token not in json.dumps(request)
    assert set(shipped_code()) == {"py_modules", "excludes"}


def test_the_heads_shell_gets_every_argument_as_it_was_and_the_address_from_ray(tmp_path: Path):
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    run = "/runs/a b; $(touch oops) 'c'"
    driver = DriverJob(run, DRIVER.token, ("--set", 'workers.resources={"fast node": 1}'))
    said = subprocess.run(
        ["/bin/sh", "-c", driver.command],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": str(tmp_path), "RAY_ADDRESS": "10.0.0.1:6379"},
    ).stdout
    assert said.splitlines() == [
        *("-m", "render_farm", "resume", run, "--set", 'workers.resources={"fast node": 1}'),
        *("--address", "10.0.0.1:6379"),
    ]
    assert not (tmp_path / "oops").exists()


def test_a_driver_is_there_when_it_has_joined_its_cluster():
    jobs = Jobs()
    jobs.jobs["j"] = job("j", JobStatus.FAILED)  # what nobody may look at any more
    info = DriverInfo(id="1", node_ip_address="10.0.0.1", pid="7")
    jobs.later = iter([job("j", JobStatus.PENDING), job("j"), job("j", driver_info=info)])
    assert await_driver(jobs, "j") is None
    assert next(jobs.later, None) is None


@pytest.mark.parametrize("code", [1, 2, 127, -9, None])
def test_a_driver_that_ends_before_is_told_with_its_last_words(code: int | None):
    jobs = Jobs()
    jobs.jobs["j"] = job("j", JobStatus.FAILED, driver_exit_code=code, message="exit code")
    jobs.logs["j"] = "\n".join(f"line {n}" for n in range(20)) + "\n\nsh: python: not found\n"
    told = await_driver(jobs, "j")
    assert told is not None
    assert told.endswith("sh: python: not found")
    assert "line 2\n" not in told
    jobs.logs["j"] = "\n"
    assert await_driver(jobs, "j") == "exit code"


@pytest.mark.parametrize(("status", "code"), [("SUCCEEDED", 0), ("FAILED", 3), ("FAILED", 4)])
def test_a_driver_that_has_said_in_the_run_how_it_ended_is_no_mistake(status: str, code: int):
    jobs = Jobs()
    jobs.jobs["j"] = job("j", JobStatus(status), driver_exit_code=code)
    assert await_driver(jobs, "j") is None


def test_without_rays_client_for_jobs_the_way_to_it_is_told():
    program = """
import sys
sys.modules["aiohttp"] = None
from render_farm.errors import InputError
from render_farm.farm.ray_job import open_jobs
try:
    open_jobs("http://127.0.0.1:1", allow_open=True)
except InputError as error:
    print(error.problems[0].fix)
"""
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300
    )
    assert "install 'render_farm[cluster]'" in said.stdout
