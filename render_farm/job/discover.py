"""Finding the Parquet files of a prompt dataset: one file, a folder, or a glob, on any store."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from render_farm.errors import InputError, NotFound
from render_farm.store.open import open_store

_SUFFIXES = (".parquet", ".pq")


def find_files(path: str) -> tuple[str, list[str]]:
    """The dataset's root and its files relative to it, sorted bytewise.

    A single file has its folder as root. A folder is searched through; names that start with a
    dot or an underscore are left out, as Hive, Spark and Arrow do, and a glob's wildcards do not
    match them either. In a glob ``*``, ``?`` and ``[…]`` stay within a folder, ``**`` does not.

    Raises: `InputError`.
    """
    single = _single_file(path)
    if single is not None:
        return single
    root, pattern = _split(path)
    keys = [info.key for info in open_store(root).list("") if _wanted(info.key, pattern)]
    if not keys:
        raise InputError.of(
            "prompts.path",
            path,
            "a Parquet file, or a folder or glob with *.parquet files in it",
            "check the path, and that the files can be listed with these credentials",
        )
    if strange := [key for key in keys if not _is_text(key)]:
        raise InputError.of(
            "prompts.path", f"{path}: {strange[0]!r}", "names of files in UTF-8", "rename the file"
        )
    return root, sorted(keys, key=lambda key: key.encode("utf-8"))


def would_find(path: str, uri: str) -> bool:
    """Whether a Parquet file of a run at `uri` would be taken for one of the dataset's."""
    if _single_file(path) is not None:
        return False
    root, pattern = _split(path)
    base = open_store(root).uri.rstrip("/")
    inside = f"{uri.rstrip('/')}/data/000000-0.parquet"
    return inside.startswith(f"{base}/") and _wanted(inside.removeprefix(f"{base}/"), pattern)


def _single_file(path: str) -> tuple[str, list[str]] | None:
    """Folder and name if the path is one object; Spark's folders are called ``x.parquet`` too."""
    root, slash, name = path.rpartition("/")
    if name in {"", ".", ".."} or root.endswith(":/"):
        return None
    root = (root or "/") if slash else "."
    try:
        open_store(root).head(name)
    except NotFound:
        return None
    except ValueError as error:
        raise InputError.of(
            "prompts.path", path, "a path with / between its parts", "write / instead of \\"
        ) from error
    return root, [name]


def _split(path: str) -> tuple[str, list[str] | None]:
    """The folder to search and the pattern of paths in it, None for all Parquet files."""
    wildcard = re.search(r"[*?\[]", path)
    if not wildcard:
        return path, None
    root, slash, _ = path[: wildcard.start()].rpartition("/")
    return (root or "/") if slash else ".", path[len(root) + len(slash) :].split("/")


def _wanted(key: str, pattern: list[str] | None) -> bool:
    names = key.split("/")
    if pattern is not None:
        return _matches(names, pattern)
    return key.endswith(_SUFFIXES) and not any(_is_hidden(name) for name in names)


def _matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a glob, part by part, is met by a path; ``**`` stands for any visible folders."""
    if not pattern or not names:
        return not pattern and not names
    name, part = names[0], pattern[0]
    if part == "**":
        if _matches(names, pattern[1:] or ["*"]):
            return True
        return not _is_hidden(name) and _matches(names[1:], pattern)
    if _is_hidden(name) and not part.startswith(name[0]):
        return False
    return fnmatch.fnmatchcase(name, part) and _matches(names[1:], pattern[1:])


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _is_text(key: str) -> bool:
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
