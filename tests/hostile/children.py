"""Judges numbered cases in child processes: a crash or a hang is laid to the case it happened on.

    python -m tests.hostile.children MODULE:JUDGE FIRST LAST

judges the cases of a range one after another in this process, and says each number before it
starts and the verdict after it.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
MEMORY_BYTES = 4 * 2**30
"""Address space beyond what the libraries take: allocators reserve 2 GiB, and use little of it."""
PATIENCE_S = 60

Judge = Callable[[int], str]


def verdicts(judge: str, cases: range, scratch: Path) -> dict[int, str]:
    """Every case's verdict; one that ended its process has the verdict ``died by SIGNAL``.

    What children leave behind when they die is below `scratch`.
    """
    environment = os.environ | {"TMPDIR": str(scratch)}
    found: dict[int, str] = {}
    while len(found) < len(cases):
        first = cases[len(found)]
        command = [sys.executable, "-m", __name__, judge, str(first), str(cases[-1])]
        child = subprocess.run(
            command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True
        )
        before = len(found)
        for line in child.stdout.splitlines():
            number, _, verdict = line.partition(" ")
            found[int(number)] = verdict or f"died by {_end(child.returncode)}"
        assert len(found) > before, f"no case was judged: {child.stderr[-2000:]}"
    return found


def _end(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    judge: Judge = getattr(importlib.import_module(module), name)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for case in range(int(sys.argv[2]), int(sys.argv[3]) + 1):
        _say(str(case))
        signal.alarm(PATIENCE_S)
        _say(f"{case} {_verdict(judge, case)}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _verdict(judge: Judge, case: int) -> str:
    try:
        return judge(case)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the case's
        place = " < ".join(
            f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
        )
        return f"raised {type(error).__name__}: {str(error)[:300]!r} at {place}"


if __name__ == "__main__":
    main()
