"""Digests that the processes of a node take once."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from pathlib import Path

import pytest

from render_farm.store.digests import UNSETTLED_NS, KnownDigests

FALSE = "f" * 64
"""What is noted falsely is answered only by those who do not read the file."""


def later() -> int:
    return time.time_ns() + 2 * UNSETTLED_NS


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"first")
    return path


def noted(folder: Path) -> list[Path]:
    return list(folder.glob("*.json"))


def test_what_was_noted_of_a_file_is_known_to_all_and_by_any_of_its_names(
    tmp_path: Path, file: Path
) -> None:
    KnownDigests(tmp_path / "notes").note(file, FALSE)
    (tmp_path / "link").symlink_to(file)
    for path in (file, tmp_path / "link"):
        assert KnownDigests(tmp_path / "notes").of(path) == FALSE


def test_a_file_is_noted_when_it_was_read(tmp_path: Path, file: Path) -> None:
    known = KnownDigests(tmp_path / "notes", later)
    assert known.of(file) == sha256(b"first").hexdigest()
    (note,) = noted(tmp_path / "notes")
    note.write_text(note.read_text().replace(known.of(file), FALSE))
    assert known.of(file) == FALSE


def test_a_file_that_was_changed_is_read_again_even_where_size_and_time_are_the_old_ones(
    tmp_path: Path, file: Path
) -> None:
    known = KnownDigests(tmp_path / "notes", later)
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    known.note(file, FALSE)
    time.sleep(0.05)  # some ticks of the file system's clock
    file.write_bytes(b"other")
    os.utime(file, ns=times)
    assert known.of(file) == sha256(b"other").hexdigest()


def test_a_file_that_changed_a_moment_ago_is_not_noted(tmp_path: Path, file: Path) -> None:
    known = KnownDigests(tmp_path / "notes", lambda: file.stat().st_ctime_ns + UNSETTLED_NS // 2)
    assert known.of(file) == sha256(b"first").hexdigest()
    assert noted(tmp_path / "notes") == []


def test_notes_that_somebody_else_could_have_written_are_not_believed(
    tmp_path: Path, file: Path
) -> None:
    known = KnownDigests(tmp_path / "notes")
    known.note(file, FALSE)
    (tmp_path / "notes").chmod(0o777)
    assert known.of(file) == sha256(b"first").hexdigest()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 1, "state": 2}'])
def test_a_note_that_says_nothing_is_none(tmp_path: Path, file: Path, text: str) -> None:
    known = KnownDigests(tmp_path / "notes")
    known.note(file, FALSE)
    noted(tmp_path / "notes")[0].write_text(text)
    assert known.of(file) == sha256(b"first").hexdigest()


@pytest.mark.parametrize("parent", ["weights", "none"])
def test_where_nothing_can_be_noted_the_file_is_read_and_nothing_is_made(
    tmp_path: Path, file: Path, parent: str
) -> None:
    known = KnownDigests(tmp_path / parent / "notes", later)
    known.note(file, FALSE)
    assert known.of(file) == sha256(b"first").hexdigest()
    assert list(tmp_path.iterdir()) == [file]
