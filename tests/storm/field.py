"""Where storms rage: one store, a witness before it, and one cluster of several raylets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.ceph import CephServer
from tests.storm.cluster import Raylets
from tests.storm.journal import Journal
from tests.storm.runs import Farm
from tests.storm.witness import Witness

RAYLETS = 3


@dataclass(frozen=True)
class Field:
    """A cluster, what the store hears of it, and where drivers are told to go."""

    cluster: Raylets
    journal: Journal
    farm: Farm


@contextmanager
def open_field(ceph: CephServer, folder: Path) -> Iterator[Field]:
    """Everything that it starts has ended when it is left.

    Drivers and, through their raylets, workers take the code below ``STORM_CODE``, where that is
    set: so a broken copy of the product can be put to the storm.
    """
    journal = Journal()
    with Witness(ceph, journal.on_request, journal.on_answer) as witness:
        environment = {
            **witness.environment(),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "PYTHONPATH": os.pathsep.join([*_code(), str(Path.cwd())]),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        with Raylets(environment, folder / "cluster.log") as cluster:
            cluster.fill(RAYLETS)
            farm = Farm(cluster.address, ceph.make_bucket("storm"), folder, environment)
            yield Field(cluster, journal, farm)


def _code() -> list[str]:
    other = os.environ.get("STORM_CODE")
    return [other] if other else []
