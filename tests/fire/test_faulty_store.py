"""Runs on a store that fails all the time, for a while, or dies: they wait, and end whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.farm import Running, farm
from tests.fire.rehearsals import Rehearsal, make_rehearsal, waits_in
from tests.servers.ceph import DAEMONS, CephServer
from tests.servers.storm_proxy import RATES, StormProxy

pytestmark = [pytest.mark.ceph, pytest.mark.timeout(1800)]

Lead = Callable[[Any], None]
Figure = Callable[[str, object], None]

LONG = int(os.environ.get("STORM", "0")) >= 1
OUTAGE_S = 60 if LONG else 8
SHARDS = 150 if LONG else 60
SEED = 4
WAYS = {"in one process": True, "with Ray": False} if LONG else {"in one process": True}
"""Where a run is rendered, and whether that is `--local`. All at once: they mostly wait."""


@dataclass(frozen=True)
class Ordeal:
    """A run under way, through a store of its own that fails."""

    where: str
    storm: StormProxy
    rehearsal: Rehearsal
    receipts: Callable[[], int]
    driver: Running

    def endure(self) -> int:
        """See the run through an outage to its end; returns how long its log was before."""
        self.driver.wait_until(lambda: self.receipts() >= SHARDS // 3)
        before_outage = len(self.rehearsal.log.read_text())
        self.storm.refuse_connections_for(OUTAGE_S)
        assert self.driver.finish() == 0, self.driver.log()
        return before_outage


@pytest.mark.ray
def test_a_run_through_a_storm_of_faults_and_an_outage_is_whole(
    ceph: CephServer,
    s3_env: Lead,
    bucket_on: Callable[[CephServer], str],
    tmp_path: Path,
    figure: Figure,
) -> None:
    with ExitStack() as stack:
        ordeals = []
        for where, local in WAYS.items():
            storm = stack.enter_context(StormProxy(ceph, SEED))
            s3_env(ceph)
            rehearsal = make_rehearsal(bucket_on(ceph), tmp_path / where.replace(" ", "-"), SHARDS)
            receipts = rehearsal.receipts_counter()
            s3_env(storm)
            driver = stack.enter_context(rehearsal.rendering(local=local))
            ordeals.append(Ordeal(where, storm, rehearsal, receipts, driver))
        with ThreadPoolExecutor(len(ordeals)) as pool:
            before_outage = dict(zip(WAYS, pool.map(Ordeal.endure, ordeals), strict=True))
        for ordeal in ordeals:
            s3_env(ordeal.storm)  # read back through the storm as well
            verified = farm("verify", ordeal.rehearsal.run, "--json")
            assert verified.json["ok"], verified.err
            s3_env(ceph)
            _assert_whole(ordeal.rehearsal)
            _assert_faults_were_waited_out(ordeal, figure)
    log = ordeals[0].rehearsal.log.read_text()  # with Ray each worker has a log of its own
    _assert_the_log_says_what_it_waits_for(log[before_outage["in one process"] :])


def _assert_faults_were_waited_out(ordeal: Ordeal, figure: Figure) -> None:
    storm = ordeal.storm
    figure(f"faulty store: faults made, {ordeal.where}", storm.figures())
    figure(f"faulty store: outage in s, {ordeal.where}", OUTAGE_S)
    # what passes costs waiting, and no attempt
    assert "attempt failed" not in ordeal.rehearsal.log.read_text()
    for kind in RATES:
        assert storm.made[kind] > 0, f"no fault of kind {kind!r}: {storm.figures()}"
    assert storm.made.total() > len(storm.seen) / 4


def _assert_whole(rehearsal: Rehearsal) -> None:
    verdict = rehearsal.check()
    assert verdict.whole, verdict
    assert verdict.done_rows == verdict.planned_rows == verdict.samples


def _assert_the_log_says_what_it_waits_for(log: str) -> None:
    waits = list(waits_in(log))
    refused = [wait for wait in waits if "Could not connect" in wait["error"]]
    assert refused, log
    assert all(wait["operation"] for wait in refused)
    assert all(wait["key"].startswith(("receipts/", "data/", "driver/")) for wait in refused)
    first, late = _seconds(waits, range(1, 2)), _seconds(waits, range(4, 100))
    assert len(set(first)) > 20, "waits without jitter"
    assert late, "no request was tried more than three times"
    assert max(late) > 2 * max(first), "waits that do not grow"


def _seconds(waits: list[dict[str, str]], attempts: range) -> list[float]:
    return [float(wait["wait_s"]) for wait in waits if int(wait["attempt"]) in attempts]


def test_a_run_goes_on_by_itself_after_kill_9_of_the_server(
    s3_env: Lead, bucket_on: Callable[[CephServer], str], tmp_path: Path, figure: Figure
) -> None:
    """The gateway alone, then everything that the store is made of."""
    with CephServer(durable=True) as server:
        s3_env(server)
        rehearsal = make_rehearsal(bucket_on(server), tmp_path, shards=60)
        receipts = rehearsal.receipts_counter()
        kills = (("rgw",), DAEMONS)
        with rehearsal.rendering() as driver:
            for number, daemons in enumerate(kills, start=1):
                driver.wait_until(lambda least=15 * number: receipts() >= least)
                server.kill(*daemons)
                server.restart(*daemons)
            assert driver.finish() == 0, driver.log()
        _assert_whole(rehearsal)
    killed = sum(map(len, kills))
    figure("faulty store: daemons of the server killed with -9 during a run", killed)
    assert list(waits_in(rehearsal.log.read_text()))
