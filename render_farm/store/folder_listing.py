"""Walking a folder as an object store lists its keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Temporary files are named so: hidden from listings, and the target's name is in theirs.
TEMPORARY = ".render-farm-tmp-"


def visible_files(root: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files below `root` whose keys start with `prefix`, in bytewise order of keys.

    Lazy: holds the names of the folders on the way to the current file, not of the whole tree.
    Links are followed. A folder that vanishes meanwhile is passed over.
    """
    for key, entry in _files(root, prefix):
        if key.startswith(prefix) and not entry.name.startswith(TEMPORARY):
            yield key, entry


def temporary_files(root: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    """The unfinished writes below `root` of keys that start with `prefix`: key and file."""
    for key, entry in _files(root, prefix):
        if entry.name.startswith(TEMPORARY):
            random_and_target = entry.name.removeprefix(TEMPORARY)
            target = key.removesuffix(entry.name) + random_and_target.partition("-")[2]
            if target.startswith(prefix):
                yield target, Path(entry.path)


def _files(root: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Files in the folder that `prefix` names, and in those below it that start with `prefix`."""
    folder, slash, _ = prefix.rpartition("/")
    yield from _walk(root / folder, folder + slash, prefix)


def _walk(folder: Path, base: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as entries:
            # A folder sorts as its name and a slash: `a-b` comes before `a/b`.
            named = [(base + e.name + ("/" if e.is_dir() else ""), e) for e in entries]
    except (FileNotFoundError, NotADirectoryError):
        return
    named.sort(key=lambda pair: os.fsencode(pair[0]))
    for key, entry in named:
        if not key.endswith("/"):
            if entry.is_file():
                yield key, entry
        elif key.startswith(prefix):
            yield from _walk(folder / entry.name, key, prefix)
