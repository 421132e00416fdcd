"""OpenStack Swift with its S3 face, on the loopback: a real store whose create is not atomic.

``pip install swift`` into an environment of its own, whose folder ``SWIFT_VENV`` names; Swift
needs no other package, no root and no memcached. What needs it is skipped where it is not there.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from infra.ceph.one_host import direct_opener, dying_with_us, free_ports

VENV = Path(os.environ.get("SWIFT_VENV", "/opt/swift"))
READY_TIMEOUT_S = 60.0
KINDS = ("account", "container", "object")

RINGS = """
import sys
from swift.common.ring import RingBuilder
folder = sys.argv[1]
for kind, port in zip(("account", "container", "object"), sys.argv[2:]):
    ring = RingBuilder(2, 1, 0)
    device = {"id": 0, "region": 1, "zone": 1, "weight": 1, "device": "disk"}
    address = {"ip": "127.0.0.1", "port": int(port)}
    back = {"replication_ip": "127.0.0.1", "replication_port": int(port)}
    ring.add_dev(device | address | back)
    ring.rebalance()
    ring.get_ring().save(f"{folder}/{kind}.ring.gz")
"""

COMMON = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
log_level = WARNING
"""

STORAGE = """\
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
fallocate_reserve = 0
"""

PROXY = """\
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache s3api tempauth proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
"""


def is_installed() -> bool:
    """Whether there is a Swift here."""
    return (VENV / "bin" / "swift-proxy-server").exists()


class SwiftServer:
    """Swift with one user and one disk; a context manager that leaves nothing behind."""

    access_key = "test:tester"
    secret_key = "swift-secret"

    def __enter__(self) -> SwiftServer:
        self._folder = Path(tempfile.mkdtemp(prefix="swift-"))
        self._servers: list[subprocess.Popen[bytes]] = []
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.kill()
            server.wait()
        shutil.rmtree(self._folder)

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name: str) -> str:
        client: Any = boto3.session.Session(
            self.access_key, self.secret_key, region_name="us-east-1"
        ).client("s3", endpoint_url=self.endpoint_url, config=Config(retries={"max_attempts": 8}))
        client.create_bucket(Bucket=name)
        return name

    def _start(self) -> None:
        *ports, proxy = free_ports(len(KINDS) + 1)
        self.endpoint_url = f"http://127.0.0.1:{proxy}"
        (self._folder / "devices" / "disk").mkdir(parents=True)
        hashing = "[swift-hash]\nswift_hash_path_suffix = tests\nswift_hash_path_prefix = tests\n"
        (self._folder / "swift.conf").write_text(hashing)
        python = str(VENV / "bin" / "python")
        rings = [python, "-c", RINGS, str(self._folder), *map(str, ports)]
        subprocess.run(rings, check=True, capture_output=True, timeout=READY_TIMEOUT_S)
        for kind, port in zip(KINDS, ports, strict=True):
            self._start_server(kind, port, STORAGE.format(kind=kind))
        self._start_server("proxy", proxy, PROXY.format(secret=self.secret_key))
        self._wait_until_healthy()

    def _start_server(self, kind: str, port: int, sections: str) -> None:
        common = COMMON.format(port=port, user=getpass.getuser(), folder=self._folder)
        settings = self._folder / f"{kind}-server.conf"
        settings.write_text(common + sections)
        program = str(VENV / "bin" / f"swift-{kind}-server")
        with (self._folder / f"{kind}.out").open("wb") as output:
            self._servers.append(
                subprocess.Popen(
                    [*dying_with_us(), program, str(settings)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and all(s.poll() is None for s in self._servers):
            try:
                with direct_opener().open(f"{self.endpoint_url}/healthcheck", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        said = "\n".join(path.read_text()[-1500:] for path in self._folder.glob("*.out"))
        raise RuntimeError(f"Swift did not start\n{said}")
