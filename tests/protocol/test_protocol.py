"""The protocol keeps its promises in every state that it can come to, and only as it is.

All attempts, crashes, lost answers, late requests, sweeps, cancellers and drivers of a small world
are tried in every order. Then the protocol is spoilt in one place after another, and each time
the search has to find the way in which a result is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.protocol import attempts, sweeps
from tests.protocol.model import EVERY_STEP, RESULT, Ledger, Promise
from tests.protocol.search import Searched, search, search_for_traps
from tests.protocol.state import Bug, Config

FEWEST_STATES = 1_000_000

SOUND = {
    "two objects an attempt, a sweep and a cancel": Config(objects=2),
    "three attempts and a sweep": Config(shards=(0, 0, 0), cancellers=0),
    "two shards, a sweep and a cancel": Config(shards=(0, 1)),
    "two drivers": Config(drivers=2, sweeps=0, cancellers=0),
    "a driver and a cancel": Config(drivers=1, sweeps=0),
}

SPOILT = [
    (Bug.PLAIN_PUT, Promise.FINAL, attempts.Did.CREATES),
    (Bug.LOOK_THEN_PUT, Promise.FINAL, attempts.Mistake.PUTS),
    (Bug.PUT_AGAIN, Promise.FINAL, attempts.Mistake.PUTS),
    (Bug.RECEIPT_PER_ATTEMPT, Promise.ONE, attempts.Did.CREATES),
    (Bug.UNKNOWN_IS_DONE, Promise.DONE, attempts.Did.CREATE_NEVER_ARRIVED),
    (Bug.EXISTS_IS_LOST, Promise.LOST, attempts.Did.CREATE_EXISTS),
    (Bug.UNREADABLE_IS_LOST, Promise.LOST, attempts.Did.READ_FAILS),
    (Bug.CLEANS_UP_AFTER_UNKNOWN, Promise.THERE, attempts.Mistake.CLEANS),
    (Bug.RECEIPT_FIRST, Promise.THERE, attempts.Did.CREATES),
    (Bug.UPLOAD_ERRORS_PASS, Promise.THERE, attempts.Did.CREATES),
    (Bug.SHARED_KEYS, Promise.THERE, attempts.Did.UPLOADS),
    (Bug.RENDERS_AGAIN, Promise.THERE, "network: a late put arrives"),
    (Bug.LOSER_DELETES_RECEIPT, Promise.FINAL, attempts.Did.WITHDRAWS),
    (Bug.SWEEP_BY_AGE, Promise.SWEPT, sweeps.Mistake.FINDS_OLD),
    (Bug.SWEEP_READS_FIRST, Promise.SWEPT, sweeps.Did.LISTS),
    (Bug.SWEEP_TAKES_UNREADABLE, Promise.SWEPT, sweeps.Mistake.CANNOT_READ),
    (Bug.CANCEL_PUTS, Promise.FINAL, "cancel: creates the receipt"),
    (Bug.CANCEL_BY_MARK, Promise.CANCELLED, "cancel: creates cancel.json"),
    (Bug.LEASE_ALONE, Promise.FINAL, attempts.Mistake.PUTS),
    (Bug.TAKEOVER_CLEANS, Promise.THERE, attempts.Did.CREATES),
    (Bug.MANIFEST_BY_HEARSAY, Promise.MANIFEST, "driver: puts the manifest"),
]
"""A mistake, the first promise that it breaks, and the step that breaks it."""

STUCK = {
    Bug.LOCK: Config(cancellers=0, steadfast=True),
    Bug.LEASE_FOR_EVER: Config(drivers=2, sweeps=0, cancellers=0, steadfast=True),
}


def spoilt(bug: Bug) -> Config:
    """The smallest world in which it shows."""
    drives = bug in (Bug.LEASE_ALONE, Bug.TAKEOVER_CLEANS, Bug.MANIFEST_BY_HEARSAY)
    if drives:
        return Config(drivers=2, sweeps=0, cancellers=0, bug=bug)
    cancels = bug in (Bug.CANCEL_PUTS, Bug.CANCEL_BY_MARK)
    return Config(cancellers=int(cancels), bug=bug)


@pytest.fixture(scope="module")
def searches() -> dict[str, Searched]:
    """What was found so far, by the name of the world."""
    return {}


@pytest.mark.parametrize("name", SOUND)
def test_every_promise_holds_in_every_state(name: str, searches: dict[str, Searched]) -> None:
    found = searches[name] = search(Ledger(SOUND[name]))
    assert found.violation is None, str(found.violation)


@pytest.fixture
def all_searches(searches: dict[str, Searched]) -> dict[str, Searched]:
    """Every world's search; those that a selection of tests left out are made now."""
    for name, config in SOUND.items():
        if name not in searches:
            searches[name] = search(Ledger(config))
    return searches


