"""The engine's work in a worker: one stream of requests over all shards in hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from render_farm.engine.sampler import Refused, Rendered, Sampler
from render_farm.engine.several import Models
from render_farm.errors import DeviceLost, OutOfMemory
from render_farm.farm.attempt import Attempt
from render_farm.farm.backlog import Backlog, Ticket
from render_farm.farm.flagged import judged
from render_farm.farm.in_flight import NOTHING, Following
from render_farm.job.request import Kind, RenderRequest
from render_farm.job.rerolls import rerolled
from render_farm.job.spec import OnFlagged
from render_farm.ledger.shapes import Shapes

Clock = Callable[[], float]


@dataclass(slots=True)
class EngineTime:
    """Seconds in which the engine had something in hand, and when pictures came out of it."""

    busy_s: float = 0.0
    first_image_at: float | None = None
    last_image_at: float | None = None

    def image(self, now: float) -> None:
        """A picture came, at `now`, seconds since the epoch."""
        if self.first_image_at is None:
            self.first_image_at = now
        self.last_image_at = now


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What of one shard and kind waits in the backlog."""

    backlog: Backlog[Attempt]
    attempt: Attempt
    kind: Kind

    def __len__(self) -> int:
        return self.backlog.count(self.attempt, self.kind)

    def first(self, most: int) -> list[RenderRequest]:
        return self.backlog.ahead(self.attempt, self.kind, most)


