"""Objects as files below a local or network-mounted folder."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random

from render_farm.errors import AccessDenied, AlreadyExists, InputError, NotFound, Unknown
from render_farm.store.base import ObjectInfo
from render_farm.store.folder_listing import TEMPORARY, temporary_files, visible_files
from render_farm.store.keys import checked_key, checked_prefix
from render_farm.store.os_errors import translated

# A rival's `delete` may remove a folder between our making it and using it.
FOLDER_TRIES = 20
NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
NEVER_LINKED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG}


class FolderStore:
    """A `Store` in a folder. What has returned is on the disk: files and folders are fsynced.

    A write goes to a hidden temporary file beside its target, which replaces the target (`put`)
    or is hard-linked to it (`create`); on file systems without hard links `create` is refused.
    Nothing is written before the first write, not even the folder itself.

    `abort_uploads` removes the temporary files that killed writers left.
    """

    def __init__(self, root: Path, *, uri: str | None = None) -> None:
        self._root = root.absolute()
        self._uri = str(self._root) if uri is None else uri

    @property
    def uri(self) -> str:
        return self._uri

    def get(self, key: str) -> bytes:
        with self._reading(key):
            return self._path(key).read_bytes()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with self._reading(key), self._path(key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        with self._reading(key):
            file = self._path(key).open("rb")
        with file:
            yield file

    def head(self, key: str) -> ObjectInfo:
        with self._reading(key):
            path = self._path(key)
            status = path.stat()
            if not path.is_file():
                raise FileNotFoundError(errno.ENOENT, "not a file")
        return ObjectInfo(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def put(self, key: str, data: bytes) -> None:
        self._replace(key, lambda file: _write_all(file, data))

    def upload(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self._replace(key, lambda file: shutil.copyfileobj(source, file, 1 << 20))

    def create(self, key: str, data: bytes) -> None:
        target = self._path(key)
        with self._translating(key):
            if target.exists():  # saves the temporary file; `os.link` is what decides
                raise AlreadyExists(self._uri, key, "there is an object already")
            temporary = self._in_folder(
                target, lambda path: _write_file(path, lambda file: _write_all(file, data))
            )
        try:
            self._link(key, temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink()
        try:
            _fsync_folder(target.parent)
        except OSError as error:
            raise Unknown(self._uri, key, f"written, perhaps not to the disk: {error}") from error

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        with self._translating(""):
            for key, entry in visible_files(self._root, checked_prefix(prefix)):
                try:
                    status = entry.stat()
                except FileNotFoundError:  # deleted meanwhile, or a link that leads nowhere
                    continue
                modified_at = datetime.fromtimestamp(status.st_mtime, UTC)
                yield ObjectInfo(key, status.st_size, modified_at)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._translating(key):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return
            except (IsADirectoryError, PermissionError):
                if path.is_dir():  # a folder is no object
                    return
                raise
        _remove_empty_folders(path.parent, self._root)

    def abort_uploads(self, prefix: str, wanted: Callable[[str], bool] = lambda key: True) -> int:
        count = 0
        with self._translating(""):
            for target, path in temporary_files(self._root, checked_prefix(prefix)):
                if not wanted(target):
                    continue
                with suppress(FileNotFoundError):  # its writer has ended meanwhile
                    path.unlink()
                    count += 1
                _remove_empty_folders(path.parent, self._root)
        return count

    def now(self) -> datetime:
        """The file system's clock, read from a file made for it.

        Where that cannot be done (no such folder yet, read-only), this machine's clock.
        """
        path = self._root / f"{TEMPORARY}{secrets.token_hex(8)}-clock"
        try:
            path.touch()
        except OSError:
            return datetime.now(UTC)
        try:
            return datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except OSError as error:
            raise translated(self._uri, "", error) from error
        finally:
            with suppress(OSError):
                path.unlink()

    def _path(self, key: str) -> Path:
        path = self._root / checked_key(key)
        if path.name.startswith(TEMPORARY):
            raise ValueError(f"not a key in a folder: {key!r} (reserved for temporary files)")
        return path

    def _replace(self, key: str, fill: Callable[[BinaryIO], None]) -> None:
        target = self._path(key)
        with self._translating(key):
            temporary = self._in_folder(target, lambda path: _write_file(path, fill))
            try:
                temporary.replace(target)
            except OSError:
                with suppress(OSError):
                    temporary.unlink()
                raise
            _fsync_folder(target.parent)

    def _in_folder(self, target: Path, write: Callable[[Path], None]) -> Path:
        """Write a temporary file beside `target`, whose folder is made first; returns its path."""
        temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}-{target.name}")

        def make_and_write() -> None:
            _make_folder(target.parent)
            write(temporary)

        Retrying(
            retry=retry_if_exception_type(FileNotFoundError),
            stop=stop_after_attempt(FOLDER_TRIES),
            wait=wait_random(0, 0.005),
            reraise=True,
        )(make_and_write)
        return temporary

    def _link(self, key: str, temporary: Path, target: Path) -> None:
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise AlreadyExists(self._uri, key, "there is an object already") from None
        except OSError as error:
            if error.errno in NO_HARD_LINKS:
                raise InputError.of(
                    "output.uri",
                    self._uri,
                    "a folder on a file system with hard links",
                    "choose a folder on ext4, xfs, btrfs, ZFS or NFS, or an s3:// URI",
                ) from error
            if error.errno in NEVER_LINKED:
                raise translated(self._uri, key, error) from error
            # A network file system may have linked it and lost the answer.
            raise Unknown(self._uri, key, f"the link may have been made: {error}") from error

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            with self._translating(key):
                yield
        except AccessDenied as error:
            # To other stores `a` and `a/b` have nothing to do with each other.
            if isinstance(error.__cause__, (IsADirectoryError, NotADirectoryError)):
                raise NotFound(self._uri, key, "there is no such file") from error.__cause__
            raise

    @contextmanager
    def _translating(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise translated(self._uri, key, error) from error


def _write_all(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def _write_file(path: Path, fill: Callable[[BinaryIO], None]) -> None:
    """Write a new file and fsync it; nothing is left when it fails."""
    try:
        with path.open("xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each of them fsynced into its parent."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
        _fsync_folder(folder.parent)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_empty_folders(folder: Path, root: Path) -> None:
    """Remove a folder and those above it up to the root as far as they are empty."""
    while folder != root:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
