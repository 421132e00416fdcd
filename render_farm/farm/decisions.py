"""What the scheduler can decide."""

from __future__ import annotations

from dataclasses import dataclass

from render_farm.farm.messages import Assignment


@dataclass(frozen=True, slots=True)
class Assign:
    """Give the assignment to the worker."""

    worker: str
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Abandon:
    """Ask the worker to give the shard back, as `Pool.abandon` says."""

    worker: str
    shard: int
    unless_begun: bool


@dataclass(frozen=True, slots=True)
class Release:
    """End the worker: there is nothing left for it."""

    worker: str


@dataclass(frozen=True, slots=True)
class Replace:
    """End the worker, if it still lives, and start another."""

    worker: str


@dataclass(frozen=True, slots=True)
class Avoid:
    """Start no workers on these nodes from now on, and on all others."""

    nodes: frozenset[str]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The shard has used its attempts."""

    shard: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Assign nothing more and ask the workers to give back what they have."""

    reason: str
    fix: str


Decision = Assign | Abandon | Release | Replace | Avoid | GiveUp | Stop
