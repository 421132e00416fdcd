"""A Ray head of a test's own, in folders, on ports and with a home of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

from infra.ceph.one_host import free_ports

START_S = 180.0


class Head:
    """``ray start --head`` on `host`, until the block ends; no other Ray is touched."""

    def __init__(self, host: str, environment: dict[str, str], *, dashboard: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rf-", dir="/tmp"))  # sockets: short paths
        gcs, client, agent, board = free_ports(4)
        self.address = f"{host}:{gcs}"
        self.client_address = f"ray://{host}:{client}"
        self.dashboard = f"http://127.0.0.1:{board}"
        self.environment = {
            **os.environ,
            **environment,
            "HOME": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(Path.cwd()),
        }
        self._command = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
            *(f"--node-ip-address={host}", f"--port={gcs}", f"--ray-client-server-port={client}"),
            *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-port={board}"),
            *("--dashboard-host=127.0.0.1", f"--include-dashboard={str(dashboard).lower()}"),
            *("--num-cpus=2", "--object-store-memory=80000000", "--disable-usage-stats"),
            f"--temp-dir={self.folder / 'ray'}",
        ]

    def __enter__(self) -> Head:
        # On a busy machine Ray gives up after a minute: then once more.
        for last in (False, False, True):
            try:
                self._start()
            except BaseException as error:
                self._stop()
                if last or not isinstance(error, AssertionError):
                    shutil.rmtree(self.folder, ignore_errors=True)
                    raise
            else:
                return self
        raise AssertionError("the last try returns or raises")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        with (self.folder / "head.log").open("wb") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self.environment
            )
        deadline = time.monotonic() + START_S
        while b"Ray runtime started" not in (self.folder / "head.log").read_bytes():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def wait_for_client_server(self) -> None:
        """Ray Client's server is up some seconds after the head says that it runs."""
        host, _, port = self.client_address.removeprefix("ray://").rpartition(":")
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.1)

    def _stop(self) -> None:
        """End the head and all that it started, which is known by the folder's name."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if str(self.folder) in " ".join(process.cmdline()):
                    process.kill()
        self.process.wait(30)

    def log(self) -> str:
        return (self.folder / "head.log").read_text(errors="replace")[-3000:]
