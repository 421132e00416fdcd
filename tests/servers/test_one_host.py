"""The one-host Ceph as a command, and through a crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from render_farm.store.s3 import S3Store
from tests.servers.ceph import DAEMONS, CephServer, missing_binaries

pytestmark = [
    pytest.mark.ceph,
    pytest.mark.skipif(
        bool(missing_binaries()) and os.environ.get("CI") != "true", reason="Ceph is not installed"
    ),
]
SCRIPT = str(Path(__file__).parents[2] / "infra/ceph/one_host.py")
# Puts and gets with the environment it was given, then says where its temporary folder is.
CLIENT = """
import boto3, json, os, sys
s3 = boto3.client("s3")
s3.put_object(Bucket="renders", Key="k", Body=b"1")
assert s3.get_object(Bucket="renders", Key="k")["Body"].read() == b"1"
print(json.dumps(os.environ["AWS_ENDPOINT_URL_S3"]), flush=True)
sys.exit(7)
"""


def daemons_in(folder: Path) -> list[str]:
    """Command lines of running daemons whose settings lie in a folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text().replace("\0", " "))
        except OSError:  # ended meanwhile
            continue
    return [line for line in lines if str(folder) in line and "ceph.conf" in line]


def test_the_command_runs_with_a_store_and_gives_its_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--", sys.executable, "-c", CLIENT],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 7, done.stderr
    assert json.loads(done.stdout).startswith("http://127.0.0.1:")
    assert list(tmp_path.iterdir()) == []
    assert daemons_in(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_and_the_store(tmp_path: Path, number: signal.Signals) -> None:
    command = f"import signal, time; signal.signal({number:d}, signal.SIG_DFL)"
    command += "; print(1, flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, SCRIPT, "--", sys.executable, "-c", command],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        assert len(daemons_in(tmp_path)) == len(DAEMONS)
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    assert list(tmp_path.iterdir()) == []
    assert daemons_in(tmp_path) == []


def test_its_daemons_die_with_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, SCRIPT, "--", "sh", "-c", "echo 1; exec sleep 5"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(daemons_in(tmp_path)) == len(DAEMONS)
        process.kill()
        deadline = time.monotonic() + 10
        while daemons_in(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.stdout.close()
    assert daemons_in(tmp_path) == []


def test_what_a_durable_store_acknowledged_survives_kill_9(
    s3_env: Callable[[CephServer], None],
) -> None:
    with CephServer(durable=True) as server:
        s3_env(server)
        store = S3Store(server.make_bucket("renders"))
        store.create("receipts/1", b"1")
        server.kill(*DAEMONS)
        server.restart(*DAEMONS)
        assert store.get("receipts/1") == b"1"
        store.create("receipts/2", b"2")
