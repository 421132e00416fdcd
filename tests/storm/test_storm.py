"""Kill storms on real parts: several raylets, Ceph, drivers that are processes of their own.

``STORM`` says how much of the measure of CI there is to be: unset a tenth of it, 10 for `make
storm`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.storm.ends import End, check_end
from tests.storm.field import Field
from tests.storm.races import Race, run_races
from tests.storm.storm import Plan, Storm

SCALE = float(os.environ.get("STORM", "0.1"))
RACES_AT_ONCE = 2

pytestmark = [pytest.mark.ceph, pytest.mark.ray, pytest.mark.timeout(7200)]

Figure = Callable[[str, object], None]


def test_a_storm_of_kills_loses_nothing_doubles_nothing_and_repeats_only_what_was_open(
    field: Field, near: None, figure: Figure
):
    plan = Plan(
        workers=scaled(100),
        drivers=scaled(10),
        raylets=scaled(5),
        zombies=scaled(3),
        shards=round(16 + 8 * SCALE),
    )
    size = {"width": 128, "height": 128}
    storm = Storm(field, "storm", plan, defaults=size, workers={"count": 3, "batch_size": 8})
    ends = rage(storm, field)
    say("storm", storm, ends, figure)
    assert_as_planned(storm, plan)
    assert_explained(ends, storm)
    assert not storm.victims.with_torch
    assert any(zombie.wrote_too_late for zombie in storm.zombies)


@pytest.mark.skipif(SCALE < 1, reason="STORM=1 and above: workers that import torch are slow")
def test_a_storm_over_workers_with_a_real_model_is_no_different(
    field: Field, near: None, figure: Figure
):
    plan = Plan(workers=3, drivers=1, raylets=0, zombies=0, shards=12, rows=16, lanes=1)
    storm = Storm(
        field,
        "model",
        plan,
        model={"path": str(Path("jobs/scenes/model").absolute()), "engine": "steps"},
        defaults={"width": 64, "height": 64, "steps": 4, "scheduler": "ddim"},
        workers={"count": 2, "batch_size": 8},
    )
    ends = rage(storm, field)
    say("storm over a real model", storm, ends, figure)
    assert_as_planned(storm, plan)
    assert_explained(ends, storm)
    assert storm.victims.with_torch == storm.victims.workers.keys()


def test_two_drivers_on_a_run_from_the_start_make_it_once(field: Field, near: None, figure: Figure):
    began_s = time.monotonic()
    races: list[Race] = []
    count = scaled(20)
    while len(races) < count:
        numbers = range(len(races), min(count, len(races) + RACES_AT_ONCE))
        races += [Race(field, f"race-{n}", 6, 8, workers={"count": 1}) for n in numbers]
        run_races(field, races[numbers.start :])
    ends = [check_end(race.run, field.journal, {}) for race in races]
    contested = [race.contested() for race in races]
    refused = [race.refused() for race in races]
    figure(
        "races: runs, and those in which both drivers began a shard",
        shown(count, len(races) - contested.count(0)),
    )
    figure("races: seconds, with checking", round(time.monotonic() - began_s))
    figure("races: drivers that finished, and that stood down", shown(*codes(ends)))
    figure(
        "races: shards, and those that both drivers began",
        shown(sum(e.run.shards for e in ends), sum(contested)),
    )
    figure("races: attempts refused because the other had won", sum(refused))
    figure(
        "races: rows, and rows rendered twice, at most",
        shown(sum(e.run.rows for e in ends), sum(e.again for e in ends)),
    )
    figure("races: lost, duplicated, unexpected, corrupt", shown(*defects(ends)))
    # Few races may by chance find one driver told to stand down before the other has a worker.
    assert any(refused) or count < 20


def scaled(count: int) -> int:
    return max(1, round(count * SCALE))


def rage(storm: Storm, field: Field) -> list[End]:
    try:
        storm.rage()
    finally:
        storm.stop()
    open_at_deaths = storm.victims.open_at_deaths()
    return [check_end(run, field.journal, open_at_deaths.get(run.key, {})) for run in storm.runs]


def assert_as_planned(storm: Storm, plan: Plan) -> None:
    kills = Counter(death.kind for death in storm.victims.deaths)
    planned = (plan.workers, plan.drivers, plan.raylets)
    assert (kills["worker"], kills["driver"], kills["raylet"]) == planned
    assert kills["zombie"] >= plan.zombies


def assert_explained(ends: list[End], storm: Storm) -> None:
    """Each attempt beyond a shard's first follows a death at which that very shard was open.

    Or it is a second attempt at the tail: when workers had nothing else to do.
    """
    deaths = "\n".join(map(str, storm.victims.deaths))
    for end in ends:
        for shard, attempts in end.unexplained.items():
            pytest.fail(f"{end.run.name}, shard {shard}:\n{attempts}\n\nDeaths:\n{deaths}")
    assert sum(end.again for end in ends) <= sum(end.allowed for end in ends)


def say(title: str, storm: Storm, ends: list[End], figure: Figure) -> None:
    kills = Counter(death.kind for death in storm.victims.deaths)
    late = sum(zombie.wrote_too_late for zombie in storm.zombies)
    met, torch = len(storm.victims.workers), len(storm.victims.with_torch)

    def total(what: Callable[[End], int]) -> int:
        return sum(map(what, ends))

    deadly = [kills[kind] for kind in ("worker", "driver", "raylet")]
    size = [len(ends), total(lambda e: e.run.shards), total(lambda e: e.run.rows)]
    for name, value in {
        "kills of workers, drivers, raylets": shown(*deadly),
        "zombies, and those that uploaded after they had lost": shown(kills["zombie"], late),
        "raylets that this machine was too busy for": kills["stray"],
        "workers killed at": ", ".join(f"{n} {step}" for step, n in sorted(storm.steps.items())),
        "seconds, without checking": round(storm.seconds),
        "workers met, and those with torch in memory": shown(met, torch),
        "runs, shards, rows": shown(*size),
        "lost, duplicated, unexpected, corrupt": shown(*defects(ends)),
        "rows quarantined for ending two processes": total(lambda e: e.verdict.quarantined_rows),
        "rows rendered again, at most": total(lambda e: e.again),
        "shards that were helped at the tail": total(lambda e: e.helped),
        "rows of the shards open at the kills or helped": total(lambda e: e.allowed),
        "orphans swept": total(lambda e: e.orphans_swept),
        "drivers that stopped before the end": len(storm.stops),
    }.items():
        figure(f"{title}: {name}", value)


def shown(*values: object) -> str:
    return " / ".join(map(str, values))


def defects(ends: list[End]) -> tuple[int, ...]:
    kinds = ("lost", "duplicated", "unexpected", "corrupt")
    return tuple(sum(len(getattr(end.verdict, kind)) for end in ends) for kind in kinds)


def codes(ends: list[End]) -> tuple[int, int]:
    counts = Counter(code for end in ends for code in end.run.codes)
    return counts[0], counts[4]
