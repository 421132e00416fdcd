"""Notes which rows are being rendered, where the next attempt finds it if this process dies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from render_farm.job.request import RenderRequest

NOTE_EVERY_S = 1.0
"""A note costs one small write to the store, so a fast engine's notes cover about this much."""

MOST_COVERED = 4096

Errand = Callable[[Callable[[], None]], Callable[[], object]]
"""Does something, here or in another thread; what it returns waits until it is done."""


class Following(Protocol):
    """The requests of a shard that wait behind the one in hand."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def first(self, most: int) -> Sequence[RenderRequest]:
        """Those that are taken next, in order, at most so many."""
        ...


def at_once(work: Callable[[], None]) -> Callable[[], object]:
    """The `Errand` that is done when it returns."""
    work()
    return lambda: None


class _Nothing:
    def __len__(self) -> int:
        return 0

    def first(self, most: int) -> Sequence[RenderRequest]:
        del most
        return ()


NOTHING: Following = _Nothing()
"""Nothing follows a request that is rendered alone."""


class Pace:
    """How many requests a note should cover: a batch at least, about a second's worth of them.

    One for all shards of a worker: what the last one has learned holds for the next.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began_s: float | None = None
        self._learned = 1

    def cover(self, batch_size: int) -> int:
        """Requests that the next note covers."""
        return max(batch_size, self._learned)

    def turned(self, covered: int) -> None:
        """A note is used up, and the next, of `covered` requests, begins."""
        now_s = self._clock()
        if self._began_s is not None:
            lasted_s = now_s - self._began_s
            if lasted_s < NOTE_EVERY_S / 2:
                self._learned = min(MOST_COVERED, max(self._learned, covered) * 2)
            elif lasted_s > NOTE_EVERY_S * 2:
                self._learned = max(1, self._learned // 2)
        self._began_s = now_s


class InFlight:
    """Keeps a note of one shard's requests that the engine has taken and not answered yet.

    A note is written before any request that it names is handed out. So that the engine never waits
    for the store, the next one is sent on its way when the last is half used up.
    """

    def __init__(self, note: Callable[[tuple[int, ...]], None], pace: Pace, errand: Errand) -> None:
        self._note = note
        self._pace = pace
        self._errand = errand
        self._open: dict[str, int] = {}
        self._covered = 0
        self._noted = False
        self._coming: tuple[int, Callable[[], object]] | None = None

    def take(self, request: RenderRequest, following: Following, batch_size: int) -> None:
        """The engine is about to be given `request`."""
        cover = self._pace.cover(batch_size)
        if not self._covered:
            if self._coming is None:
                self._send([request, *following.first(cover - 1)])
            self._arrive()
        self._covered -= 1
        self._open[request.key] = request.row
        if self._coming is None and self._covered <= cover // 2:
            self.prepare(following, batch_size)

    def prepare(self, following: Following, batch_size: int) -> None:
        """Send the next note on its way, unless it is, or there is nothing left for it to name."""
        if self._coming is None and len(following) > self._covered:
            self._send(following.first(self._covered + self._pace.cover(batch_size)))

    def answered(self, key: str) -> None:
        """The engine has answered a request."""
        self._open.pop(key, None)

    def interrupted(self) -> None:
        """What was taken and not answered is not being rendered any more, and waits again."""
        self._open.clear()
        self._covered = 0
        if self._coming is not None:
            self._coming[1]()
            self._coming = None

    def landed(self) -> None:
        """Nothing is being rendered any more: what comes next can not be a row's fault."""
        if self._noted:
            self._errand(lambda: self._note(()))()

    def _send(self, following: Sequence[RenderRequest]) -> None:
        """Note what is open and what follows; `_covered` of the latter are noted already."""
        self._noted = True
        rows = tuple(sorted({*self._open.values(), *(request.row for request in following)}))
        self._coming = len(following) - self._covered, self._errand(lambda: self._note(rows))

    def _arrive(self) -> None:
        assert self._coming is not None
        self._covered, written = self._coming
        self._coming = None
        written()
        self._pace.turned(self._covered)