def test_more_than_a_million_states_were_searched(
    all_searches: dict[str, Searched], figure: Callable[[str, object], None]
) -> None:
    states = sum(found.states for found in all_searches.values())
    steps = sum(found.fired.total() for found in all_searches.values())
    figure("protocol model: states searched", states)
    figure(
        "protocol model: states of the biggest world", max(f.states for f in all_searches.values())
    )
    figure("protocol model: steps taken", steps)
    figure("protocol model: depth", max(found.depth for found in all_searches.values()))
    assert states >= FEWEST_STATES


def test_everything_that_can_happen_did(
    all_searches: dict[str, Searched], figure: Callable[[str, object], None]
) -> None:
    """A step that is never taken proves nothing."""
    fired = sum((found.fired for found in all_searches.values()), Counter())
    assert set(fired) == EVERY_STEP
    figure("protocol model: kinds of steps, each taken", len(fired))


@pytest.mark.parametrize(
    ("bug", "promise", "last_step"), SPOILT, ids=[bug.name for bug, _, _ in SPOILT]
)
def test_a_mistake_is_caught(bug: Bug, promise: Promise, last_step: str) -> None:
    violation = search(Ledger(spoilt(bug))).violation
    assert violation is not None, f"not caught: {bug}"
    assert violation.promise == promise, str(violation)
    assert violation.trace[-1][0] == last_step, str(violation)


@pytest.mark.parametrize(
    "bug", [bug for bug, promise, _ in SPOILT if promise in (Promise.LOST, Promise.SWEPT)]
)
def test_a_wrong_belief_or_a_wrong_delete_ends_in_a_lost_result(bug: Bug) -> None:
    violation = search(Ledger(spoilt(bug), RESULT)).violation
    assert violation is not None
    assert violation.promise == Promise.THERE, str(violation)


@pytest.mark.parametrize(
    "config",
    [
        Config(shards=(0, 0), cancellers=0, steadfast=True),
        Config(shards=(0, 0, 0), sweeps=0, cancellers=0, steadfast=True),
        Config(shards=(0,), cancellers=2, steadfast=True),
        Config(drivers=2, sweeps=0, cancellers=0, steadfast=True),
    ],
    ids=["an attempt", "an attempt of three", "a canceller", "a driver"],
)
def test_one_that_lives_can_always_close_every_shard(config: Config) -> None:
    """Whatever the others left behind, at whatever moment they died."""
    model = Ledger(config)
    states, trap = search_for_traps(model, model.closed)
    assert trap is None, str(trap)
    assert states > 1000


@pytest.mark.parametrize("bug", STUCK, ids=lambda bug: bug.name)
def test_what_outlives_its_maker_is_caught_as_a_trap(bug: Bug) -> None:
    model = Ledger(replace(STUCK[bug], bug=bug))
    _, trap = search_for_traps(model, model.closed)
    assert trap is not None, f"not caught: {bug}"
    assert trap.trace[-1][0] in ("attempt: cannot upload", "driver: dies"), str(trap)


def test_every_mistake_has_its_case(figure: Callable[[str, object], None]) -> None:
    assert {bug for bug, _, _ in SPOILT} | set(STUCK) == set(Bug)
    figure("protocol model: seeded bugs, each caught", len(Bug))
