"""What a run must be when the storm is over, and what it cost."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from render_farm.cli.main import app
from tests.set_checker import SetVerdict, bucket_blobs, check_set
from tests.storm.journal import Journal
from tests.storm.runs import Run

MOST_IN_HAND = 9
"""Three workers with three shards each."""


@dataclass(frozen=True)
class End:
    """How a run ended. Rows are counted as often as an attempt took them to render.

    `helped` are second attempts at the tail, `allowed` the rows of shards that were open at a death
    or helped; `unexplained` tells of the attempts at shards that were begun more often than that.
    """

    run: Run
    verdict: SetVerdict
    orphans_swept: int
    again: int
    helped: int
    allowed: int
    unexplained: dict[int, str]


def command(*arguments: object) -> tuple[int, Any]:
    """`render-farm … --json` in this process: exit code and answer."""
    with tempfile.TemporaryFile() as said:
        kept = os.dup(1)
        os.dup2(said.fileno(), 1)
        try:
            code = app([*map(str, arguments), "--json"], standalone_mode=False)
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        said.seek(0)
        return int(code or 0), json.loads(said.read())


def check_end(run: Run, journal: Journal, open_at_deaths: Mapping[int, int]) -> End:
    """Hold a run against its input, with and without the product's own eyes, and sweep it."""
    won = Counter(a.shard for a in journal.of_run(run.key) if a.won_s is not None)
    assert won == Counter(range(run.shards)), f"{run.uri}: the store told {won} that they won"
    verdict = check_set(run.prompts, bucket_blobs(run.bucket, run.name), shard_rows=run.shard_rows)
    assert verdict.whole, f"{run.uri}: {verdict}\n{_attempts(run, journal)}"
    code, said = command("verify", run.uri)
    assert (code, said["ok"]) == (0, True), f"{run.uri}: {said}"
    assert said["samples"] == verdict.samples, f"{run.uri}: {said}, {verdict}"
    code, swept = command("sweep", run.uri)
    assert code == 0, f"{run.uri}: {swept}"
    code, after = command("verify", run.uri)
    assert (code, after["orphans"]) == (0, 0), f"{run.uri}: {after}"
    taken, tries = Counter[int](), Counter[int]()
    for attempt in journal.of_run(run.key):
        taken[attempt.shard] += len(attempt.rows)
        tries[attempt.shard] += 1
    allowed = Counter(open_at_deaths) + journal.helped(run.key, run.shards, MOST_IN_HAND)
    unexplained = {
        shard: _attempts(run, journal, shard)
        for shard, count in tries.items()
        if count - 1 > allowed[shard]
    }
    return End(
        run=run,
        verdict=verdict,
        orphans_swept=said["orphans"],
        again=taken.total() - run.rows,
        helped=allowed.total() - sum(open_at_deaths.values()),
        allowed=allowed.total() * run.shard_rows,
        unexplained=unexplained,
    )


def _attempts(run: Run, journal: Journal, shard: int | None = None) -> str:
    attempts = journal.of_run(run.key)
    return "\n".join(str(each) for each in attempts if shard in (None, each.shard))
