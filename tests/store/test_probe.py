"""The probe finds stores whose create is not atomic."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from render_farm.errors import AccessDenied, AlreadyExists, InputError, Unavailable, Unknown
from render_farm.store.base import Store
from render_farm.store.memory import MemoryStore
from render_farm.store.probe import Race, probe_atomic_create


class CheckThenPut(MemoryStore):
    """Like Swift's S3 interface: looks, then writes."""

    def create(self, key: str, data: bytes) -> None:
        if list(self.list(key)):
            raise AlreadyExists(self.uri, key, "there is an object already")
        time.sleep(0.01)
        self.put(key, data)


class Ignoring(MemoryStore):
    """Takes no notice of the condition."""

    def create(self, key: str, data: bytes) -> None:
        self.put(key, data)


class Refusing(MemoryStore):
    """Nobody ever wins."""

    def create(self, key: str, data: bytes) -> None:
        raise AlreadyExists(self.uri, key, "there is an object already")


class Corrupting(MemoryStore):
    """One wins, and other bytes are stored."""

    def create(self, key: str, data: bytes) -> None:
        super().create(key, data[::-1])


class Deaf(MemoryStore):
    """Atomic, but loses every answer; `applies` says whether before or after the write."""

    applies = True

    def create(self, key: str, data: bytes) -> None:
        if self.applies:
            with suppress(AlreadyExists):
                super().create(key, data)
        raise Unknown(self.uri, key, "no answer")


class Denied(MemoryStore):
    def create(self, key: str, data: bytes) -> None:
        raise AccessDenied(self.uri, key, "permission refused")


def test_a_store_with_atomic_create_passes_and_keeps_nothing(store: Store) -> None:
    probe_atomic_create(store, "driver/probe")
    assert list(store.list()) == []


@pytest.mark.parametrize("kind", [CheckThenPut, Ignoring, Refusing, Corrupting])
def test_a_store_without_it_is_refused_and_keeps_nothing(kind: type[MemoryStore]) -> None:
    store = kind()
    with pytest.raises(InputError) as caught:
        probe_atomic_create(store, "driver/probe")
    (problem,) = caught.value.problems
    assert problem.field == "output.uri"
    assert problem.allowed == "a store with atomic conditional writes"
    assert "--allow-no-cas" in problem.fix
    assert list(store.list()) == []


def test_lost_answers_are_settled_by_reading_back() -> None:
    probe_atomic_create(Deaf(), "driver/probe")


def test_faults_alone_do_not_condemn_a_store() -> None:
    store = Deaf()
    store.applies = False
    with pytest.raises(Unavailable, match="no outcome"):
        probe_atomic_create(store, "driver/probe")


def test_a_refusal_is_handed_on() -> None:
    with pytest.raises(AccessDenied):
        probe_atomic_create(Denied(), "driver/probe")


@pytest.mark.parametrize(
    ("race", "fair"),
    [
        (Race(("created", "exists"), 0), True),
        (Race(("exists", "created"), 0), False),
        (Race(("created", "created"), 0), False),
        (Race(("exists", "exists"), 1), True),
        (Race(("unknown", "exists"), 0), True),
        (Race(("unknown", "created"), 0), False),
        (Race(("created", "exists"), None), False),
        (Race(("exists", "exists"), None), False),
    ],
)
def test_a_race_is_fair_when_the_one_winner_is_stored(race: Race, *, fair: bool) -> None:
    assert race.fair is fair
