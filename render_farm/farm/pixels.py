"""Pictures on their way from the engine to the threads that encode them."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")

MOST_BYTES = 128 << 20
"""Pixels that wait. Where encoding is slower than the engine, the engine waits for it here."""

MOST_ITEMS = 128
TURN_BYTES = 2 << 20
"""Small pictures are rendered and encoded by turns: so many, or so much, at a time.

They cost less than it costs two threads to pass Python's lock to and fro. The engine goes on when
all that waited is encoded, as long as that is little; larger pictures are encoded as they come.
"""

MOST_AT_A_TIME = 32
"""Pictures that one thread encodes together, of at most half a turn's bytes."""

LINGER_S = 0.02
MOST_LINGERS = 5
"""Less than a turn's worth is encoded once no more has come for a while, or after so many."""


class PixelQueue(Generic[Item]):
    """A queue bounded by bytes and number; one item always fits, however large."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._taken: dict[int, int] = {}  # bytes by rank
        self._came = 0
        self._due = False
        self._closed = False
        lock = threading.Lock()
        self._filled = threading.Condition(lock)
        self._emptied = threading.Condition(lock)

    def put(self, item: Item, size_bytes: int) -> None:
        """Add an item; waits for room."""
        with self._filled:
            if self._is_full(size_bytes):
                self._begin_turn()
                self._emptied.wait_for(self._has_room)
            self._items.append((item, size_bytes))
            self._bytes += size_bytes
            self._came += 1
            if self._bytes >= TURN_BYTES:
                self._begin_turn()

    def get(self, rank: int = 0) -> list[Item]:
        """Some items, in order; waits for the first. None are left once it is closed and empty.

        Each thread has a `rank` of its own. It has done with what it got when it comes again; it
        waits until there is work for as many more.
        """
        with self._filled:
            self._bytes -= self._taken.pop(rank, 0)
            if self._has_room():
                self._emptied.notify_all()
            self._wait_for_turn(rank * TURN_BYTES)
            items: list[Item] = []
            taken = 0
            while self._items and len(items) < MOST_AT_A_TIME and taken < TURN_BYTES // 2:
                item, size_bytes = self._items.popleft()
                items.append(item)
                taken += size_bytes
            self._due = bool(self._items)
            self._taken[rank] = taken
            return items

    def close(self) -> None:
        """Nothing more comes, and nobody waits any more."""
        with self._filled:
            self._closed = True
            self._filled.notify_all()
            self._emptied.notify_all()

    def _begin_turn(self) -> None:
        self._due = True
        self._filled.notify_all()

    def _wait_for_turn(self, least_bytes: int) -> None:
        """Until there is a turn's worth, or something and it does not become more."""
        lingers, came = 0, -1
        while not self._closed:
            if self._items and self._bytes >= least_bytes:
                if self._due or came == self._came or lingers == MOST_LINGERS:
                    return
                lingers, came = lingers + 1, self._came
            self._filled.wait(LINGER_S)

    def _is_full(self, size_bytes: int) -> bool:
        too_many = len(self._items) >= MOST_ITEMS
        too_large = bool(self._bytes) and self._bytes + size_bytes > self._most_bytes
        return (too_many or too_large) and not self._closed

    def _has_room(self) -> bool:
        much = TURN_BYTES < self._bytes <= self._most_bytes // 2 and len(self._items) < MOST_ITEMS
        return much or not (self._items or self._taken) or self._closed
