"""A run on raylets of which one comes late and one is killed, against the ideal.

    python -m tests.bench.elastic FOLDER ROWS

starts with two raylets of one stand-in accelerator each, adds one at a third of the rows and kills
one at two thirds. Prints the seconds from the new one's joining to its first shard, and the
makespan against what accelerators that are never idle and lose nothing would take.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from render_farm.farm.bench.building import build_measured
from render_farm.farm.bench.measuring import Measured, Seen
from render_farm.farm.bench.observed_pool import Observed
from render_farm.farm.bench.options import FarmOptions
from render_farm.farm.bench.workload import write_prompts
from render_farm.farm.loop import Driver
from render_farm.farm.progress import Progress
from render_farm.job.load import parse_job
from tests.storm.cluster import Raylets
from tests.storm.raylets import CPUS

AT_FIRST = 2


@dataclass
class Changes:
    """Adds a raylet at a third of the rows and kills one at two thirds, from threads."""

    cluster: Raylets
    rows: int
    observed: Observed = field(default_factory=Observed)
    joined_at: float = 0.0
    killed_at: float = 0.0
    nodes_before: frozenset[str] = frozenset()
    _asked: list[threading.Thread] = field(default_factory=list)

    def on_driver(self, driver: Driver, observed: Observed) -> None:
        self.observed = observed

    def on_progress(self, progress: Progress) -> None:
        due = (self._add, self._kill)[len(self._asked) : 3 * progress.decided_rows // self.rows]
        for change in due[:1]:
            self._asked.append(threading.Thread(target=change))
            self._asked[-1].start()

    def wait(self) -> None:
        for thread in self._asked:
            thread.join()

    def _add(self) -> None:
        self.nodes_before = frozenset(self.observed.nodes.values())
        self.cluster.fill(AT_FIRST + 1)
        self.joined_at = time.time()

    def _kill(self) -> None:
        self._asked[0].join()
        self.killed_at = time.time()
        self.cluster.kill(next(iter(self.cluster.alive)))


def ideal_s(work_s: float, began: float, joined: float, killed: float) -> float:
    """Seconds in which the capacity that was there does `work_s` of work: 2, then 3, then 2."""
    left, at = work_s, began
    for until, capacity in ((joined, AT_FIRST), (killed, AT_FIRST + 1)):
        if left <= (until - at) * capacity:
            return at - began + left / capacity
        left, at = left - (until - at) * capacity, until
    return at - began + left / AT_FIRST


def report(options: FarmOptions, seen: Seen, changes: Changes) -> dict[str, object]:
    """The figures, and whether anything was amiss."""
    observed = seen.observed
    newcomers = [
        at
        for worker, at in observed.first_assigned_at.items()
        if observed.nodes[worker] not in changes.nodes_before
    ]
    began, ended = min(observed.first_assigned_at.values()), observed.commits[-1].at
    assert options.sleep_ms is not None
    work_s = options.rows * options.steps * options.sleep_ms / 1000 / options.batch
    best_s = ideal_s(work_s, began, changes.joined_at, changes.killed_at)
    return {
        "reason": seen.end.reason,
        "rows": sum(commit.rows for commit in observed.commits),
        "join_s": min(newcomers) - changes.joined_at if newcomers else None,
        "makespan_s": ended - began,
        "ideal_s": best_s,
        "ratio": (ended - began) / best_s,
    }


def main() -> None:
    folder, rows = Path(sys.argv[1]), int(sys.argv[2])
    prompts = folder / "prompts.parquet"
    write_prompts(prompts, rows)
    side = 512
    options = FarmOptions(
        rows=rows, sleep_ms=30, width=side, height=side, image="jpeg", workers=AT_FIRST
    ).resolved()
    document = options.job(str(prompts), str(folder / "run"))
    document["workers"] |= {"count": "auto", "cpus": CPUS}
    environment = {"PYTHONPATH": str(Path.cwd())}
    with Raylets(environment, folder / "cluster.log") as cluster:
        cluster.fill(AT_FIRST)
        changes = Changes(cluster, rows)
        run = Measured(parse_job(document), build_measured, AT_FIRST, cluster.address)
        seen = run.drive(changes.on_progress, changes.on_driver)
        changes.wait()
    sys.stdout.write(json.dumps(report(options, seen, changes)) + "\n")


if __name__ == "__main__":
    main()
