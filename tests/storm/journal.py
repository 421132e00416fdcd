"""What the witness's requests mean: which attempts there were, how far each came, who won.

An attempt says in ``driver/attempts/<shard>.json`` which rows it takes before it renders them, so
the rows that all attempts took together are never fewer than the rows that were rendered.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Condition
from typing import Literal

from tests.storm.witness import Request

Step = Literal["noted", "uploads", "commits", "committed"]
"""How far an attempt has come: its rows are noted, its objects go out, its receipt goes out, the
store has said that it won."""

ON_THE_WAY_S = 5.0
"""The most that passes between a driver's giving out a shard and the store's hearing of it. A shard
that is won meanwhile is begun once more by a worker that cannot know of it yet."""

KEY = re.compile(
    r"(?P<run>.+?)/(?:driver/attempts/(?P<noted>\d{6})\.json"
    r"|receipts/(?P<receipt>\d{6})\.json"
    r"|(?:data|rejected)/(?P<shard>\d{6})-(?P<attempt>[0-9a-z]+)[./].*)"
)


@dataclass(slots=True)
class Attempt:
    """One attempt at a shard, as seen from outside. Times are of `time.monotonic`."""

    run: str
    shard: int
    identity: str
    slot: str  # the worker's name with its driver: one process, and the only one of that name
    began_s: float
    rows: set[int] = field(default_factory=set)
    uploaded_s: float | None = None
    won_s: float | None = None
    lost_s: float | None = None


class Journal:
    """Every attempt that the store has heard of. Written by the witness, read by the storm.

    `trap` is called at every step of every attempt, while the request or answer that shows the
    step waits to be handed on; `on_slot` when a worker is first heard of, with the port from which
    it speaks.
    """

    def __init__(self) -> None:
        self.attempts: dict[str, Attempt] = {}
        self.by_slot: dict[str, list[Attempt]] = {}
        self.unannounced: list[str] = []
        self.trap: Callable[[Step, Attempt], None] = lambda step, attempt: None
        self.on_slot: Callable[[str, int], None] = lambda slot, port: None
        self.news = Condition()

    def on_request(self, request: Request) -> None:
        match = KEY.fullmatch(request.key) if request.method == "PUT" else None
        if match is None:
            return
        with self.news:
            if match["noted"]:
                self._note(match["run"], int(match["noted"]), request)
            elif match["attempt"]:
                self._upload(match["attempt"], request)
            else:
                self._commit(request)
            self.news.notify_all()

    def on_answer(self, request: Request) -> None:
        match = KEY.fullmatch(request.key) if request.method == "PUT" else None
        if match is None or not match["receipt"]:
            return
        with self.news:
            attempt = self._of_receipt(request)
            if attempt is not None and request.status == 200:
                attempt.won_s = time.monotonic()
                self.trap("committed", attempt)
            elif attempt is not None and request.status == 412:
                attempt.lost_s = time.monotonic()
            self.news.notify_all()

    def of_run(self, run: str) -> Iterator[Attempt]:
        return (attempt for attempt in list(self.attempts.values()) if attempt.run == run)

    def open_at(self, slot: str, moment_s: float) -> set[int]:
        """The shards that a worker had in hand when it died at a moment: others had to begin them.

        Those that it had begun and not closed; and those that it began later, having been given
        them before its end reached it, unless it closed them before anybody else began.
        """
        return {
            attempt.shard
            for attempt in self.by_slot[slot]
            if not _closed_at(attempt, moment_s)
            if attempt.began_s <= moment_s or attempt.won_s is None or self._beside(attempt)
        }

    def helped(self, run: str, shards: int, most_in_hand: int) -> Counter[int]:
        """How often each shard was given out a second time beside an attempt that had not ended.

        Only at the tail, when all shards that were not closed were in the workers' hands.
        """
        attempts = sorted(self.of_run(run), key=lambda attempt: attempt.began_s)
        helped = Counter[int]()
        for number, attempt in enumerate(attempts):
            at_s = attempt.began_s
            closed = sum(a.won_s is not None and a.won_s < at_s for a in attempts)
            beside = any(
                earlier.shard == attempt.shard and not _closed_at(earlier, at_s - ON_THE_WAY_S)
                for earlier in attempts[:number]
            )
            helped[attempt.shard] += beside and shards - closed <= most_in_hand
        return helped

    def _beside(self, attempt: Attempt) -> bool:
        """Whether somebody else began the shard of `attempt` while it had not ended."""
        return any(
            other.shard == attempt.shard
            and other.began_s > attempt.began_s
            and not _closed_at(attempt, other.began_s)
            for other in self.of_run(attempt.run)
        )

    def winner(self, run: str, shard: int) -> Attempt | None:
        found = (a for a in self.of_run(run) if a.shard == shard and a.won_s is not None)
        return next(found, None)

    def _note(self, run: str, shard: int, request: Request) -> None:
        current = json.loads(request.body)["current"]
        if current is None:
            return
        identity, slot = current["attempt"], current["worker"]
        if slot not in self.by_slot:
            self.by_slot[slot] = []
            self.on_slot(slot, request.port)
        if identity not in self.attempts:
            self.attempts[identity] = Attempt(run, shard, identity, slot, time.monotonic())
            self.by_slot[slot].append(self.attempts[identity])
        attempt = self.attempts[identity]
        attempt.rows.update(current["in_flight"])
        self.trap("noted", attempt)

    def _upload(self, identity: str, request: Request) -> None:
        attempt = self.attempts.get(identity)
        if attempt is None:
            self.unannounced.append(request.key)
            return
        attempt.uploaded_s = time.monotonic()
        self.trap("uploads", attempt)

    def _commit(self, request: Request) -> None:
        attempt = self._of_receipt(request)
        if attempt is not None:
            self.trap("commits", attempt)

    def _of_receipt(self, request: Request) -> Attempt | None:
        return self.attempts.get(json.loads(request.body)["attempt"])


def _closed_at(attempt: Attempt, moment_s: float) -> bool:
    ends = [end for end in (attempt.won_s, attempt.lost_s) if end is not None]
    return any(end <= moment_s for end in ends)
