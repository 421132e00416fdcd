"""What is known of the attempts at an open shard: failures so far, and rows in flight.

Advisory: losing one of these objects costs work, never a result. A worker notes which rows it is
about to render, so that when its process dies the next attempt knows whom to suspect.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from render_farm.errors import NotFound
from render_farm.ledger import keys
from render_farm.ledger.receipt import LedgerModel
from render_farm.store.base import Store


class Failure(LedgerModel):
    """One attempt that did not end in a receipt. `in_flight` is what it was rendering."""

    attempt: str | None
    worker: str
    error_type: str
    error: str
    at: datetime
    in_flight: tuple[int, ...] = ()
    died: bool = False


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

    def deaths(self) -> list[frozenset[int]]:
        """The rows in flight at each end of a process; a current attempt is taken to have ended."""
        ended = [frozenset(f.in_flight) for f in self.failures if f.died and f.in_flight]
        if self.current is not None and self.current.in_flight:
            ended.append(frozenset(self.current.in_flight))
        return ended

    def suspects(self) -> frozenset[int]:
        """Rows that were in flight when a process died: to be rendered in batches of their own."""
        return frozenset().union(*self.deaths())

    def condemned(self) -> frozenset[int]:
        """Rows that ended a process when alone, after they were in flight at an earlier end."""
        deaths = self.deaths()
        return frozenset(
            row
            for number, rows in enumerate(deaths)
            if len(rows) == 1
            for row in rows
            if any(row in earlier for earlier in deaths[:number])
        )


def read_attempts(store: Store, shard: int) -> AttemptLog:
    """The log of a shard; an empty one if there is none or it cannot be understood."""
    try:
        return AttemptLog.model_validate_json(store.get(keys.attempts(shard)))
    except (NotFound, ValidationError):
        return AttemptLog(shard=shard)


def write_attempts(store: Store, log: AttemptLog) -> None:
    """Replace the log of a shard."""
    store.put(keys.attempts(log.shard), log.model_dump_json().encode())


def record_failure(store: Store, shard: int, failure: Failure) -> AttemptLog:
    """Add a failure to a shard's log, with the rows that the attempt had noted as in flight."""
    log = read_attempts(store, shard)
    current = log.current
    if current is not None and failure.died:
        failure = failure.model_copy(
            update={"attempt": current.attempt, "in_flight": current.in_flight}
        )
    log = log.model_copy(update={"failures": (*log.failures, failure), "current": None})
    write_attempts(store, log)
    return log


def clear_attempts(store: Store, shard: int) -> None:
    """Forget the log of a shard that has a receipt."""
    store.delete(keys.attempts(shard))
