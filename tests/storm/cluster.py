"""The raylets of the storm and the workers below them, as processes with ids to kill them by."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

PATIENCE_S = 240.0


@dataclass(frozen=True)
class Worker:
    """The process of one Ray actor, and the raylet that it belongs to."""

    process: psutil.Process
    raylet: int

    def ports(self) -> set[int]:
        """The ports of its connections, by which the store knows it."""
        try:
            found = self.process.net_connections("tcp4")
        except psutil.Error:
            return set()
        return {connection.laddr.port for connection in found if connection.raddr}

    def maps_torch(self) -> bool:
        try:
            return "libtorch" in Path(f"/proc/{self.process.pid}/maps").read_text()
        except OSError:
            return False


class Raylets:
    """A Ray cluster of several raylets on this machine; a context manager.

    `environment` reaches every worker by way of its raylet. `address` is for drivers.
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        # Ray's sockets lie in this folder, and their paths must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="storm-", dir="/tmp"))
        self._environment = {**os.environ, **environment, "RAY_TMPDIR": str(self._folder)}
        self._log = log
        self.address = ""
        self.alive: dict[int, psutil.Process] = {}

    def __enter__(self) -> Raylets:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.storm.raylets"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
                text=True,
            )
        try:
            self.address = str(self._answer()["address"])
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        """The process ends what it started when its input ends; what stood still must go on."""
        family = [*self._children(), *self.alive.values()]
        for process in family:
            signal_process(process, signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate(timeout=PATIENCE_S)
        _, left = psutil.wait_procs(family, timeout=20)
        for process in left:
            signal_process(process, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def fill(self, raylets: int) -> None:
        """Start raylets until so many are alive."""
        while len(self.alive) < raylets:
            self._add()

    def _add(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then no answer comes, and the log says why
            self._process.stdin.write("add\n")
            self._process.stdin.flush()
        pid = int(str(self._answer()["raylet"]))
        self.alive[pid] = psutil.Process(pid)

    def kill(self, raylet: int) -> None:
        """SIGKILL a raylet."""
        signal_process(self.lay_out(raylet), signal.SIGKILL)

    def lay_out(self, raylet: int) -> psutil.Process:
        """Take a raylet off the list of those alive, whatever is to be done with it."""
        return self.alive.pop(raylet)

    def forget_dead(self) -> list[int]:
        """Take the raylets that have ended off the list; returns them."""
        dead = [pid for pid, process in self.alive.items() if not _lives(process)]
        for pid in dead:
            del self.alive[pid]
        return dead

    def workers(self) -> list[Worker]:
        """The actors' processes of all raylets that were started and are alive."""
        return [worker for pid in list(self.alive) for worker in self.workers_of(pid)]

    def workers_of(self, raylet: int) -> list[Worker]:
        try:
            children = self.alive[raylet].children(recursive=True)
        except (psutil.Error, KeyError):
            return []
        return [Worker(child, raylet) for child in children if _is_actor(child)]

    def _answer(self) -> dict[str, object]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
        line = self._process.stdout.readline() if ready else ""
        assert line, f"the cluster said nothing:\n{self._log.read_text(errors='replace')[-4000:]}"
        answer: dict[str, object] = json.loads(line)
        return answer


def _is_actor(process: psutil.Process) -> bool:
    try:
        return "ray::WorkerActor" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def signal_process(process: psutil.Process, number: signal.Signals) -> bool:
    """Send a signal; False if the process is gone."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True
