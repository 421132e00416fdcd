"""Notes which rows are being rendered, where the next attempt finds it if this process dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from render_farm.job.request import RenderRequest

NOTE_EVERY_S = 1.0
"""A note costs one small write to the store, so a fast engine's notes cover about this much."""


class InFlight:
    """Feeds requests to a sampler and keeps a note of those taken and not answered yet.

    A note is written before the requests that it names are handed out. It names a batch or, when
    batches are short, about a second's worth of them.
    """

    def __init__(self, note: Callable[[tuple[int, ...]], None], clock: Callable[[], float]) -> None:
        self._note = note
        self._clock = clock
        self._open: dict[str, int] = {}
        self._answered = 0
        self._started = clock()

    def feed(self, requests: Sequence[RenderRequest], batch_size: int) -> Iterator[RenderRequest]:
        """The requests, one by one, each noted before it is handed out."""
        noted = 0
        for index, request in enumerate(requests):
            if index == noted:
                noted = index + max(batch_size, self._per_note())
                ahead = (coming.row for coming in requests[index:noted])
                self._note(tuple(sorted({*self._open.values(), *ahead})))
            self._open[request.key] = request.row
            yield request

    def answered(self, request: RenderRequest) -> None:
        """The sampler has answered the request."""
        del self._open[request.key]
        self._answered += 1

    def oldest(self) -> str:
        """The key of the request that was taken first of those not answered."""
        return next(iter(self._open))

    def forget(self) -> None:
        """What was taken and not answered is not being rendered any more."""
        self._open.clear()

    def landed(self) -> None:
        """Nothing is being rendered any more: what comes next can not be a row's fault."""
        self.forget()
        self._note(())

    def _per_note(self) -> int:
        elapsed = self._clock() - self._started
        return int(self._answered / elapsed * NOTE_EVERY_S) if elapsed > NOTE_EVERY_S else 0
