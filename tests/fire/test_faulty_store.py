"""Runs on a store that fails all the time, for a while, or dies: they wait, and end whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.farm import farm
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
RAY = pytest.param(
    False,
    id="Ray",
    marks=[pytest.mark.ray, pytest.mark.skipif(not LONG, reason="set STORM=1 for it")],
)


@pytest.mark.parametrize("local", [pytest.param(True, id="local"), RAY])
def test_a_run_through_a_storm_of_faults_and_an_outage_is_whole(
    ceph: CephServer,
    s3_env: Lead,
    bucket_on: Callable[[CephServer], str],
    tmp_path: Path,
    figure: Figure,
    *,
    local: bool,
) -> None:
    with StormProxy(ceph, SEED) as storm:
        s3_env(ceph)
        rehearsal = make_rehearsal(bucket_on(ceph), tmp_path, SHARDS)
        receipts = rehearsal.receipts_counter()
        s3_env(storm)
        with rehearsal.rendering(local=local) as driver:
            driver.wait_until(lambda: receipts() >= SHARDS // 3)
            before_outage = len(rehearsal.log.read_text())
            storm.refuse_connections_for(OUTAGE_S)
            assert driver.finish() == 0, driver.log()
        verified = farm("verify", rehearsal.run, "--json")
    log = rehearsal.log.read_text()
    where = "in one process" if local else "with Ray"
    figure(f"faulty store: faults made, {where}", storm.figures())
    figure(f"faulty store: outage in s, {where}", OUTAGE_S)
    assert "attempt failed" not in log  # what passes costs waiting, and no attempt
    for kind in RATES:
        assert storm.made[kind] > 0, f"no fault of kind {kind!r}: {storm.figures()}"
    assert storm.made.total() > len(storm.seen) / 4
    assert verified.json["ok"], verified.err  # read back through the storm as well
    s3_env(ceph)
    _assert_whole(rehearsal)
    if local:  # with Ray each worker has a log of its own
        _assert_the_log_says_what_it_waits_for(log[before_outage:])


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
