#!/usr/bin/env python3
"""A Ceph object store (mon, osd, radosgw) on one host, for the length of one command.

    python infra/ceph/one_host.py [--durable] [--bucket NAME] -- COMMAND ARGUMENTS…

starts a fresh cluster in a temporary folder, on loopback and free ports only, runs the command
with the ``AWS_*`` environment that leads to it, stops what it started and returns the command's
exit code. Needs Debian's ``radosgw ceph-mon ceph-osd ceph-common``; any user, no systemd, no mgr.
The tests use `CephServer` from here.

Authentication between the daemons is off, so the ports must never leave the loopback. S3 requests
are authenticated as anywhere.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from email.utils import formatdate
from pathlib import Path
from types import FrameType, TracebackType

BINARIES = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
DAEMONS = ("mon", "osd", "rgw")  # in the order in which they start
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0

SETTINGS = """\
[global]
fsid = {fsid}
mon host = {mon_addresses}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms cluster mode = crc
ms service mode = crc
ms client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
ms mon client mode = crc
admin socket =
run dir = {folder}
log file = {folder}/$name.log
crash dir = {folder}
# One copy of everything, on the only host.
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
# A restart takes 2 to 4 s with these instead of 10 to 15 s.
paxos propose interval = 0.05
objecter tick interval = 0.3
objecter timeout = 0.5
mon data = {folder}/mon
osd data = {folder}/osd
osd objectstore = {objectstore}
memstore device bytes = 17179869184
bluestore block size = 17179869184
bluestore fsck quick fix on mount = false
rgw frontends = beast endpoint=127.0.0.1:{rgw_port}
rgw data = {folder}/rgw
rgw enable usage log = false
"""


class CephError(RuntimeError):
    """Ceph did not start or refused a command; holds what it said."""


def missing_binaries() -> list[str]:
    """The commands of Ceph that are not installed here."""
    return [name for name in BINARIES if shutil.which(name) is None]


class CephServer:
    """A one-host Ceph with one S3 user; a context manager that leaves nothing behind.

    With `durable` the data lie on bluestore in a sparse file, and what was acknowledged survives
    ``kill -9`` of any daemon; without it they lie in memory and starting takes a third.
    """

    def __init__(
        self,
        *,
        access_key: str = "render-farm",
        secret_key: str = "render-farm-secret",  # noqa: S107 - a server on the loopback
        durable: bool = False,
    ) -> None:
        self.access_key = access_key
        self.secret_key = secret_key
        self.durable = durable
        self.endpoint_url = ""
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._folder = Path()
        self._osd_uuid = ""

    def __enter__(self) -> CephServer:
        # A free port can be taken by another process before Ceph binds it: then once more.
        for last in (False, False, True):
            try:
                self._start_cluster()
            except CephError:
                self.stop()
                if last:
                    raise
            except BaseException:
                self.stop()
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
        self.stop()

    def environment(self) -> dict[str, str]:
        """The ``AWS_*`` variables by which boto3 and pyarrow find this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            # Ceph 16 answers checksum trailers with 411.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name: str) -> str:
        """Create a bucket of the user; returns its name."""
        date = formatdate(usegmt=True)
        # Signature version 2: a dozen lines less than version 4, and Ceph takes both.
        signed = f"PUT\n\n\n{date}\n/{name}".encode()
        digest = hmac.digest(self.secret_key.encode(), signed, hashlib.sha1)
        signature = base64.b64encode(digest).decode()
        request = urllib.request.Request(  # noqa: S310 - our own http URL
            f"{self.endpoint_url}/{name}",
            method="PUT",
            headers={"Date": date, "Authorization": f"AWS {self.access_key}:{signature}"},
        )
        with direct_opener().open(request, timeout=READY_TIMEOUT_S):
            return name

    def admin(self, *arguments: str) -> str:
        """Run ``radosgw-admin`` (quotas, suspending users, …); returns what it printed."""
        return self._command("radosgw-admin", *arguments)

    def kill(self, *daemons: str) -> None:
        """``kill -9`` some of `DAEMONS`. Without `durable`, killing the osd loses its data."""
        for name in daemons:
            self.daemons[name].kill()
            self.daemons[name].wait()

    def restart(self, *daemons: str) -> None:
        """Start daemons again that were killed; returns when the server answers."""
        for name in DAEMONS:
            if name in daemons:
                self._start_daemon(name)
        self._wait_for_gateway()

    def stop(self) -> None:
        """Stop the daemons and remove the folder. May be called again."""
        for name in reversed(DAEMONS):
            process = self.daemons.pop(name, None)
            if process is None or process.poll() is not None:
                continue
            process.send_signal(signal.SIGCONT)
            # Nobody needs the data after this: no orderly shutdown, which takes seconds.
            process.kill()
            process.wait(STOP_TIMEOUT_S)
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = Path()

    def _start_cluster(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="one-host-ceph-"))
        self._write_settings()
        self._command("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(self._folder / "monmap"))
        self._start_daemon("mon")
        self._osd_uuid = str(uuid.uuid4())
        self._command("ceph", "osd", "new", self._osd_uuid)
        self._command("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", self._osd_uuid)
        self._start_daemon("osd")
        user = ("--uid", "render-farm", "--display-name", "render farm")
        keys = ("--access-key", self.access_key, "--secret", self.secret_key)
        self.admin("user", "create", *user, *keys)
        self._start_daemon("rgw")
        self._wait_for_gateway()

    def _write_settings(self) -> None:
        fsid = str(uuid.uuid4())
        mon_v2, mon_v1, rgw = free_ports(3)
        addresses = f"[v2:127.0.0.1:{mon_v2}/0,v1:127.0.0.1:{mon_v1}/0]"
        self.endpoint_url = f"http://127.0.0.1:{rgw}"
        for name in ("mon", "osd", "rgw"):
            (self._folder / name).mkdir()
        settings = SETTINGS.format(
            fsid=fsid,
            mon_addresses=addresses,
            folder=self._folder,
            objectstore="bluestore" if self.durable else "memstore",
            rgw_port=rgw,
        )
        (self._folder / "ceph.conf").write_text(settings)
        monmap = str(self._folder / "monmap")
        self._command("monmaptool", "--create", "--fsid", fsid, "--addv", "a", addresses, monmap)

    def _start_daemon(self, name: str) -> None:
        command = {
            "mon": ["ceph-mon", "-f", "-i", "a"],
            "osd": ["ceph-osd", "-f", "-i", "0"],
            "rgw": ["radosgw", "-f", "--name", "client.rgw"],
        }[name]
        with (self._folder / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(  # noqa: S603 - our own command line
                [*dying_with_us(), *command, "-c", str(self._folder / "ceph.conf")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C in the terminal is for the command; we stop the daemons after it.
                start_new_session=True,
            )

    def _command(self, program: str, *arguments: str) -> str:
        command = [program, *arguments]
        if program != "monmaptool":
            command += ["-c", str(self._folder / "ceph.conf")]
        try:
            done = subprocess.run(  # noqa: S603 - our own command line
                command, check=False, capture_output=True, text=True, timeout=READY_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise CephError(f"{' '.join(command)} hangs\n{self._logs()}") from error
        if done.returncode != 0:
            raise CephError(f"{' '.join(command)}: {done.stderr}\n{self._logs()}")
        return done.stdout

    def _wait_for_gateway(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            for name, process in self.daemons.items():
                if process.poll() is not None:
                    raise CephError(f"{name} ended with {process.returncode}\n{self._logs()}")
            try:
                with direct_opener().open(self.endpoint_url, timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise CephError(
            f"the gateway does not answer after {READY_TIMEOUT_S:.0f} s\n{self._logs()}"
        )

    def _logs(self) -> str:
        outputs = sorted(self._folder.glob("*.out"))
        return "\n".join(f"--- {path.name}\n{_tail(path)}" for path in outputs)


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-1500:]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def direct_opener() -> urllib.request.OpenerDirector:
    """An opener that ignores the environment's HTTP proxies: the server is on the loopback."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def dying_with_us() -> list[str]:
    """A prefix by which a daemon dies with the thread that started it, even on ``kill -9``."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def run_command(command: list[str], *, buckets: list[str], durable: bool) -> int:
    """Run a command with a Ceph beside it; returns its exit code, 128 + n when a signal ended it.

    SIGINT and SIGTERM are handed to the command; Ceph stops when the command has ended.
    """
    child: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        if child is None:
            raise KeyboardInterrupt
        child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    with CephServer(durable=durable) as server:
        for bucket in buckets:
            server.make_bucket(bucket)
        # A session of its own, or Ctrl-C would reach the command twice.
        child = subprocess.Popen(  # noqa: S603 - what the user asks to run
            command, env={**os.environ, **server.environment()}, start_new_session=True
        )
        code = child.wait()
    return code if code >= 0 else 128 - code


def main() -> int:
    """Read the command line, run, and turn what is wrong into an exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bucket", action="append", help="a bucket to create (default: renders)")
    parser.add_argument("--durable", action="store_true", help="on disk: survives kill -9")
    parser.add_argument("command", nargs="+", help="what to run, after --")
    arguments = parser.parse_args()
    if missing := missing_binaries():
        packages = "radosgw ceph-mon ceph-osd ceph-common"
        sys.stderr.write(f"not installed: {', '.join(missing)} (Debian: {packages})\n")
        return 2
    try:
        buckets = arguments.bucket or ["renders"]
        return run_command(arguments.command, buckets=buckets, durable=arguments.durable)
    except KeyboardInterrupt:
        return 130
    except (CephError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
