"""The command as a user runs it: processes of their own, killed by pid where a test says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PATIENCE_S = 240


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def farm(*arguments: object) -> Ended:
    """Run `render-farm` to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "render_farm", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    return Ended(done.returncode, done.stdout, done.stderr)


class Running:
    """`render-farm` in the background, in a process group of its own."""

    def __init__(self, log: Path, *arguments: object) -> None:
        self._log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "render_farm", *map(str, arguments)],
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            )

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait while the command runs; fails with its log if it ends first."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, f"ended too early:\n{self.log()}"
            assert time.monotonic() < deadline, f"waited in vain:\n{self.log()}"
            time.sleep(0.05)

    def workers(self) -> list[psutil.Process]:
        """The processes of this command's Ray actors."""
        return [p for p in self._family() if "ray::WorkerActor" in " ".join(_cmdline(p))]

    def kill(self) -> None:
        """SIGKILL the driver alone, and wait until what it started has followed it."""
        family = list(self._family())
        self.process.kill()
        self.process.wait(PATIENCE_S)
        _, left = psutil.wait_procs(family, timeout=30)
        for process in left:
            process.kill()

    def interrupt(self) -> int:
        """Ctrl-C: SIGINT to the whole process group, as a terminal sends it; the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(PATIENCE_S)

    def finish(self) -> int:
        return self.process.wait(PATIENCE_S)

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def _family(self) -> Iterator[psutil.Process]:
        yield from psutil.Process(self.process.pid).children(recursive=True)


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
