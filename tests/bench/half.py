"""Half a run, and the other half taken up: how long until the first shard is handed out.

    python -m tests.bench.half FOLDER ROWS [--resume]

renders half of ROWS rows into FOLDER/run; with ``--resume``, another process goes on with that run
until its first shard is handed out, and prints the seconds since there was a cluster, and how many
rows it found decided.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from render_farm.farm.bench.building import build_measured
from render_farm.farm.bench.measuring import Measured
from render_farm.farm.bench.observed_pool import Observed
from render_farm.farm.bench.options import FarmOptions
from render_farm.farm.bench.workload import write_prompts
from render_farm.farm.loop import Driver
from render_farm.farm.progress import Progress
from render_farm.job.load import parse_job


class StopsWhen:
    """Asks the driver to stop: at so many rows, or, for 0, once anything was handed out."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.rows_before = 0

    def on_driver(self, driver: Driver, observed: Observed) -> None:
        self._driver, self._observed = driver, observed

    def on_progress(self, progress: Progress) -> None:
        self.rows_before = progress.decided_rows - progress.decided_here
        if self._observed.messages if not self._rows else progress.decided_rows >= self._rows:
            self._driver.ask_to_stop()


def main() -> None:
    folder, rows, resume = Path(sys.argv[1]), int(sys.argv[2]), "--resume" in sys.argv
    prompts = folder / "prompts.parquet"
    if not resume:
        write_prompts(prompts, rows)
    options = FarmOptions(rows=rows).resolved()
    job = parse_job(options.job(str(prompts), str(folder / "run")))
    stop = StopsWhen(0 if resume else rows // 2)
    seen = Measured(job, build_measured, options.workers).drive(stop.on_progress, stop.on_driver)
    assert seen.end.reason == "stopped as asked", seen.end
    first_s = min(seen.observed.first_assigned_at.values()) - seen.connected_at
    found = {"rows_before": stop.rows_before, "first_dispatch_s": first_s}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
