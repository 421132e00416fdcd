"""Finding out whether a store's `create` is atomic, by racing for keys."""

from __future__ import annotations

import logging
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Barrier
from typing import Literal

from render_farm.errors import AlreadyExists, InputError, NotFound, StoreError, Unavailable, Unknown
from render_farm.store.base import Store

logger = logging.getLogger(__name__)

UNDECIDED_TRIES = 5

WITHOUT_ATOMIC_CREATE = """\
this store's conditional create is not atomic, and --allow-no-cas goes on without it. It is weaker:
  - Two attempts that commit one shard at the same moment may both be told that they won. The
    receipt written last stands, and what was counted or swept by the earlier one is then wrong.
  - Such attempts come from two drivers, or from a worker that was taken for dead and lives. So run
    one driver at a time, and resume only when the driver before it and its workers have ended.
  - A cancel is not final: a shard that is being committed may still end as rendered.
  - Sweep and cancel only while nothing renders.
Rows that only one attempt renders are as safe as elsewhere. Before the result is used, run
render-farm verify: it finds every shard whose images are not those of its receipt."""
"""What `submit` says, once, where it goes on with a store that `unfair_race` has found wanting."""


@dataclass(frozen=True, slots=True)
class Race:
    """How one race for a key went: who said what, and whose bytes the store holds afterwards.

    The stored bytes decide for `unknown` answers, and for `exists`, which may be a rival's own
    write whose answer was lost.
    """

    answers: tuple[Literal["created", "exists", "unknown"], ...]
    stored_of: int | None

    @property
    def undecided(self) -> bool:
        """Nothing was stored, and an answer is missing: faults, which say nothing of the store."""
        return self.stored_of is None and "unknown" in self.answers

    @property
    def winners(self) -> set[int]:
        """Those who were told that they won, and the one whose bytes are there."""
        told = {rival for rival, answer in enumerate(self.answers) if answer == "created"}
        return told if self.stored_of is None else told | {self.stored_of}

    @property
    def fair(self) -> bool:
        """Exactly one winner, and the store holds its bytes."""
        return self.stored_of is not None and self.winners == {self.stored_of}


def probe_atomic_create(store: Store, prefix: str, *, rivals: int = 8, rounds: int = 5) -> None:
    """Race `rivals` threads for a new key below `prefix`, `rounds` times; returns if all is well.

    Raises:
        InputError: a race had no winner, or several.
        Unavailable, AccessDenied: as `unfair_race`.
    """
    race = unfair_race(store, prefix, rivals=rivals, rounds=rounds)
    if race is not None:
        found = f"{store.uri} (create had {len(race.winners)} winners of {rivals})"
        raise InputError.of(
            "output.uri",
            found,
            "a store with atomic conditional writes",
            "choose another store; or, with one driver only and at the risk of shards "
            "committed twice, pass --allow-no-cas",
        )


def unfair_race(store: Store, prefix: str, *, rivals: int = 8, rounds: int = 5) -> Race | None:
    """The first of several races for a new key that had no winner, or several; None if all is well.

    The keys are random, below `prefix`, and deleted afterwards, whatever happens.

    Raises:
        Unavailable: the answers stayed unknown.
        AccessDenied: the store cannot be written.
    """
    for _ in range(rounds):
        race = _decided_race(store, prefix, rivals)
        if not race.fair:
            return race
    return None


def _decided_race(store: Store, prefix: str, rivals: int) -> Race:
    for _ in range(UNDECIDED_TRIES):
        race = _race(store, f"{prefix.rstrip('/')}/{secrets.token_hex(16)}", rivals)
        if not race.undecided:
            return race
        logger.warning(
            "no answer to any create of the probe, racing again", extra={"rivals": rivals}
        )
    raise Unavailable(store.uri, prefix, f"{UNDECIDED_TRIES} races to create a key had no outcome")


def _race(store: Store, key: str, rivals: int) -> Race:
    start = Barrier(rivals)

    def create(rival: int) -> Literal["created", "exists", "unknown"]:
        start.wait()
        try:
            store.create(key, _bytes_of(key, rival))
        except AlreadyExists:
            return "exists"
        except Unknown:
            return "unknown"
        return "created"

    try:
        with ThreadPoolExecutor(rivals) as pool:
            answers = tuple(pool.map(create, range(rivals)))
        return Race(answers, _stored_of(store, key, rivals))
    finally:
        with suppress(StoreError):
            store.delete(key)


def _stored_of(store: Store, key: str, rivals: int) -> int | None:
    try:
        stored = store.get(key)
    except NotFound:
        return None
    return next((rival for rival in range(rivals) if stored == _bytes_of(key, rival)), None)


def _bytes_of(key: str, rival: int) -> bytes:
    return f"{key} {rival}".encode()
