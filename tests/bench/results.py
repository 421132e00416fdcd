"""What was measured, in a file that grows as results come, with the machine that they are of."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("ray", "diffusers", "torch", "accelerate", "pyarrow", "boto3")


class Results:
    """Results by name. `add` writes the whole file anew, in one move."""

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self._path = path
        self.document = document

    @classmethod
    def at(cls, path: Path, *, full: bool, keep: bool) -> Results:
        """A new document, or with `keep` the one that is there.

        Results of another size or another machine are not kept: they would stand side by side.
        """
        fresh = {"machine": machine(), "full": full, "results": {}}
        if keep and path.exists():
            before = json.loads(path.read_text())
            if (before["machine"], before["full"]) == (fresh["machine"], full):
                return cls(path, before)
        return cls(path, fresh)

    def add(self, name: str, found: dict[str, Any], took_s: float) -> None:
        """Keep a result, in the place of an earlier one."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self.document["results"][name] = {"at": at, "took_s": round(took_s, 1), "found": found}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self.document, indent=1) + "\n")
        part.replace(self._path)

    def found(self, name: str) -> dict[str, Any] | None:
        """A result; None if it was not measured."""
        entry = self.document["results"].get(name)
        return entry and entry["found"]

    def day(self, name: str) -> str:
        """The date of a result, UTC. Raises: `KeyError` if it was not measured."""
        at: str = self.document["results"][name]["at"]
        return at[:10]


def machine() -> dict[str, Any]:
    """What this machine is, and the libraries that are measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {name: metadata.version(name) for name in LIBRARIES}
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "libraries": versions,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
