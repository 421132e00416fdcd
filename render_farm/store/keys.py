"""Which keys are allowed, and how URIs and prefixes are put together."""

from __future__ import annotations


def checked_key(key: str) -> str:
    """The key, if every store can hold it.

    Raises:
        ValueError: it is empty or absolute, or has an empty segment, ``.``, ``..``, a backslash
            or a NUL. Keys are made by this program, so this is a mistake in it.
    """
    if not key or "\\" in key or "\0" in key or not {"", ".", ".."}.isdisjoint(key.split("/")):
        raise ValueError(f"not a key: {key!r} (relative, '/' between segments, no '.', '..', '\\')")
    return key


def checked_prefix(prefix: str) -> str:
    """The prefix, if keys can start with it: like `checked_key`, but may be empty or end in ``/``.

    Raises:
        ValueError: no key can start with it.
    """
    folders, slash, _ = prefix.rpartition("/")
    if slash:
        checked_key(folders)
    if "\\" in prefix or "\0" in prefix:
        raise ValueError(f"not a prefix of a key: {prefix!r}")
    return prefix


def join_uri(uri: str, *keys: str) -> str:
    """The URI of what lies below another: ``s3://bucket/run`` and ``retries/001``.

    Raises:
        ValueError: a part is not a key.
    """
    return "/".join([uri.rstrip("/"), *(checked_key(key) for key in keys)])