@dataclass(slots=True)
class Stream:
    """Feeds what waits in the backlog to the sampler and tells what becomes of each sample.

    Samples of one kind are rendered together, whatever shard they are of, and slots that become
    free are refilled across the borders of shards. A sample that is to be rendered again goes back
    to the end of its shard. `decided` gets every sample once, with its verdict; `failed` the shards
    that had something in the engine when it failed, and why.
    """

    models: Models
    shapes: Shapes
    backlog: Backlog[Attempt]
    stopping: threading.Event
    batch_size: int | Literal["auto"]
    on_flagged: OnFlagged
    decided: Callable[[Attempt, Rendered | Refused], None]
    failed: Callable[[list[Attempt], Exception], None]
    meter: EngineTime = field(default_factory=EngineTime)
    clock: Clock = time.perf_counter
    _batches: dict[Kind, int] = field(init=False, default_factory=dict)
    _taken: dict[str, Ticket[Attempt]] = field(init=False, default_factory=dict)

    def run(self, *, wait: bool) -> None:
        """Render until nothing waits; with `wait` until the backlog is closed.

        Ends after the batch in hand when it is asked to stop.

        Raises:
            DeviceLost: the process must end.
        """
        while not self.stopping.is_set():
            first = self.backlog.first(wait=wait)
            if first is None:
                break
            try:
                self._render(first)
            except DeviceLost:
                raise
            except Exception as error:  # noqa: BLE001 - the shard's seam: becomes a retry
                self._fail(first, error)

    def _render(self, first: Ticket[Attempt]) -> None:
        """Render what shares batches with `first`, or `first` alone."""
        kind = first.request.kind
        sampler = self.models.sampler(kind.model)
        batch = self._batch(kind, first.owner, sampler)
        requests = self._alone(first, kind) if first.alone else self._of_kind(kind, batch)
        outcomes = sampler.render(requests, batch)
        try:
            while (outcome := self._next(outcomes)) is not None:
                self._answered(outcome)
                if self.stopping.is_set():
                    return
        except OutOfMemory as error:
            self._halve(kind, batch, error)

    def _next(self, outcomes: Iterator[Rendered | Refused]) -> Rendered | Refused | None:
        began_s = self.clock()
        outcome = next(outcomes, None)
        self.meter.busy_s += self.clock() - began_s
        return outcome

    def _of_kind(self, kind: Kind, batch: int) -> Iterator[RenderRequest]:
        """Requests of a kind; ends early where a shard knows of a smaller batch."""
        while not self.stopping.is_set() and (ticket := self.backlog.take(kind)) is not None:
            attempt = ticket.owner
            if attempt.shapes.get(kind, batch) < batch:
                self.backlog.put_back([ticket])
                return
            yield self._handed_out(ticket, kind, batch)

    def _alone(self, first: Ticket[Attempt], kind: Kind) -> Iterator[RenderRequest]:
        ticket = self.backlog.take_alone(first.owner)
        if ticket is not None:
            yield self._handed_out(ticket, kind, 1)

    def _handed_out(self, ticket: Ticket[Attempt], kind: Kind, batch: int) -> RenderRequest:
        """The request of a ticket, once it is noted as in flight."""
        began_s = self.clock()
        attempt = ticket.owner
        following: Following = NOTHING if ticket.alone else _Waiting(self.backlog, attempt, kind)
        attempt.begun = True
        attempt.flight.take(ticket.request, following, batch)
        self._taken[ticket.request.key] = ticket
        if not ticket.alone and len(following) <= batch:
            self._prepare_next(attempt, kind, batch)
        self.meter.busy_s -= self.clock() - began_s
        return rerolled(ticket.request, ticket.reroll)

    def _prepare_next(self, attempt: Attempt, kind: Kind, batch: int) -> None:
        """The shard is nearly all handed out: the first note on the next one is sent."""
        coming = self.backlog.next_owner(attempt, kind)
        if coming is not None:
            coming.flight.prepare(_Waiting(self.backlog, coming, kind), batch)

    def _answered(self, outcome: Rendered | Refused) -> None:
        ticket = self._taken.pop(outcome.request.key)
        attempt = ticket.owner
        attempt.flight.answered(outcome.request.key)
        if isinstance(outcome, Rendered):
            self.meter.image(time.time())
        self._decide(ticket, outcome)

    def _decide(self, ticket: Ticket[Attempt], outcome: Rendered | Refused) -> None:
        """Tell what became of a sample, unless it is to be rendered again."""
        verdict = judged(outcome, ticket.reroll, self.on_flagged)
        if verdict is None:
            again = Ticket(ticket.owner, ticket.request, ticket.reroll + 1, ticket.alone)
            self.backlog.add_again(again)
        else:
            self.decided(ticket.owner, verdict)

    def _halve(self, kind: Kind, batch: int, error: OutOfMemory) -> None:
        """Go on with half the batch; a row that does not fit alone never will."""
        tickets = self._interrupted()
        if batch == 1 and tickets:
            too_large = tickets.pop(0)
            request = rerolled(too_large.request, too_large.reroll)
            self._decide(too_large, Refused(request, "out_of_memory", error.message))
        else:
            self._batches[kind] = self.shapes.lower(kind, batch)
        self.backlog.put_back(tickets)

    def _interrupted(self) -> list[Ticket[Attempt]]:
        """What was taken and not answered, in the order of taking; nothing is in flight now."""
        tickets = list(self._taken.values())
        self._taken.clear()
        for attempt in _owners(tickets):
            attempt.flight.interrupted()
        return tickets

    def _fail(self, first: Ticket[Attempt], error: Exception) -> None:
        concerned = _owners(self._interrupted()) or [first.owner]
        for attempt in concerned:  # nothing more of them is to be rendered
            self.backlog.remove(attempt)
        self.failed(concerned, error)

    def _batch(self, kind: Kind, attempt: Attempt, sampler: Sampler) -> int:
        """The batch size in force; it only ever goes down."""
        known = [n for n in (self._batches.get(kind), attempt.shapes.get(kind)) if n is not None]
        if known:
            self._batches[kind] = min(known)
        else:
            self._batches[kind] = self.shapes.adopt(kind, lambda: self._first_batch(kind, sampler))
        return self._batches[kind]

    def _first_batch(self, kind: Kind, sampler: Sampler) -> int:
        chosen = self.batch_size
        if chosen != "auto":
            return chosen
        return sampler.default_batch_size(kind.width, kind.height)


def _owners(tickets: list[Ticket[Attempt]]) -> list[Attempt]:
    """The shards of tickets, each once, in order."""
    return list({id(ticket.owner): ticket.owner for ticket in tickets}.values())
