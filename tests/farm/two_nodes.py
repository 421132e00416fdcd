"""A run on two nodes, one of them sick. A process of its own: a process can join clusters with and
without tokens, but not one after the other."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from ray.cluster_utils import Cluster

from render_farm.farm.cluster import connect, disconnect
from render_farm.farm.driver import RayPool
from render_farm.job.spec import WorkersSpec
from render_farm.views.verify import verify_run
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import submit
from tests.making.samplers import build_failing_on_a_node

NODE = {
    "num_cpus": 1,
    "object_store_memory": 80 * 1024 * 1024,
    "include_dashboard": False,
}
# Ray takes 127.0.0.1 for the address by which others reach this machine.
WELL, SICK = "127.0.0.2", "127.0.0.3"


def main(folder: Path) -> None:
    """Drive a run with a worker on each node; prints how it ended and where workers started."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "node_ip_address": WELL})
    try:
        well, sick = (
            cluster.head_node.node_id,
            cluster.add_node(**NODE, node_ip_address=SICK).node_id,
        )
        cluster.wait_for_nodes()
        (folder / "sick-node").write_text(sick)
        path = write_prompts(folder / "p.parquet", 200)
        run = submit(make_job(path, folder / "run"), model_cache=str(folder))
        resources = connect(cluster.address, WorkersSpec(count=2, cpus=1))
        end = run.driver(RayPool(resources, build_failing_on_a_node), workers=2).drive()
        started = Counter((folder / "built-on").read_text().split())
        found = {
            "reason": end.reason,
            "whole": verify_run(run.store, run.record).ok,
            "started": {"well": started[well], "sick": started[sick]},
        }
        sys.stdout.write(json.dumps(found) + "\n")
    finally:
        disconnect()
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
