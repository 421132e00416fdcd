"""What is known of the attempts at an open shard: failures so far, and rows in flight.

Advisory: losing one of these objects costs work, never a result. A worker notes which rows it is
about to render, so that when its process dies the next attempt knows whom to suspect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from datetime import datetime
from typing import Literal

from pydantic import ValidationError

from render_farm.errors import NotFound
from render_farm.ledger import keys
from render_farm.ledger.receipt import LedgerModel
from render_farm.store.base import Store

End = Literal["error", "process", "unseen"]


class Failure(LedgerModel):
    """One attempt that did not end in a receipt. `in_flight` is what it was rendering.

    `end` is ``error`` if it was told, ``process`` if a driver saw its process die, ``unseen`` if
    the driver or the whole node was gone as well: that is seldom a row's fault.
    """

    attempt: str | None
    worker: str
    error_type: str
    error: str
    at: datetime
    in_flight: tuple[int, ...] = ()
    end: End = "error"


class Current(LedgerModel):
    """The attempt under way."""

    attempt: str
    worker: str
    started_at: datetime
    in_flight: tuple[int, ...] = ()


class AttemptLog(LedgerModel):
    """All there is about a shard that has no receipt yet; `failed` once its attempts are used."""

    shard: int
    failures: tuple[Failure, ...] = ()
    current: Current | None = None
    failed: bool = False

    def taken_up(self, now: datetime) -> AttemptLog:
        """As a new driver finds it: the attempt under way has ended and nobody saw how."""
        if self.current is None:
            return self.model_copy(update={"failed": False})
        unseen = Failure(
            attempt=self.current.attempt,
            worker=self.current.worker,
            error_type="unseen",
            error="the driver ended before this attempt did",
            at=now,
            in_flight=self.current.in_flight,
            end="unseen",
        )
        failures = (*self.failures, unseen)
        return self.model_copy(update={"failed": False, "current": None, "failures": failures})

    @property
    def ended_a_process(self) -> bool:
        """Whether a process ended with the shard in hand: the next attempt is to have one alone."""
        return any(failure.end != "error" for failure in self.failures)

    def suspects(self) -> frozenset[int]:
        """Rows that may end a process: to be rendered in batches of their own."""
        return _suspects(self._deaths())

    def condemned(self) -> frozenset[int]:
        """Rows that were alone in flight at the end of a process when they were suspects."""
        deaths = self._deaths()
        alone = (
            rows & _suspects(deaths[:number])
            for number, (rows, _) in enumerate(deaths)
            if len(rows) == 1
        )
        return frozenset().union(*alone)

    def _deaths(self) -> list[_Death]:
        return [
            (frozenset(failure.in_flight), failure.end == "process")
            for failure in self.failures
            if failure.end != "error"
        ]


_Death = tuple[frozenset[int], bool]


def _suspects(deaths: Sequence[_Death]) -> frozenset[int]:
    """In flight at a death that was seen, or at two ends of any kind."""
    ends = Counter(row for rows, _ in deaths for row in rows)
    seen = frozenset().union(*(rows for rows, was_seen in deaths if was_seen))
    return seen | {row for row, count in ends.items() if count > 1}


def read_attempts(store: Store, shard: int) -> AttemptLog:
    """The log of a shard; an empty one if there is none or it cannot be understood."""
    try:
        return AttemptLog.model_validate_json(store.get(keys.attempts(shard)))
    except (NotFound, ValidationError):
        return AttemptLog(shard=shard)


def noted_ago(store: Store, shard: int, worker: str) -> float | None:
    """Seconds, by the store's clock, since the worker noted what of the shard it renders."""
    key = keys.attempts(shard)
    current = read_attempts(store, shard).current
    if current is None or current.worker != worker:
        return None
    try:
        return (store.now() - store.head(key).modified_at).total_seconds()
    except NotFound:
        return None


def write_attempts(store: Store, log: AttemptLog) -> None:
    """Replace the log of a shard."""
    store.put(keys.attempts(log.shard), log.model_dump_json().encode())


def record_failure(
    store: Store, known: AttemptLog, failure: Failure, running: Set[str] = frozenset()
) -> AttemptLog:
    """Add a failure to a shard's log, with the rows that its worker had noted as in flight.

    `known` is what this driver knows of the shard, `running` are the workers whose attempts at it
    go on: their notes stand, and they may have written over what `known` holds. A note of anybody
    else is from before: its attempt ended and nobody saw how.
    """
    log = read_attempts(store, known.shard)
    if len(log.failures) < len(known.failures):
        log = log.model_copy(update={"failures": known.failures})
    current = log.current
    if current is not None and current.worker == failure.worker and failure.end != "error":
        failure = failure.model_copy(
            update={"attempt": current.attempt, "in_flight": current.in_flight}
        )
    elif current is not None and current.worker not in running | {failure.worker}:
        log = log.taken_up(failure.at)
    left = current if current is not None and current.worker in running else None
    log = log.model_copy(update={"failures": (*log.failures, failure), "current": left})
    write_attempts(store, log)
    return log


def clear_attempts(store: Store, shard: int) -> None:
    """Forget the log of a shard that has a receipt."""
    store.delete(keys.attempts(shard))
