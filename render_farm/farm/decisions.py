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


Decision = Assign | Replace | Avoid | GiveUp | Stop
