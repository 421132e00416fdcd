"""Which workers have shown no sign of life for too long. Time is an argument.

A step that hangs in a driver of a card, or a process that was stopped, says nothing and fails
nothing. How long a silence may be is learned from the run's own speed.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 3600.0
"""While nothing has been learned: a first shard may load, compile and measure."""

FLOOR_S = 300.0
"""Above the patience with a store that does not answer: waiting for it is no hang."""

TIMES_SLOWEST = 10.0


@dataclass(slots=True)
class _Watched:
    rows: int | None
    began_s: float
    seen_s: float


class Watch:
    """Holds every worker's silence against a limit.

    The limit is ten times what the largest shard in hand would take at the slowest pace of any
    closed so far, at least five minutes; `stalled_after_s` stands in for all that. A worker with
    several in hand answers as often as one with one: the pace is from one answer to the next.
    """

    def __init__(self, stalled_after_s: float | None) -> None:
        self._given_s = stalled_after_s
        self._slowest_s_per_row: float | None = None
        self._watched: dict[str, _Watched] = {}

    def starts(self, worker: str, now_s: float) -> None:
        """The worker's process makes itself ready."""
        self._watched[worker] = _Watched(None, now_s, now_s)

    def renders(self, worker: str, rows: int, now_s: float) -> None:
        """An answer is due from the worker, whose largest shard in hand has `rows` rows."""
        self._watched[worker] = _Watched(rows, now_s, now_s)

    def takes(self, worker: str, rows: int) -> None:
        """The worker that renders is given a shard of `rows` rows more: no sign of life."""
        watched = self._watched[worker]
        watched.rows = max(watched.rows or 0, rows)

    def closed(self, worker: str, rows: int, now_s: float) -> None:
        """The worker has closed a shard of `rows` rows: learn from it."""
        watched = self._watched.get(worker)
        if watched is not None and rows:
            pace = (now_s - watched.began_s) / rows
            self._slowest_s_per_row = max(self._slowest_s_per_row or 0.0, pace)

    def rests(self, worker: str) -> None:
        """Nothing is expected of the worker."""
        self._watched.pop(worker, None)

    def seen(self, worker: str, at_s: float) -> None:
        """The worker gave a sign of life."""
        watched = self._watched.get(worker)
        if watched is not None:
            watched.seen_s = max(watched.seen_s, at_s)

    def silent(self, now_s: float) -> dict[str, float]:
        """The workers that have been silent for too long, and for how many seconds."""
        return {
            worker: now_s - watched.seen_s
            for worker, watched in self._watched.items()
            if now_s - watched.seen_s > self.limit_s(watched.rows)
        }

    def limit_s(self, rows: int | None) -> float:
        """How long a worker with a shard of `rows` rows, or that starts (None), may be silent."""
        if rows is None:
            return FIRST_S
        if self._given_s is not None:
            return self._given_s
        if self._slowest_s_per_row is None:
            return FIRST_S
        return max(FLOOR_S, TIMES_SLOWEST * self._slowest_s_per_row * rows)
