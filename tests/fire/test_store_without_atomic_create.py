"""Stores whose conditional create is not atomic: refused at the submit, or taken with a warning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from render_farm.store.open import open_store
from render_farm.store.probe import WITHOUT_ATOMIC_CREATE, unfair_race
from tests.end_to_end.farm import farm
from tests.fire.rehearsals import make_rehearsal
from tests.servers import swift
from tests.servers.racy import RacyServer

pytestmark = pytest.mark.timeout(600)

RACES = 10
SERVERS = [
    RacyServer,
    pytest.param(
        swift.SwiftServer,
        marks=pytest.mark.skipif(not swift.is_installed(), reason="no Swift at SWIFT_VENV"),
    ),
]


@pytest.mark.parametrize("kind", SERVERS)
def test_a_store_without_it_is_refused_before_anything_is_written(
    kind: Any,
    s3_env: Callable[[Any], None],
    tmp_path: Path,
    figure: Callable[[str, object], None],
) -> None:
    with kind() as server:
        s3_env(server)
        rehearsal = make_rehearsal(server.make_bucket("fire-no-cas"), tmp_path, shards=4, files=1)
        ended = farm("submit", rehearsal.job, "--local", "--json")
        assert ended.code == 2, ended.err
        (error,) = ended.json["errors"]
        assert error["field"] == "output.uri"
        assert "winners of 8" in error["value"]
        assert "--allow-no-cas" in error["fix"]
        store = open_store(rehearsal.run)
        assert list(store.list()) == []
        races = [unfair_race(store, "driver/probe", rounds=1) for _ in range(RACES)]
        unfair = sum(race is not None for race in races)
        # A submit runs five races: one that is unfair in two of ten is refused nine times in ten.
        assert unfair >= 2
        figure(f"atomic create: unfair races of {kind.__name__}, of {RACES}", unfair)
        ended = farm("submit", rehearsal.job, "--local", "--allow-no-cas")
        assert ended.code == 0, ended.err
        assert "one driver at a time" in " ".join(ended.err.split())
        assert rehearsal.check().whole


def test_what_is_weaker_without_it_is_said_in_plain_words() -> None:
    for word in ("not atomic", "one driver at a time", "cancel", "sweep", "render-farm verify"):
        assert word in WITHOUT_ATOMIC_CREATE.lower()
    assert all(len(line) <= 100 for line in WITHOUT_ATOMIC_CREATE.splitlines())
