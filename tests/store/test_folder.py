"""What is the folder's own: links, temporary files, processes, the file system's refusals."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from render_farm.errors import AccessDenied, AlreadyExists, InputError, NotFound, Unavailable
from render_farm.store.folder import FolderStore
from render_farm.store.os_errors import translated

SPAWN = multiprocessing.get_context("spawn")


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def race(root: Path, rival: int, start_at: float, keys: int) -> None:
    store = FolderStore(root)
    time.sleep(max(0, start_at - time.time()))
    won = []
    for number in range(keys):
        try:
            store.create(f"race/{number}", b"%d" % rival)
            won.append(str(number))
        except AlreadyExists:
            pass
    store.put(f"won/{rival}", ",".join(won).encode())


def upload_from(root: Path, fifo: Path) -> None:
    FolderStore(root).upload("data/x", fifo)


def test_of_racing_processes_exactly_one_wins_each_key(tmp_path: Path) -> None:
    rivals, keys = 4, 200
    start_at = time.time() + 1.5
    processes = [
        SPAWN.Process(target=race, args=(tmp_path, rival, start_at, keys))
        for rival in range(rivals)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    store = FolderStore(tmp_path)
    winner_of = {}
    for rival in range(rivals):
        for number in filter(None, store.get(f"won/{rival}").decode().split(",")):
            assert number not in winner_of
            winner_of[number] = rival
    assert len(winner_of) == keys
    for number, rival in winner_of.items():
        assert store.get(f"race/{number}") == b"%d" % rival


def test_reading_writes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "run"
    store = FolderStore(root)
    assert list(store.list()) == []
    with pytest.raises(NotFound):
        store.get("run.json")
    store.delete("run.json")
    assert store.abort_uploads("") == 0
    store.now()
    assert not root.exists()


def test_writes_leave_nothing_but_the_objects(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("data/a", b"")
    store.create("data/b", b"")
    store.now()
    with pytest.raises(AlreadyExists):
        store.create("data/b", b"")
    assert everything_below(tmp_path) == ["data", "data/a", "data/b"]


def test_folders_vanish_with_their_last_object(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("data/1/a/x", b"")
    store.put("data/2", b"")
    store.delete("data/1/a/x")
    assert everything_below(tmp_path) == ["data", "data/2"]


def test_writers_and_deleters_of_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)

    def write_and_delete(rival: int) -> None:
        for number in range(60):
            write = store.put if number % 2 else store.create
            write(f"data/deep/{rival}-{number}", b"x")
            store.delete(f"data/deep/{rival}-{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_and_delete, range(4)))
    assert everything_below(tmp_path) == []


def test_what_a_killed_writer_left_is_hidden_and_can_be_removed(tmp_path: Path) -> None:
    fifo, root = tmp_path / "fifo", tmp_path / "run"
    os.mkfifo(fifo)
    writer = SPAWN.Process(target=upload_from, args=(root, fifo))
    writer.start()
    with fifo.open("wb") as stream:
        stream.write(b"half of it")
        stream.flush()
        while not list(root.glob("data/.*")):
            time.sleep(0.01)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    store = FolderStore(root)
    assert list(store.list()) == []
    assert list(FolderStore(tmp_path).list("run/")) == []
    assert store.abort_uploads("data/y") == 0
    assert store.abort_uploads("da") == 1
    assert everything_below(root) == []


def test_temporary_names_are_no_keys(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reserved"):
        FolderStore(tmp_path).put("data/.render-farm-tmp-x", b"")


def test_a_file_system_without_hard_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:  # as vfat and exfat do; none can be mounted by any user
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = FolderStore(tmp_path)
    with pytest.raises(InputError) as caught:
        store.create("driver/x", b"")
    assert caught.value.problems[0].field == "output.uri"
    assert "hard links" in caught.value.problems[0].allowed
    assert list(store.list()) == []
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no /sys to be refused by")
def test_a_folder_that_may_not_be_written_is_access_denied() -> None:
    # Even root may not make files there.
    store = FolderStore(Path("/sys/kernel"))
    for write in (store.put, store.create):
        with pytest.raises(AccessDenied, match="permi"):
            write("render-farm-test", b"")


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("data", b"")
    store.put("folder/x", b"")
    for write in (store.put, store.create):
        with pytest.raises(AccessDenied, match="a file lies where a folder belongs"):
            write("data/x", b"")
    with pytest.raises(AccessDenied, match="a folder lies where a file belongs"):
        store.put("folder", b"")
    assert not list(tmp_path.rglob(".*"))


def test_links_are_followed_and_dangling_ones_passed_over(tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    FolderStore(tmp_path / "elsewhere").put("x.parquet", b"123")
    dataset.mkdir()
    (dataset / "linked").symlink_to(tmp_path / "elsewhere")
    (dataset / "gone").symlink_to(tmp_path / "nowhere")
    (listed,) = FolderStore(dataset).list()
    assert (listed.key, listed.size_bytes) == ("linked/x.parquet", 3)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, Unavailable),
        (errno.EDQUOT, Unavailable),
        (errno.EIO, Unavailable),
        (errno.EROFS, AccessDenied),
        (errno.EACCES, AccessDenied),
        (errno.ENOENT, NotFound),
    ],
)
def test_each_refusal_of_the_file_system_has_its_error(number: int, kind: type) -> None:
    error = translated("/run", "data/x", OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert str(error).startswith("/run/data/x: ")
    assert os.strerror(number) in str(error)
