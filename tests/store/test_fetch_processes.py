"""Processes of one node that fetch the same model, and one that is killed over it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from render_farm.store.open import open_store
from render_farm.store.s3_client import S3Options
from tests.servers.moto import MotoServer
from tests.servers.proxy import Proxy, Request, exchange

RANGE_BYTES = S3Options().range_bytes
FILES = {
    "model_index.json": b"{}",
    "unet/weights.safetensors": os.urandom(2 * RANGE_BYTES + 5),
    "vae/weights.safetensors": os.urandom(1000),
}
REQUESTS = {"model_index.json": 1, "unet/weights.safetensors": 3, "vae/weights.safetensors": 1}

FETCH = """
import sys
from pathlib import Path
from render_farm.store.fetch import fetch_folder
print(fetch_folder(sys.argv[1], Path(sys.argv[2])))
"""


class HoldingProxy(Proxy):
    """Holds the answers to requests for one object back until it is told to go on."""

    def __init__(self, server: MotoServer) -> None:
        super().__init__(server)
        self.holds = ""
        self.holding = threading.Event()
        self.go_on = threading.Event()

    def answer(self, request: Request) -> bytes | None:
        if self.holds and request.method == "GET" and self.holds in request.target:
            self.holding.set()
            self.go_on.wait(60)
        return exchange(self.server, request.to_bytes())

    def objects_read(self) -> Counter[str]:
        paths = [urlsplit(target) for method, target in self.seen if method == "GET"]
        read = (each.path for each in paths if "list-type" not in each.query)
        return Counter(path.partition("/sd15/")[2] for path in read)


@pytest.fixture
def proxy(
    moto_server: MotoServer, s3_env: Callable[[HoldingProxy], None]
) -> Iterator[HoldingProxy]:
    with HoldingProxy(moto_server) as proxy:
        s3_env(proxy)
        yield proxy
        proxy.go_on.set()


@pytest.fixture
def uri(proxy: HoldingProxy) -> str:
    uri = f"s3://{proxy.make_bucket(f'models-{secrets.token_hex(6)}')}/sd15"
    for key, data in FILES.items():
        open_store(uri).put(key, data)
    return uri


def start_fetching(uri: str, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, uri, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> Path:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return Path(output.strip())


def files_below(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_two_processes_that_come_together_download_each_byte_once(
    proxy: HoldingProxy, uri: str, tmp_path: Path
) -> None:
    proxy.holds = "unet/weights"
    both = [start_fetching(uri, tmp_path) for _ in range(2)]
    assert proxy.holding.wait(60)
    proxy.go_on.set()
    first, second = (finish(process) for process in both)
    assert first == second
    assert files_below(first) == FILES
    assert proxy.objects_read() == REQUESTS


def test_what_a_killed_process_left_is_not_taken_for_whole_and_the_next_one_goes_on(
    proxy: HoldingProxy, uri: str, tmp_path: Path
) -> None:
    proxy.holds = "unet/weights"
    killed = start_fetching(uri, tmp_path)
    assert proxy.holding.wait(60)
    waiting = start_fetching(uri, tmp_path)
    killed.kill()
    killed.communicate()
    assert not [path for path in tmp_path.glob("sd15-*") if path.is_dir() and not path.suffix]
    proxy.go_on.set()
    assert files_below(finish(waiting)) == FILES
    assert not list(tmp_path.glob("*.partial"))
