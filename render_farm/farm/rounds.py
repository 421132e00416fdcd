"""In which order the samples of an attempt are rendered, until each of them is decided."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from render_farm.engine.sampler import Refused, Rendered, Sampler
from render_farm.errors import OutOfMemory
from render_farm.farm.flagged import judged
from render_farm.farm.in_flight import InFlight
from render_farm.job.request import RenderRequest
from render_farm.job.rerolls import rerolled
from render_farm.job.spec import OnFlagged
from render_farm.ledger.shapes import adopt_shape, lower_shape
from render_farm.store.base import Store


class Drained(Exception):
    """The attempt ends because its worker was asked to stop."""


@dataclass(slots=True)
class Rounds:
    """Renders samples and hands what becomes of them to `take`, each exactly once.

    Samples of one size are rendered together, and then, in rounds of their own and again in full
    batches, those that are to be rendered again. A round's number is its samples' reroll: no
    sample carries a count, and none depends on what its neighbours came to.
    """

    store: Store
    sampler: Sampler
    flight: InFlight
    stopping: threading.Event
    batch_size: int | Literal["auto"]
    on_flagged: OnFlagged
    take: Callable[[Rendered | Refused], None]
    _undecided: int = field(init=False, default=0)

    def render(self, requests: Sequence[RenderRequest], suspects: Set[int]) -> None:
        """Render all requests: first the rows that are `suspects`, each in batches of its own.

        Raises:
            Drained: the worker was asked to stop.
            DeviceLost: the process must end.
        """
        self._undecided = len(requests)
        for request in requests:
            if request.row in suspects:
                self._render_size([request])
        others = [request for request in requests if request.row not in suspects]
        for _, group in groupby(sorted(others, key=self._order), key=_size):
            self._render_size(list(group))
        if requests:
            self.flight.landed()

    def _order(self, request: RenderRequest) -> tuple[object, ...]:
        """Equal sizes together, then what keeps the engine's batches full, then rows in order."""
        return _size(request), self.sampler.order(request), request.row, request.sample

    def _render_size(self, requests: list[RenderRequest]) -> None:
        """Render requests of one size in rounds, until none is to be rendered again."""
        reroll = 0
        while requests:
            again = self._render_round(requests, reroll)
            requests = [request for request in requests if request.key in again]
            reroll += 1

    def _render_round(self, requests: Sequence[RenderRequest], reroll: int) -> set[str]:
        """Render one reroll of requests of one size; the keys of those that need another.

        When a batch does not fit, goes on with half of it.
        """
        size, device = _size(requests[0]), self.sampler.info.device
        batch = adopt_shape(self.store, device, size, lambda: self._first_batch(size))
        left = {request.key: rerolled(request, reroll) for request in requests}
        again: set[str] = set()
        while left:
            try:
                for outcome in self._outcomes(list(left.values()), batch):
                    key = outcome.request.key
                    if not self._decide(outcome, reroll):
                        again.add(key)
                    del left[key]
                    self.flight.answered(outcome.request)
            except OutOfMemory as error:
                if batch == 1:
                    # The row is too large for the device; another attempt would fare no better.
                    request = left.pop(self.flight.oldest())
                    self._decide(Refused(request, "out_of_memory", error.message), reroll)
                else:
                    batch = lower_shape(self.store, device, size, batch)
                self.flight.forget()
        return again

    def _decide(self, outcome: Rendered | Refused, reroll: int) -> bool:
        """Hand the outcome on, unless the sample is to be rendered again: then False."""
        verdict = judged(outcome, reroll, self.on_flagged)
        if verdict is None:
            return False
        self._undecided -= 1
        self.take(verdict)
        return True

    def _first_batch(self, size: tuple[int, int]) -> int:
        chosen = self.batch_size
        return self.sampler.default_batch_size(*size) if chosen == "auto" else chosen

    def _outcomes(self, requests: list[RenderRequest], batch: int) -> Iterator[Rendered | Refused]:
        for outcome in self.sampler.render(self.flight.feed(requests, batch), batch):
            yield outcome
            if self.stopping.is_set() and self._undecided:
                self.flight.landed()
                raise Drained


def _size(request: RenderRequest) -> tuple[int, int]:
    return request.width, request.height
