"""Everything measured in one go: `make bench`.

    python -m tests.bench --into FOLDER [--full] [--only NAME]…

Each result is written to FOLDER/scale.json as it comes, so that a run that is cut keeps what it
had, and the page and the plot of them to FOLDER/scale.md and FOLDER/scale.svg. `--only` measures
one thing anew and keeps the others.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tests.bench.measurements import ENVIRONMENT, FULL, MEASUREMENTS, SMALL
from tests.bench.page import write_page
from tests.bench.results import Results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", action="append", choices=list(MEASUREMENTS))
    chosen = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    results = Results.at(chosen.into / "scale.json", full=chosen.full, keep=bool(chosen.only))
    failed = []
    for name, measure in MEASUREMENTS.items():
        if chosen.only and name not in chosen.only:
            continue
        say(f"{name} …")
        began_s = time.monotonic()
        try:
            found = measure(FULL if chosen.full else SMALL)
        except Exception as error:  # noqa: BLE001 - the others are measured all the same
            failed.append(name)
            say(f"{name} failed: {error}")
            continue
        took_s = time.monotonic() - began_s
        results.add(name, found, took_s)
        write_page(results, chosen.into)
        say(f"{name}: {took_s:.0f} s: {found}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
