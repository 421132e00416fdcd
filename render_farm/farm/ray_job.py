"""The driver as a job of a Ray cluster: submitted once, and found again by whoever asks for it."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ray._private import ray_constants
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import render_farm
from render_farm.errors import InputError, first_line
from render_farm.farm.cluster import REACH_S, no_cluster
from render_farm.farm.code_on_nodes import shipped_code
from render_farm.farm.open_cluster import (
    WEB,
    cluster_place,
    refuse_open_cluster,
    refuse_open_dashboard,
)

PATIENCE_S = 60.0
"""How long a head may take to be ready for jobs, and then a driver to join its cluster."""

# Ray's client lets them decide before the address that it is given.
OVERRIDING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


@dataclass(frozen=True, slots=True)
class DriverJob:
    """A driver that is to run on a cluster's head: `arguments` are those of ``resume``.

    `ship_code` sends this very package along, for nodes that have only what it depends on.
    """

    run: str
    token: str
    arguments: tuple[str, ...]
    ship_code: bool = False

    @property
    def name(self) -> str:
        """What the ids of all jobs of this run begin with."""
        return f"render-farm-{self.token[:12]}"

    @property
    def command(self) -> str:
        """What the head's shell runs; Ray tells it there which cluster it is on."""
        words = ("python", "-m", "render_farm", "resume", self.run, *self.arguments)
        return f'{shlex.join(words)} --address "$RAY_ADDRESS"'


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job that drives a run; `started` unless it was running already."""

    job: str
    dashboard: str
    started: bool


class JobsApi(Protocol):
    """What is asked of Ray's Jobs API."""

    def get_address(self) -> str: ...
    def get_job_info(self, job_id: str) -> JobDetails: ...
    def get_job_logs(self, job_id: str) -> str: ...
    def list_jobs(self) -> list[JobDetails]: ...
    def submit_job(
        self,
        *,
        entrypoint: str,
        submission_id: str,
        runtime_env: dict[str, Any],
        metadata: dict[str, str],
    ) -> str: ...


def open_jobs(address: str, *, allow_open: bool) -> JobSubmissionClient:
    """The Jobs API of the cluster at `address`: a head's, or its dashboard's URL.

    Raises:
        InputError: there is no such cluster, it takes no jobs, or strangers could join it.
    """
    web = WEB.fullmatch(address) is not None
    if not allow_open:
        refuse_open_dashboard(address) if web else refuse_open_cluster(address)
    session, url = (None, address) if web else _dashboard(address)
    try:
        with _nothing_overriding():
            jobs = JobSubmissionClient(url)
    except (RuntimeError, ConnectionError, ValueError, RayError, OSError) as error:
        raise _no_jobs(address, error) from error
    if session is not None and session != _session_of(jobs):
        raise _no_jobs(address, ValueError(f"its dashboard, {url}, leads elsewhere from here"))
    return jobs


def submit_driver(jobs: JobsApi, driver: DriverJob) -> Submitted:
    """Submit the driver, unless a job of its run is going on: then that one is named.

    Of several calls at once one submits: ids count upward, and Ray takes each once.

    Raises:
        InputError: the cluster takes no jobs.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        earlier = _jobs_of(jobs, driver)
        for number, job in earlier:
            if not job.status.is_terminal():
                return Submitted(f"{driver.name}-{number}", jobs.get_address(), started=False)
        name = f"{driver.name}-{max((number for number, _ in earlier), default=0) + 1}"
        try:
            _submit(jobs, driver, name)
        except (RuntimeError, RayError) as error:
            # The head's agent comes some seconds after the head; or another call was faster.
            passing = "No available agent" in str(error) or "already exists" in str(error)
            if not passing or time.monotonic() > deadline:
                raise _no_jobs(jobs.get_address(), error) from error
            time.sleep(0.5)
        else:
            return Submitted(name, jobs.get_address(), started=True)


def await_driver(jobs: JobsApi, name: str) -> str | None:
    """Wait until the driver has joined the cluster; what it said if it ended instead.

    A driver that is slow to join is none that has ended. One that ended well, or with a status that
    tells of the run (3 and 4), has said so in the run.
    """
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        job = jobs.get_job_info(name)
        if job.status.is_terminal():
            told = job.status == JobStatus.SUCCEEDED or job.driver_exit_code in {3, 4}
            return None if told else _last_words(jobs, job, name)
        if job.driver_info is not None:
            return None
        time.sleep(0.2)
    return None


def _submit(jobs: JobsApi, driver: DriverJob, name: str) -> None:
    """A job that reserves nothing: Ray runs such a one on the head, beside the workers' places."""
    jobs.submit_job(
        entrypoint=driver.command,
        submission_id=name,
        runtime_env=shipped_code() if driver.ship_code else {},
        metadata={"run": driver.run, "render_farm_version": render_farm.__version__},
    )


def _jobs_of(jobs: JobsApi, driver: DriverJob) -> Sequence[tuple[int, JobDetails]]:
    found = []
    for job in jobs.list_jobs():
        name, _, number = (job.submission_id or "").rpartition("-")
        if name == driver.name and number.isdecimal():
            found.append((int(number), job))
    return found


def _last_words(jobs: JobsApi, job: JobDetails, name: str) -> str:
    lines = [line for line in jobs.get_job_logs(name).splitlines() if line.strip()]
    return "\n".join(lines[-8:]) or str(job.message)


def _dashboard(address: str) -> tuple[str, str]:
    """The session of the cluster of a head, and its dashboard's URL. Raises: `InputError`."""
    place = cluster_place(address)
    if place["client"]:
        raise _no_jobs(address, ValueError("an address of Ray Client"))
    try:
        head = GcsClient(address=place["target"])
        session, url = (
            head.internal_kv_get(key, namespace, timeout=REACH_S)
            for key, namespace in (
                (b"session_name", ray_constants.KV_NAMESPACE_SESSION),
                (ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD),
            )
        )
    except RayError as error:
        raise no_cluster(address, error) from error
    if not url or not session:
        raise _no_jobs(address, ValueError("it has no dashboard"))
    return session.decode(), f"http://{url.decode()}"


def _session_of(jobs: JobSubmissionClient) -> str | None:
    # What the public methods leave out of the answer.
    answer = jobs._do_request("GET", "/api/version").json()  # noqa: SLF001
    return str(answer.get("session_name"))


@contextmanager
def _nothing_overriding() -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in OVERRIDING if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _no_jobs(address: str, error: Exception) -> InputError:
    return InputError.of(
        "--detach",
        f"{address} ({first_line(error)})",
        "auto or host:port of a head that takes jobs, or http://host:8265 of its dashboard",
        "install 'render_farm[cluster]' here and on the head, and start it with its dashboard; one "
        "that listens on the head's loopback is reached from there, or by a tunnel (ray dashboard)",
    )
