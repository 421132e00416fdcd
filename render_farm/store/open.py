"""From a URI to a store."""

from __future__ import annotations

import re
from pathlib import Path
from threading import Lock
from urllib.parse import unquote, urlsplit

from render_farm.errors import InputError
from render_farm.store.base import Store
from render_farm.store.folder import FolderStore
from render_farm.store.keys import checked_key
from render_farm.store.memory import MemoryBucket, MemoryStore

ALLOWED = "s3://bucket/prefix, a local folder, file:///folder"
SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
SCHEME_ALONE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""``data:…``, ``http:…``: hardly the name of a folder."""
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")

_memory: dict[str, MemoryBucket] = {}
_memory_lock = Lock()


def open_store(uri: str) -> Store:
    """The store behind a URI; nothing is read or written yet.

    ``s3://bucket/prefix``; a local path, absolute or relative, ``~`` expanded; ``file:///path``;
    ``memory://name/prefix``, shared by all within this process, for tests. The store's `uri` leads
    to the same place from any working directory.

    Raises:
        InputError: there is no such scheme, or something is missing or wrong in the URI.
    """
    match = SCHEME.fullmatch(uri)
    if match is None:
        if not uri or "\0" in uri or uri.lower().startswith("s3:"):
            raise _problem(uri, "write s3://bucket/prefix for S3, or the path of a folder")
        if SCHEME_ALONE.match(uri):
            raise _problem(uri, f"write ./{uri} if it is the name of a folder")
        return FolderStore(expanded(uri))
    scheme, rest = match["scheme"].lower(), match["rest"]
    if scheme == "s3":
        return _open_s3(uri, rest)
    if scheme == "file":
        return _open_file(uri)
    if scheme == "memory":
        return _open_memory(uri, rest)
    fix = "write s3:// and name the store's address in AWS_ENDPOINT_URL_S3"
    if scheme not in {"s3a", "s3n", "gs", "http", "https"}:
        fix = "choose one of these"
    raise _problem(uri, fix)


def expanded(path: str) -> Path:
    """A local path with ``~`` expanded. Raises: `InputError` if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise _problem(path, "there is no such user: write the whole path") from error


def _open_s3(uri: str, rest: str) -> Store:
    bucket, _, prefix = rest.partition("/")
    if {":", "@"} & set(bucket):
        raise _problem(uri, "leave credentials out of the URI; boto3 finds them in AWS_* or ~/.aws")
    if not BUCKET.fullmatch(bucket):
        raise _problem(uri, "name the bucket after s3://: 3 to 255 letters, digits, '.', '-', '_'")
    # Imported here: boto3 takes longer to load than the rest of the command line together.
    from render_farm.store.s3 import S3Store  # noqa: PLC0415

    return S3Store(bucket, _checked_prefix(uri, prefix), uri=uri)


def _open_file(uri: str) -> Store:
    parts = urlsplit(uri)
    path = unquote(parts.path)
    if parts.netloc not in {"", "localhost"} or not path.startswith("/") or "\0" in path:
        raise _problem(uri, "write three slashes and an absolute path: file:///folder")
    return FolderStore(Path(path))


def _open_memory(uri: str, rest: str) -> Store:
    name, _, prefix = rest.partition("/")
    with _memory_lock:
        bucket = _memory.setdefault(name, MemoryBucket())
    return MemoryStore(uri, bucket=bucket, prefix=_checked_prefix(uri, prefix))


def _checked_prefix(uri: str, prefix: str) -> str:
    prefix = prefix.rstrip("/")
    try:
        return checked_key(prefix) if prefix else ""
    except ValueError as error:
        raise _problem(uri, "no empty segment, '.', '..' or backslash in the prefix") from error


def _problem(uri: str, fix: str) -> InputError:
    return InputError.of("uri", _without_credentials(uri), ALLOWED, fix)


def _without_credentials(uri: str) -> str:
    """The URI as a message may show it. A secret key may have slashes, so nothing of it is kept."""
    scheme, separator, rest = uri.partition("://")
    host, _, _ = rest.partition("/")
    port = host.rpartition(":")[2]
    suspect = "@" in rest or (":" in host and not port.isdecimal())
    return f"{scheme}://…" if separator and suspect else uri
