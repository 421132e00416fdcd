"""Every kind of store, empty."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from render_farm.store.base import Store
from render_farm.store.counting import CountingStore
from render_farm.store.folder import FolderStore
from render_farm.store.memory import MemoryStore
from render_farm.store.s3 import S3Store
from render_farm.store.s3_client import S3Options

# Small enough for parts, pages and patience to matter in a test.
SMALL = S3Options(
    patience_s=5,
    read_timeout_s=10,
    multipart_over_bytes=6 << 20,
    part_bytes=5 << 20,
    page_size=7,
)
KINDS = ["memory", "folder", "counting", "moto", pytest.param("ceph", marks=pytest.mark.ceph)]


@pytest.fixture(scope="session")
def buckets() -> dict[str, str]:
    """One bucket a server, by the server's fixture."""
    return {}


@pytest.fixture
def s3_uri(
    request: pytest.FixtureRequest, s3_env: Callable[..., None], buckets: dict[str, str]
) -> Callable[[str], str]:
    """Lead boto3 to a server by its fixture's name; returns an empty place there."""

    def uri_on(fixture: str) -> str:
        server = request.getfixturevalue(fixture)
        s3_env(server)
        if fixture not in buckets:
            buckets[fixture] = server.make_bucket(f"bucket-{secrets.token_hex(6)}")
        return f"s3://{buckets[fixture]}/{secrets.token_hex(6)}"

    return uri_on


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, s3_uri: Callable[[str], str]) -> Store:
    """A store of each kind in turn."""
    if request.param == "memory":
        return MemoryStore()
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    if request.param == "counting":
        return CountingStore(FolderStore(tmp_path / "store"))
    return small_s3_store(s3_uri("moto_server" if request.param == "moto" else "ceph"))


def small_s3_store(uri: str) -> S3Store:
    """A store below a URI, where a prefix with odd characters is as good as any."""
    bucket, prefix = uri.removeprefix("s3://").split("/", 1)
    return S3Store(bucket, f"{prefix}/a b/ä", options=SMALL)
