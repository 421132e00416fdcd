"""A Ray cluster of several raylets on the loopback, in a process that obeys lines on its input.

    python -m tests.storm.raylets

says ``{"address": …}`` when the head is up; ``add`` starts one more raylet and answers
``{"raylet": pid}``. The head, which drivers join, has no CPUs: no worker lands beside the
cluster's own state. When the input ends, everything that was started ends.
"""

from __future__ import annotations

import itertools
import json
import select
import sys
from typing import Any

import psutil
from ray.cluster_utils import Cluster

CPUS = 4
NUMBERS = itertools.count()
STORE_BYTES = 80 * 1024 * 1024
HEAD = "127.0.0.2"  # Ray takes 127.0.0.1 for the address by which others reach this machine
SETTINGS = {
    # A raylet that does not answer for some fifteen seconds is dead to the others. Less would be
    # quicker, but on a busy machine it takes the living for dead.
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 5,
    # Processes that nobody asked for would cost more than the workers themselves.
    "enable_worker_prestart": False,
    "prestart_worker_first_driver": False,
}


def main() -> None:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
            "include_log_monitor": False,
            "node_ip_address": HEAD,
            "_system_config": SETTINGS,
        },
    )
    say(address=cluster.address)
    while True:
        ready, _, _ = select.select([sys.stdin], [], [], 0.2)
        reap(cluster)
        if not ready:
            continue
        if not sys.stdin.readline():
            break
        say(raylet=raylet_of(add(cluster)).pid)
    cluster.shutdown()


def add(cluster: Cluster) -> Any:
    """Start one more raylet, on an address of its own.

    Ray gives a raylet thirty seconds to come up, which is too few while everything else starts.
    """
    for last in (False, False, False, True):
        before = set(psutil.Process().children())
        try:
            return cluster.add_node(
                num_cpus=CPUS,
                object_store_memory=STORE_BYTES,
                node_ip_address=f"127.0.1.{next(NUMBERS) % 250 + 1}",
            )
        except Exception:  # Ray raises nothing narrower
            if last:
                raise
            for late in set(psutil.Process().children()) - before:
                late.kill()
                late.wait()
    raise AssertionError("the last try returns or raises")


def raylet_of(node: Any) -> Any:
    return node.all_processes["raylet"][0].process


def reap(cluster: Cluster) -> None:
    """Workers end with their raylet once it is gone from the process table, not before."""
    for node in cluster.worker_nodes:
        raylet_of(node).poll()


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
