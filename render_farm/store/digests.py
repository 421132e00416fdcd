"""SHA-256 of files that stay as they are: each is read once on a node, not once a process."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from filelock import FileLock

logger = logging.getLogger(__name__)

UNSETTLED_NS = 1_000_000_000
"""A file that changed this lately may change again within one tick of its file system's clock."""
WRITABLE_BY_OTHERS = 0o022

State: TypeAlias = list[int]


class KnownDigests:
    """Digests of files, noted in a folder that the processes of one user on one node share.

    A note holds for as long as size, inode and times of the file are those it was taken at, the
    time of the last change of its inode among them, which nobody can set. Damage that leaves these
    alone, a disk's own, is not seen. Where the folder cannot be made or written, or somebody else
    could have written it, nothing is noted and every file is read; its parent is never made.
    """

    def __init__(self, folder: Path, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._folder = folder
        self._now_ns = now_ns

    def of(self, path: Path) -> str:
        """The file's SHA-256, hexadecimal. Those who ask at once wait for one to read it.

        Raises: `OSError` if it cannot be read.
        """
        if not self._is_ours():
            return _read_digest(path)
        with FileLock(f"{self._note_path(path)}.lock"):
            return self._noted(path) or self._read_and_note(path)

    def note(self, path: Path, sha256: str) -> None:
        """Believe that this is the digest of the file as it is now: it was taken as it came."""
        if self._is_ours():
            self._write(path, _state(path), sha256)

    def _read_and_note(self, path: Path) -> str:
        before = _state(path)
        sha256 = _read_digest(path)
        settled = self._now_ns() - path.stat().st_ctime_ns > UNSETTLED_NS
        if settled and _state(path) == before:
            self._write(path, before, sha256)
        return sha256

    def _noted(self, path: Path) -> str | None:
        try:
            note = json.loads(self._note_path(path).read_text())
            state, sha256 = note["state"], note["sha256"]
        except (OSError, ValueError, KeyError, TypeError):  # none, or none of ours
            return None
        return sha256 if isinstance(sha256, str) and state == _state(path) else None

    def _write(self, path: Path, state: State, sha256: str) -> None:
        text = json.dumps({"path": os.path.realpath(path), "state": state, "sha256": sha256})
        try:
            replace_text(self._note_path(path), text)
        except OSError as error:  # a full disk: it is read again next time
            logger.debug("a digest cannot be kept", extra={"error": repr(error)})

    def _note_path(self, path: Path) -> Path:
        name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
        return self._folder / f"{name}.json"

    def _is_ours(self) -> bool:
        """Whether only this user writes the folder; makes it."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            status = self._folder.stat()
        except OSError as error:
            logger.debug("digests cannot be kept", extra={"error": repr(error)})
            return False
        ours = status.st_uid == os.geteuid() and not status.st_mode & WRITABLE_BY_OTHERS
        return ours and os.access(self._folder, os.W_OK)


def replace_text(path: Path, text: str) -> None:
    """Write a small file that is never seen half written."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _state(path: Path) -> State:
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _read_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
