"""Stores that refuse in the middle of a run: it stops with exit 4, says why, and can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.end_to_end.farm import farm
from tests.fire.rehearsals import make_rehearsal
from tests.servers.ceph import CephServer

pytestmark = [pytest.mark.ceph, pytest.mark.timeout(600)]

SHARDS = 80
USER = "--uid=render-farm"


@dataclass(frozen=True)
class Refusal:
    """A way in which a store refuses: `begin` it, `end` it, and words of the reason."""

    begin: Callable[[CephServer, str], object]
    end: Callable[[CephServer, str], object]
    words: tuple[str, ...]


def fill(server: CephServer, bucket: str) -> None:
    scope = ("--quota-scope=bucket", "--bucket", bucket)
    server.admin("quota", "set", *scope, "--max-objects=1")
    server.admin("quota", "enable", *scope)


def make_room(server: CephServer, bucket: str) -> None:
    server.admin("quota", "disable", "--quota-scope=bucket", "--bucket", bucket)


def deny_writes(server: CephServer, bucket: str) -> None:
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["s3:PutObject", "s3:DeleteObject"],
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    document = {"Version": "2012-10-17", "Statement": [statement]}
    boto3.client("s3").put_bucket_policy(Bucket=bucket, Policy=json.dumps(document))


def allow_writes(server: CephServer, bucket: str) -> None:
    boto3.client("s3").delete_bucket_policy(Bucket=bucket)


REFUSALS = {
    "a full bucket": Refusal(fill, make_room, ("quota", "used up", "raise it")),
    "a read-only bucket": Refusal(
        deny_writes, allow_writes, ("permission refused", "PutObject", "credentials")
    ),
    "a suspended user": Refusal(
        lambda server, bucket: server.admin("user", "suspend", USER),
        lambda server, bucket: server.admin("user", "enable", USER),
        ("suspended", "enabled again"),
    ),
}


def test_a_run_stops_whenever_the_store_refuses_and_resumes_when_it_no_longer_does(
    ceph: CephServer,
    s3_env: Callable[[Any], None],
    bucket_on: Callable[[CephServer], str],
    tmp_path: Path,
    figure: Callable[[str, object], None],
) -> None:
    """One run meets one refusal after another."""
    s3_env(ceph)
    bucket = bucket_on(ceph)
    rehearsal = make_rehearsal(bucket, tmp_path, SHARDS)
    receipts = rehearsal.receipts_counter()
    command: tuple[object, ...] = ("submit", rehearsal.job, "--json")
    for name, refusal in REFUSALS.items():
        before = receipts()
        with rehearsal.rendering(*command) as driver:
            driver.wait_until(lambda least=before + 5: receipts() >= least)
            with _in_force(refusal, ceph, bucket):
                assert driver.finish() == 4, (name, driver.log())
        log = rehearsal.log.read_text()
        for word in (*refusal.words, "resume"):
            assert word in log, (name, log)
        assert before < receipts() < SHARDS
        command = ("resume", rehearsal.run, "--json")
    assert farm(*command, "--local").code == 0
    verdict = rehearsal.check()
    assert verdict.whole, verdict
    assert verdict.done_rows == verdict.planned_rows
    figure("refusing store: stops with exit 4 and a reason, then resumed", ", ".join(REFUSALS))


@contextmanager
def _in_force(refusal: Refusal, server: CephServer, bucket: str) -> Iterator[None]:
    refusal.begin(server, bucket)
    try:
        yield
    finally:
        refusal.end(server, bucket)
