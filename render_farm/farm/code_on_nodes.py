"""The code that nodes run: this very version, installed there or sent along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import render_farm
from render_farm.errors import InputError


def version_refusal(driver: str, worker: str | None, node: str) -> InputError | None:
    """Why a worker gets nothing from a driver of another version; None if it is of the same one.

    `worker` is None where the program cannot be imported, or is too old to tell.
    """
    if worker == driver:
        return None
    return InputError.of(
        "version of render_farm",
        f"{worker or 'none, or one too old to tell,'} on node {node}",
        f"{driver}, as the driver's",
        f"install render_farm=={driver} on every node, or send the driver's own with --ship-code",
    )


def shipped_code() -> dict[str, Any]:
    """A runtime environment that brings this very package, and no variables, to every process."""
    return {"py_modules": [str(Path(render_farm.__file__).parent)], "excludes": ["__pycache__"]}
