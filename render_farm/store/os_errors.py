"""Translation of `OSError` into the store's errors, for whatever touches a local file system."""

from __future__ import annotations

import errno

from render_farm.errors import AccessDenied, NotFound, StoreError, Unavailable

ADVICE: dict[int, tuple[type[StoreError], str]] = {
    errno.ENOENT: (NotFound, "there is no such file"),
    errno.EACCES: (AccessDenied, "permission denied; give this user access to the folder"),
    errno.EPERM: (AccessDenied, "operation not permitted; give this user access to the folder"),
    errno.EROFS: (AccessDenied, "the file system is read-only; mount it writable"),
    errno.EISDIR: (AccessDenied, "a folder lies where a file belongs; remove it"),
    errno.ENOTDIR: (AccessDenied, "a file lies where a folder belongs; remove it"),
    errno.EEXIST: (AccessDenied, "a file lies where a folder belongs; remove it"),
    errno.ENAMETOOLONG: (AccessDenied, "the name is too long for the file system"),
    errno.ELOOP: (AccessDenied, "a symbolic link leads back to itself; remove it"),
    errno.ENOSPC: (Unavailable, "no space is left on the device; free some"),
    errno.EDQUOT: (Unavailable, "the disk quota is used up; free some space or raise it"),
    errno.EMFILE: (Unavailable, "too many open files; raise `ulimit -n`"),
}


def translated(uri: str, key: str, error: OSError) -> StoreError:
    """The store error that says what an `OSError` means and what to do about it."""
    kind, advice = ADVICE.get(error.errno or 0, (Unavailable, "the file system failed"))
    return kind(uri, key, f"{advice} ({error.strerror or type(error).__name__})")
