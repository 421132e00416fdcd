"""Whole prefixes as local folders."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from render_farm.errors import InputError, NotFound, Unavailable
from render_farm.store.base import ObjectInfo
from render_farm.store.fetch import fetch_folder, fetch_store
from render_farm.store.memory import MemoryStore
from render_farm.store.open import open_store
from render_farm.store.s3_client import S3Options

FILES = {
    "model_index.json": b"{}",
    "unet/config.json": b"x" * 100,
    "unet/weights": os.urandom(10**6),
}


@pytest.fixture
def model() -> str:
    """The URI of a model in memory."""
    uri = f"memory://{secrets.token_hex(6)}/models/sd"
    for key, data in FILES.items():
        open_store(uri).put(key, data)
    return uri


def files_below(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_every_object_arrives(model: str, tmp_path: Path) -> None:
    folder = fetch_folder(model, tmp_path / "cache")
    assert files_below(folder) == FILES
    assert folder.parent == tmp_path / "cache"
    assert folder.name.startswith("sd-")


@pytest.mark.parametrize("server", ["moto_server", pytest.param("ceph", marks=pytest.mark.ceph)])
def test_a_model_is_fetched_from_s3(
    s3_uri: Callable[[str], str], tmp_path: Path, server: str
) -> None:
    uri = s3_uri(server)
    large = os.urandom(2 * S3Options().range_bytes + 1)
    files = {**FILES, "transformer/weights": large}
    for key, data in files.items():
        open_store(uri).put(key, data)
    assert files_below(fetch_folder(uri, tmp_path)) == files


def test_it_is_fetched_once_and_again_when_it_changed(model: str, tmp_path: Path) -> None:
    first = fetch_folder(model, tmp_path)
    inode = (first / "unet/weights").stat().st_ino
    assert fetch_folder(model, tmp_path) == first
    assert (first / "unet/weights").stat().st_ino == inode
    open_store(model).put("model_index.json", b"[]")
    second = fetch_folder(model, tmp_path)
    assert second != first
    assert files_below(second)["model_index.json"] == b"[]"
    assert files_below(first) == FILES


def test_a_folder_that_lost_something_is_fetched_again(model: str, tmp_path: Path) -> None:
    folder = fetch_folder(model, tmp_path)
    (folder / "unet/weights").write_bytes(b"cut")
    assert files_below(fetch_folder(model, tmp_path)) == FILES
    (folder / "model_index.json").unlink()
    assert files_below(fetch_folder(model, tmp_path)) == FILES


def test_a_folder_of_which_a_file_was_exchanged_or_damaged_is_fetched_again(
    model: str, tmp_path: Path
) -> None:
    weights = fetch_folder(model, tmp_path) / "unet/weights"
    before = weights.stat()
    time.sleep(0.05)  # some ticks of the file system's clock
    with weights.open("r+b") as file:
        file.write(bytes(100))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files_below(fetch_folder(model, tmp_path)) == FILES


def test_a_folder_that_was_touched_and_not_changed_is_kept(model: str, tmp_path: Path) -> None:
    weights = fetch_folder(model, tmp_path) / "unet/weights"
    weights.touch()
    inode = weights.stat().st_ino
    assert files_below(fetch_folder(model, tmp_path)) == FILES
    assert weights.stat().st_ino == inode


@pytest.mark.parametrize("text", ["", "[1]", "{}"])
def test_a_folder_of_which_nobody_knows_how_it_came_is_fetched_again(
    model: str, tmp_path: Path, text: str
) -> None:
    folder = fetch_folder(model, tmp_path)
    folder.with_name(f"{folder.name}.json").write_text(text)
    (folder / "unet/weights").write_bytes(bytes(len(FILES["unet/weights"])))
    assert files_below(fetch_folder(model, tmp_path)) == FILES


def test_those_who_come_together_download_once(tmp_path: Path) -> None:
    store = Counting()
    store.put("weights", b"12345")
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: fetch_store(store, tmp_path), range(4)))
    assert len(folders) == 1
    assert store.opened == 1


def test_what_a_killed_download_left_is_cleared_away(model: str, tmp_path: Path) -> None:
    folder = fetch_folder(model, tmp_path)
    folder.rename(folder.with_name(f"{folder.name}.partial"))
    assert files_below(fetch_folder(model, tmp_path)) == FILES
    assert not list(tmp_path.glob("*.partial"))


def test_of_a_folder_one_object_alone_can_be_fetched(model: str, tmp_path: Path) -> None:
    store = open_store(model)
    store.put("unet/weights.json", b"{}")
    folder = fetch_store(store, tmp_path, only="unet/weights")
    assert files_below(folder) == {"unet/weights": FILES["unet/weights"]}
    assert fetch_store(store, tmp_path) != folder
    with pytest.raises(NotFound, match="unet/weight:"):
        fetch_store(store, tmp_path, only="unet/weight")


def test_nothing_to_fetch_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no objects"):
        fetch_folder("memory://empty/models", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


class Counting(MemoryStore):
    """Counts downloads, and is slow about them."""

    opened = 0

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        self.opened += 1
        time.sleep(0.2)
        with super().open(key) as stream:
            yield stream


class Hostile(MemoryStore):
    """Lists keys that lead out of the folder."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        yield ObjectInfo("../../evil", 1, self.now())


class Cutting(MemoryStore):
    """Streams end too early."""

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        with super().open(key) as stream:
            stream.seek(1)
            yield stream


def test_keys_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="evil"):
        fetch_store(Hostile(), tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_an_object_of_another_size_is_no_model(tmp_path: Path) -> None:
    store = Cutting()
    store.put("weights", b"12345")
    with pytest.raises(Unavailable, match="4 bytes came, 5 were listed"):
        fetch_store(store, tmp_path)
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()} - {"digests"}
    assert all(name.endswith(".partial") for name in folders)
