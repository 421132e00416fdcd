"""A whole prefix as a local folder, fetched once a node."""

from __future__ import annotations

import hashlib
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from render_farm.errors import InputError, NotFound, Unavailable
from render_farm.store.base import ObjectInfo, Store
from render_farm.store.copy import copy_digested
from render_farm.store.keys import checked_key
from render_farm.store.open import open_store
from render_farm.store.os_errors import translated

logger = logging.getLogger(__name__)

THREADS = 4


def fetch_folder(uri: str, into: Path) -> Path:
    """Download every object below a URI; returns the folder below `into` that holds them.

    Processes of one node that fetch the same wait for each other and download once. The folder's
    name comes from URI, keys, sizes and times: what has changed in the store goes to a new folder,
    and a folder that is in use never changes. It appears whole or not at all; one that has lost
    files since is fetched again.

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
    try:
        into.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not _is_whole(target, objects):
                _download(store, objects, target)
    except OSError as error:
        raise translated(str(into), target.name, error) from error
    return target


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


def _is_whole(folder: Path, objects: list[ObjectInfo]) -> bool:
    paths = ((folder / info.key, info.size_bytes) for info in objects)
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _download(store: Store, objects: list[ObjectInfo], target: Path) -> None:
    partial = target.with_name(f"{target.name}.partial")
    for leftover in (partial, target):
        if leftover.exists():
            shutil.rmtree(leftover)
    total = sum(info.size_bytes for info in objects)
    fields = {"uri": store.uri, "objects": len(objects), "size_bytes": total}
    logger.info("fetching a folder", extra=fields)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda info: _download_one(store, info, partial / info.key), objects))
    partial.rename(target)


def _download_one(store: Store, info: ObjectInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        found, _sha256 = copy_digested(store, info.key, file)
    if found != info.size_bytes:
        why = f"{found} bytes came, {info.size_bytes} were listed; it was replaced meanwhile"
        raise Unavailable(store.uri, info.key, why)
