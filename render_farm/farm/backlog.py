"""The requests of a worker's shards that wait for the engine, as one stream across all of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from render_farm.job.request import Kind, RenderRequest
from render_farm.job.spec import ONLY_MODEL

Owner = TypeVar("Owner")


@dataclass(frozen=True, slots=True)
class Ticket(Generic[Owner]):
    """One sample of a shard, waiting for its `reroll`-th try; `alone` in a batch of its own."""

    owner: Owner
    request: RenderRequest
    reroll: int = 0
    alone: bool = False


@dataclass(slots=True)
class _Waiting(Generic[Owner]):
    """One shard's tickets: first those that are rendered alone, then kind by kind."""

    number: int
    alone: deque[Ticket[Owner]] = field(default_factory=deque)
    of_kind: dict[Kind, deque[Ticket[Owner]]] = field(default_factory=dict)


class Backlog(Generic[Owner]):
    """Tickets of the shards in hand. Threads may add, take away and wait.

    Kinds do not share a batch. Once a kind is begun it goes on through all shards in hand, so that
    batches are full, and then come the other kinds of its model, so that models change rarely; but
    shards that come later must wait until the others have had their turn with the kinds that they
    still need.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shards: dict[Owner, _Waiting[Owner]] = {}
        self._added = 0
        self._horizon = 0
        self._model = ONLY_MODEL
        self._model_horizon = 0
        self._closed = False

    def add(self, owner: Owner, tickets: Iterable[Ticket[Owner]]) -> None:
        """Put the tickets of one more shard at the end, each kind in the order given."""
        with self._changed:
            self._added += 1
            waiting = _Waiting[Owner](self._added)
            for ticket in tickets:
                _queue(waiting, ticket).append(ticket)
            self._shards[owner] = waiting
            self._changed.notify_all()

    def remove(self, owner: Owner) -> None:
        """Nothing of this shard is to be rendered any more."""
        with self._changed:
            self._shards.pop(owner, None)

    def close(self) -> None:
        """Nobody is to wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def first(self, *, wait: bool) -> Ticket[Owner] | None:
        """The ticket that decides what is rendered next; it stays where it is.

        None if there is none and none comes: after `close`, or without `wait`.
        """
        with self._changed:
            while not self._closed:
                ticket = self._following()
                if ticket is not None:
                    self._horizon = self._added
                    return ticket
                if not wait:
                    return None
                self._changed.wait()
            return None

    def _following(self) -> Ticket[Owner] | None:
        """What has waited longest, but the model in hand goes on through the shards that were here
        when its turn began.
        """
        shards = [waiting for waiting in self._shards.values() if waiting.alone or waiting.of_kind]
        if not shards or shards[0].alone:
            return shards[0].alone[0] if shards else None
        for waiting in shards:
            if waiting.number <= self._model_horizon:
                for kind, queue in waiting.of_kind.items():
                    if kind.model == self._model:
                        return queue[0]
        ticket = next(iter(shards[0].of_kind.values()))[0]
        self._model, self._model_horizon = ticket.request.model, self._added
        return ticket

    def take_alone(self, owner: Owner) -> Ticket[Owner] | None:
        """The next ticket of a shard that is rendered in a batch of its own."""
        with self._changed:
            waiting = self._shards.get(owner)
            return waiting.alone.popleft() if waiting is not None and waiting.alone else None

    def take(self, kind: Kind) -> Ticket[Owner] | None:
        """The next ticket of a kind; None when it is another kind's turn."""
        with self._changed:
            others_wait = False
            for waiting in self._shards.values():
                queue = waiting.of_kind.get(kind)
                if queue:
                    if others_wait and waiting.number > self._horizon:
                        return None
                    ticket = queue.popleft()
                    if not queue:
                        del waiting.of_kind[kind]
                    return ticket
                others_wait = others_wait or bool(waiting.of_kind)
            return None

    def put_back(self, tickets: Iterable[Ticket[Owner]]) -> None:
        """Tickets that were taken and not rendered, in their order, to be taken next."""
        with self._changed:
            for ticket in reversed(list(tickets)):
                waiting = self._shards.get(ticket.owner)
                if waiting is not None:
                    _queue(waiting, ticket).appendleft(ticket)

    def add_again(self, ticket: Ticket[Owner]) -> None:
        """One more try at a sample: after the others of its shard, or at once if it is alone."""
        with self._changed:
            waiting = self._shards.get(ticket.owner)
            if waiting is not None and ticket.alone:
                waiting.alone.appendleft(ticket)
            elif waiting is not None:
                _queue(waiting, ticket).append(ticket)

    def count(self, owner: Owner, kind: Kind) -> int:
        """How many requests of a shard and kind wait."""
        with self._changed:
            waiting = self._shards.get(owner)
            return len(waiting.of_kind.get(kind, ())) if waiting is not None else 0

    def ahead(self, owner: Owner, kind: Kind, most: int) -> list[RenderRequest]:
        """The requests of a shard and kind that wait, in order, at most so many."""
        with self._changed:
            waiting = self._shards.get(owner)
            queue = waiting.of_kind.get(kind, ()) if waiting is not None else ()
            return [ticket.request for ticket in islice(queue, most)]

    def next_owner(self, owner: Owner, kind: Kind) -> Owner | None:
        """The shard behind this one that the engine goes on with in the same kind."""
        with self._changed:
            mine = self._shards.get(owner)
            for waiting in self._shards.values():
                queue = waiting.of_kind.get(kind)
                if queue and (mine is None or waiting.number > mine.number):
                    return queue[0].owner
            return None


def _queue(waiting: _Waiting[Owner], ticket: Ticket[Owner]) -> deque[Ticket[Owner]]:
    if ticket.alone:
        return waiting.alone
    return waiting.of_kind.setdefault(ticket.request.kind, deque())
