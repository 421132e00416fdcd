"""The files of a model folder: none from outside it, and none that would never end to be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from render_farm.errors import ModelError


def walk_files(root: Path) -> Iterator[str]:
    """Relative paths of all files of a folder, with forward slashes. Opens none of them.

    Raises: `ModelError` naming a link that leaves the folder or leads nowhere, a pipe, a device.
    """
    base = root.resolve()
    homes = [base]
    if base.parent.name == "snapshots" and base.parent.parent.name.startswith("models--"):
        # In the hub's cache a snapshot consists of links into its sibling folder of blobs.
        homes.append(base.parent.parent / "blobs")
    for folder, folders, names in os.walk(base):
        for name in (*folders, *names):
            entry = Path(folder) / name
            if entry.is_symlink() and not any(
                Path(os.path.realpath(entry)).is_relative_to(home) for home in homes
            ):
                raise _refused(root, entry.relative_to(base), "is a link to a place outside it")
        for name in names:
            file = Path(folder) / name
            if not _is_regular(file):
                raise _refused(root, file.relative_to(base), "leads to no file")
            yield file.relative_to(base).as_posix()


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:  # it leads nowhere, or in a circle
        return False


def _refused(root: Path, entry: Path, what: str) -> ModelError:
    return ModelError(
        "model.path",
        f"{root}: {entry} {what}",
        "folders that contain their files themselves",
        "copy the model with its links followed, for example `cp -rL`, without what is no file",
    )
