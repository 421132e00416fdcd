"""Drivers that outlive the command: a process on this machine, or a job inside the cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from render_farm.cli.console import Report
from render_farm.errors import InputError, Problem

if TYPE_CHECKING:
    from render_farm.farm.ray_job import DriverJob
    from render_farm.farm.session import FreeKeys, Where
    from render_farm.ledger.record import RunRecord
    from render_farm.store.base import Store


def detach(
    store: Store,
    record: RunRecord,
    where: Where,
    free: FreeKeys,
    report: Report,
    *,
    strict_versions: bool,
) -> None:
    """Start `resume` elsewhere and say how to follow it: in the cluster that `where` names, if any.

    A cluster of our own ends with its driver, which is then a process of this machine.
    """
    arguments = [*_overrides(free), *(["--strict-versions"] if strict_versions else [])]
    if where.local or where.address in {None, "local"}:
        place = ["--local"] if where.local else ["--address", "local"]
        _detach_here(store, record, [*place, *arguments], report)
    else:
        from render_farm.farm.ray_job import DriverJob

        arguments += ["--allow-open-cluster"] if where.allow_open else []
        driver = DriverJob(store.uri, record.token, tuple(arguments), where.ship_code)
        _detach_there(where, driver, report)


def _overrides(free: FreeKeys) -> list[str]:
    """The free keys as they are here, whatever the run was submitted with."""
    sections = {"workers": free.workers, "limits": free.limits}
    return [
        word
        for section, values in sections.items()
        for key, value in values.model_dump().items()
        if (section, key) != ("workers", "batch_size")
        for word in ("--set", f"{section}.{key}={json.dumps(value)}")
    ]


def _detach_here(store: Store, record: RunRecord, arguments: list[str], report: Report) -> None:
    """A process with its log in a file."""
    log = Path(tempfile.gettempdir()) / f"render-farm-{record.token[:12]}.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "render_farm", "resume", store.uri, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            env=os.environ,
        )
    report.data = {"run": store.uri, "pid": process.pid, "log": str(log)}
    report.table([("run", store.uri), ("driver", f"process {process.pid}"), ("log", str(log))])
    report.say(f"follow it with: render-farm status {store.uri}")


def _detach_there(where: Where, driver: DriverJob, report: Report) -> None:
    """A Ray job: the same command again starts another one if this one has ended."""
    from render_farm.farm.ray_job import await_driver, open_jobs, submit_driver

    jobs = open_jobs(str(where.address), allow_open=where.allow_open)
    found = submit_driver(jobs, driver)
    ended = await_driver(jobs, found.job) if found.started else None
    if ended is not None:
        # What it said is told whole, and not as a value of the user's.
        raise InputError(
            (
                Problem(
                    "--detach",
                    f"{found.job} ended before its driver had joined the cluster:\n{ended}",
                    "a head whose `python` has render_farm",
                    "see to what it says; --ship-code sends this package where it is not installed",
                ),
            )
        )
    follow = f"ray job logs -f {found.job} --address {found.dashboard}"
    stop = f"ray job stop {found.job} --address {found.dashboard}"
    report.data = {
        "run": driver.run,
        "job": found.job,
        "address": found.dashboard,
        "started": found.started,
        "follow": follow,
        "stop": stop,
    }
    was = "submitted" if found.started else "running already, so no other one was started"
    report.table(
        [
            ("run", driver.run),
            ("driver", f"job {found.job}, {was}"),
            ("follow", follow),
            ("stop", stop),
            ("status", f"render-farm status {driver.run}"),
        ]
    )
