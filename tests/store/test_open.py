"""From URIs to stores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from render_farm.errors import InputError
from render_farm.store.folder import FolderStore
from render_farm.store.keys import join_uri
from render_farm.store.memory import MemoryStore
from render_farm.store.open import open_store
from render_farm.store.s3 import S3Store


@pytest.mark.parametrize(
    "uri",
    ["s3://bucket", "s3://bucket/", "s3://bucket/a/b", "s3://bucket/a b/", "S3://bu.ck-et/ä#?"],
)
def test_s3_uris_open_an_s3_store(uri: str) -> None:
    store = open_store(uri)
    assert isinstance(store, S3Store)
    assert store.uri == uri


def test_local_paths_are_absolute_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folders = {
        "out/run": tmp_path / "out/run",
        "./out/": tmp_path / "out",
        str(tmp_path / "abs"): tmp_path / "abs",
        "~/run": tmp_path / "home/run",
        f"file://{tmp_path}/a%20b": tmp_path / "a b",
        f"file://localhost{tmp_path}/x": tmp_path / "x",
        "a:b": tmp_path / "a:b",
    }
    for uri, folder in folders.items():
        store = open_store(uri)
        assert isinstance(store, FolderStore)
        assert store.uri == str(folder)
        store.put("key", b"")
        assert (folder / "key").exists()


def test_memory_stores_of_one_name_are_one_place() -> None:
    store = open_store("memory://one/run")
    assert isinstance(store, MemoryStore)
    store.put("retries/001/run.json", b"x")
    assert open_store("memory://one/run/retries/001").get("run.json") == b"x"
    assert [info.key for info in open_store("memory://one").list()] == ["run/retries/001/run.json"]
    assert list(open_store("memory://other").list()) == []


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "http://host/x",
        "https://bucket.s3.amazonaws.com/x",
        "gs://bucket/x",
        "s3a://bucket/x",
        "ftp://x",
        "s3://",
        "s3:///prefix",
        "s3:/bucket",
        "s3:bucket",
        "s3://b",
        "s3://a bucket/x",
        "s3://bucket/a/../b",
        "s3://bucket//a",
        "file://host/x",
        "file://x",
        "\0",
    ],
)
def test_other_uris_are_the_users_mistakes(uri: str) -> None:
    with pytest.raises(InputError) as caught:
        open_store(uri)
    (problem,) = caught.value.problems
    assert problem.field == "uri"
    assert problem.value == repr(uri)
    assert "s3://bucket" in problem.allowed
    assert problem.fix


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        open_store("s3://AKIAKEY:hunter2@bucket/x")
    assert "hunter2" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


def test_joining_goes_below() -> None:
    assert join_uri("s3://bucket/run/", "retries", "001/x") == "s3://bucket/run/retries/001/x"
    with pytest.raises(ValueError, match="not a key"):
        join_uri("s3://bucket/run", "../other")


def test_boto3_is_loaded_for_s3_only() -> None:
    code = (
        "import sys, render_farm.store.open as o; o.open_store('/x'); o.open_store('memory://x');"
        "assert not {'boto3', 'botocore', 'urllib3'} & set(sys.modules), 'boto3 is loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
