"""A run on nodes of which one joins in the middle and one is drained. A process of its own, as in
`two_nodes`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray._private.worker import global_worker
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from render_farm.farm.cluster import connect, disconnect
from render_farm.farm.driver import RayPool
from render_farm.farm.messages import Assignment
from render_farm.farm.pool import Answered, Lost, Placed, PoolEvent
from render_farm.job.spec import WorkersSpec
from render_farm.views.verify import verify_run
from tests.farm.two_nodes import NODE
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import submit
from tests.making.samplers import build_slow

STEADY, SPOT, LATE = "127.0.0.2", "127.0.0.3", "127.0.0.4"
DEADLINE_S = 600
JOINS_AFTER = 5


class ChangingPool(RayPool):
    """After some answers a node joins; when that has answered, another is drained."""

    def __init__(self, cluster: Cluster, spot: str, *args: Any) -> None:
        super().__init__(*args)
        self.cluster, self.spot = cluster, spot
        self.nodes: dict[str, str] = {}
        self.answers: list[str] = []
        self.lost: list[str] = []
        self.ended: list[str] = []
        self.late: str | None = None
        self.started_before = 0
        self.joined_s = self.at_work_s = 0.0
        self.drained_after: int | None = None

    def assign(self, worker: str, assignment: Assignment) -> None:
        if self.late and self.nodes.get(worker) == self.late and not self.at_work_s:
            self.at_work_s = time.monotonic()
        super().assign(worker, assignment)

    def discard(self, worker: str) -> None:
        self.ended.append(worker)
        super().discard(worker)

    def poll(self, timeout_s: float) -> Iterator[PoolEvent]:
        for event in super().poll(timeout_s):
            match event:
                case Placed(worker, node):
                    self.nodes[worker] = node
                case Answered(worker):
                    self.answers.append(worker)
                case Lost(worker):
                    self.lost.append(worker)
            yield event
        self._change()

    def _change(self) -> None:
        if self.late is None and len(self.answers) >= JOINS_AFTER:
            self.started_before = len(self._actors)
            # In the loop's own thread: Ray sets signal handlers.
            self.late = self.cluster.add_node(**NODE, node_ip_address=LATE).node_id
            self.joined_s = time.monotonic()
        if self.drained_after is None and self.late in map(self.nodes.get, self.answers):
            accepted, why = global_worker.gcs_client.drain_node(
                self.spot,
                autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION,
                "spot",
                int((time.time() + DEADLINE_S) * 1000),
            )
            assert accepted, why
            self.drained_after = len(self.answers)


def main(folder: Path) -> None:
    """Drive a run while nodes come and go; prints what became of it."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "node_ip_address": STEADY})
    try:
        spot = cluster.add_node(**NODE, node_ip_address=SPOT).node_id
        cluster.wait_for_nodes()
        path = write_prompts(folder / "p.parquet", 2000)
        run = submit(make_job(path, folder / "run", shards={"rows": 20}), model_cache=str(folder))
        resources = connect(cluster.address, WorkersSpec(cpus=1))
        pool = ChangingPool(cluster, spot, resources, build_slow)
        driver = run.driver(pool, workers=resources.count)
        options = replace(driver._how.options, open_shards=3)
        driver._how = replace(driver._how, elastic=True, options=options)
        ended_early: list[str] = []
        close, pool.close = pool.close, lambda: (ended_early.extend(pool.ended), close())
        end = driver.drive()
        (spot_worker,) = (worker for worker, node in pool.nodes.items() if node == spot)
        found = {
            "reason": end.reason,
            "whole": verify_run(run.store, run.record).ok,
            "lost": pool.lost,
            "started_before": pool.started_before,
            "drained_in_time": spot_worker in ended_early,
            "work_after_s": round(pool.at_work_s - pool.joined_s, 1),
            "answers_after_the_drain": len(pool.answers) - (pool.drained_after or 0),
            "of_the_drained": pool.answers[pool.drained_after or 0 :].count(spot_worker),
        }
        sys.stdout.write(json.dumps(found) + "\n")
    finally:
        disconnect()
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
