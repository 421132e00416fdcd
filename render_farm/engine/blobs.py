"""What huggingface_hub keeps of large files: blobs, under the names that the hub gives them."""

from __future__ import annotations

import re
from pathlib import Path

from render_farm.errors import ModelError

BLOB = re.compile(r"[0-9a-f]{64}")
"""The name of a large file's blob: its SHA-256. Small ones are named by the hash of git."""


def check_blob(path: Path, sha256: str) -> None:
    """Hold the digest of a file against what the hub says of it, where the file is from its cache.

    huggingface_hub locks each blob, so that one process of a node downloads it, and gives it its
    name when it is there; of what came it checks the size at most.

    Raises: `ModelError` if it is not what the hub has.
    """
    blob = path.resolve()
    if blob.parent.name == "blobs" and BLOB.fullmatch(blob.name) and blob.name != sha256:
        raise ModelError(
            "model.path",
            f"{path}: arrived damaged, or was damaged since: its SHA-256 is {sha256}",
            f"the file that the hub has, of SHA-256 {blob.name}",
            f"delete {blob}: it is downloaded again",
        )
