"""A breadth-first search through every state that a protocol can come to."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

Step = tuple[str, int, bytes]
"""What happened, to which of those it can happen to, and the state afterwards."""


class Model(Protocol):
    """A protocol as states and steps. A state is `bytes`: small, hashed once, no garbage."""

    def initial(self) -> bytes:
        """The state that everything starts from."""
        ...

    def steps(self, state: bytes) -> Iterator[Step]:
        """Every step that can be taken from a state."""
        ...

    def broken(self, state: bytes) -> str | None:
        """The promise that a state breaks; None for a good one."""
        ...


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise and the fewest steps that lead to it."""

    promise: str
    trace: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        lines = [f"{number:3}. {what} [{who}]" for number, (what, who) in enumerate(self.trace, 1)]
        return "\n".join([f"broken: {self.promise}", *lines])


@dataclass(slots=True)
class Searched:
    """What a search found. `fired` counts how often each kind of step was taken."""

    states: int = 0
    depth: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    violation: Violation | None = None


def search(model: Model, most_states: int = 10_000_000) -> Searched:
    """Visit every state, the nearest first, until one is broken.

    Raises:
        RuntimeError: there are more than `most_states`; a search that ends early proves nothing.
    """
    found = Searched()
    start = model.initial()
    came_from: dict[bytes, bytes | None] = {start: None}
    if promise := model.broken(start):
        found.violation = Violation(promise, ())
    level = [start]
    while level and found.violation is None:
        if len(came_from) > most_states:
            raise RuntimeError(f"more than {most_states} states")
        level = _next_level(model, level, came_from, found)
        found.depth += bool(level)
    found.states = len(came_from)
    return found


def _next_level(
    model: Model, level: list[bytes], came_from: dict[bytes, bytes | None], found: Searched
) -> list[bytes]:
    """The states that are one step further and were never seen; ends at a broken one."""
    further: list[bytes] = []
    fired: list[str] = []
    for state in level:
        for what, _, after in model.steps(state):
            fired.append(what)
            if after in came_from:
                continue
            came_from[after] = state
            further.append(after)
            if promise := model.broken(after):
                found.violation = Violation(promise, _trace(model, after, came_from))
                return further
    found.fired.update(fired)
    return further


def _trace(
    model: Model, state: bytes, came_from: dict[bytes, bytes | None]
) -> tuple[tuple[str, int], ...]:
    """The steps to a state: found again from the states alone, so that no state carries them."""
    steps: list[tuple[str, int]] = []
    while (before := came_from[state]) is not None:
        steps.append(next((what, who) for what, who, end in model.steps(before) if end == state))
        state = before
    return tuple(reversed(steps))


def search_for_traps(
    model: Model, is_goal: Callable[[bytes], bool]
) -> tuple[int, Violation | None]:
    """Whether the goal can still be reached, from every state; returns how many states there are.

    A violation leads by the fewest steps to a state that no way leads out of to the goal.
    """
    start = model.initial()
    came_from: dict[bytes, bytes | None] = {start: None}
    leads_here: dict[bytes, list[bytes]] = {}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        for _, _, after in model.steps(state):
            leads_here.setdefault(after, []).append(state)
            if after not in came_from:
                came_from[after] = state
                waiting.append(after)
    hopeful = {state for state in came_from if is_goal(state)}
    waiting.extend(hopeful)
    while waiting:
        for before in leads_here.get(waiting.popleft(), ()):
            if before not in hopeful:
                hopeful.add(before)
                waiting.append(before)
    for state in came_from:  # in the order of the search: the nearest first
        if state not in hopeful:
            promise = "the goal can always be reached"
            return len(came_from), Violation(promise, _trace(model, state, came_from))
    return len(came_from), None
