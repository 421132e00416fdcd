"""A whole prefix as a local folder, fetched once a node."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from render_farm.errors import InputError, NotFound, Unavailable
from render_farm.store.base import ObjectInfo, Store
from render_farm.store.copy import copy_digested
from render_farm.store.digests import KnownDigests, replace_text
from render_farm.store.keys import checked_key
from render_farm.store.open import open_store
from render_farm.store.os_errors import translated

logger = logging.getLogger(__name__)

THREADS = 4
"""Objects fetched at once; a large one takes several connections by itself."""


def fetch_folder(uri: str, into: Path) -> Path:
    """Download every object below a URI; returns the folder below `into` that holds them.

    Processes of one node that fetch the same wait for each other and download once. The folder's
    name comes from URI, keys, sizes and times: what has changed in the store goes to a new folder,
    and a folder that is in use never changes. It appears whole or not at all, and is on the disk
    then. Beside it lies what each file's SHA-256 was when it came: a folder whose files are not
    those any more is fetched again. Files that nobody touched since are not read for that.

    Raises:
        NotFound: there are no objects below the URI.
        InputError: the URI is wrong, or a key would lead out of the folder.
        Unavailable: an object is not of its listed size, or the disk is full.
        AccessDenied: from the store, or from the local file system.
    """
    return fetch_store(open_store(uri), into)


def fetch_store(store: Store, into: Path, only: str | None = None) -> Path:
    """`fetch_folder` for a store that is open already; `only` is the key of the one object wanted.

    Raises: as `fetch_folder`; `NotFound` also when there is no object `only`.
    """
    objects = [info for info in store.list(only or "") if only in {None, info.key}]
    if not objects:
        raise NotFound(store.uri, only or "", "there are no objects here")
    for info in objects:
        _check_inside(store.uri, info.key)
    target = into / _folder_name(store.uri, objects)
    known = known_digests(into)
    try:
        into.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not _is_whole(target, objects, known):
                _download(store, objects, target, known)
    except OSError as error:
        raise translated(str(into), target.name, error) from error
    return target


def known_digests(cache: Path) -> KnownDigests:
    """The digests of files that are kept in a folder for fetched models."""
    return KnownDigests(cache / "digests")


def _check_inside(uri: str, key: str) -> None:
    try:
        checked_key(key)
    except ValueError as error:
        allowed = "keys that stay inside the folder"
        raise InputError.of("uri", f"{uri}: {key}", allowed, "remove the object") from error


def _folder_name(uri: str, objects: list[ObjectInfo]) -> str:
    digest = hashlib.sha256(uri.rstrip("/").encode())
    for info in objects:
        digest.update(f"\0{info.key}\0{info.size_bytes}\0{info.modified_at.isoformat()}".encode())
    return f"{uri.rstrip('/').rpartition('/')[2]}-{digest.hexdigest()[:16]}"


def _is_whole(folder: Path, objects: list[ObjectInfo], known: KnownDigests) -> bool:
    try:
        arrived = dict(json.loads(_record_path(folder).read_text()))
        return all(_is_as_it_came(folder / each.key, each, arrived, known) for each in objects)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return False


def _is_as_it_came(
    path: Path, info: ObjectInfo, arrived: dict[str, str], known: KnownDigests
) -> bool:
    if path.stat().st_size == info.size_bytes and known.of(path) == arrived.get(info.key):
        return True
    fields = {"path": str(path)}
    logger.warning("a fetched file is not as it came, fetching its folder again", extra=fields)
    return False


def _record_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _download(store: Store, objects: list[ObjectInfo], target: Path, known: KnownDigests) -> None:
    partial = target.with_name(f"{target.name}.partial")
    for leftover in (partial, target):
        if leftover.exists():
            shutil.rmtree(leftover)
    total = sum(info.size_bytes for info in objects)
    fields = {"uri": store.uri, "objects": len(objects), "size_bytes": total}
    logger.info("fetching a folder", extra=fields)
    with ThreadPoolExecutor(THREADS) as pool:
        came = pool.map(lambda info: _download_one(store, info, partial / info.key), objects)
        arrived = dict(zip((info.key for info in objects), came, strict=True))
    replace_text(_record_path(target), json.dumps(arrived))
    partial.rename(target)
    for key, sha256 in arrived.items():
        known.note(target / key, sha256)


def _download_one(store: Store, info: ObjectInfo, path: Path) -> str:
    """Returns the SHA-256 of what came."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        found, sha256 = copy_digested(store, info.key, file)
        os.fsync(file.fileno())
    if found != info.size_bytes:
        why = f"{found} bytes came, {info.size_bytes} were listed; it was replaced meanwhile"
        raise Unavailable(store.uri, info.key, why)
    return sha256
