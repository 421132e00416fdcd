"""Pictures on their way from the engine to the threads that encode them."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")

MOST_BYTES = 128 << 20
"""Pixels that wait. Where encoding is slower than the engine, the engine waits for it here."""

MOST_ITEMS = 128
FEW_ITEMS = 32
"""An engine that is faster waits when so many wait, until so few do.

Small pictures cost less than the switch from one thread to another: a hundred at a time are drawn,
then encoded while they are still in the processor's cache. With one switch a picture a worker that
draws 64² pictures used half as much time again.
"""

BYTES_A_THREAD = 1 << 20
"""Another thread is worth waking for each so many bytes that wait."""

LATEST_S = 0.01
"""How long an item may wait for others to come before a thread that rests looks after it."""


class PixelQueue(Generic[Item]):
    """A queue bounded by bytes and number; one item always fits, however large."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._closed = False
        lock = threading.Lock()
        self._filled = threading.Condition(lock)
        self._emptied = threading.Condition(lock)

    def put(self, item: Item, size_bytes: int) -> None:
        """Add an item; waits for room."""
        with self._filled:
            if self._is_full(size_bytes):
                self._filled.notify_all()
                self._emptied.wait_for(self._has_room)
            self._items.append((item, size_bytes))
            self._bytes += size_bytes
            if len(self._items) % FEW_ITEMS == 0:
                self._filled.notify_all()

    def get(self, rank: int = 0) -> list[Item]:
        """Some items, in order; waits for the first. None are left once it is closed and empty.

        The thread of number `rank` waits until there is work for as many more.
        """
        with self._filled:
            while not (self._items and self._bytes >= rank * BYTES_A_THREAD) and not self._closed:
                self._filled.wait(LATEST_S)
            taken = [self._items.popleft() for _ in range(min(FEW_ITEMS, len(self._items)))]
            self._bytes -= sum(size_bytes for _, size_bytes in taken)
            if self._has_room():
                self._emptied.notify_all()
            return [item for item, _ in taken]

    def _is_full(self, size_bytes: int) -> bool:
        too_many = len(self._items) >= MOST_ITEMS
        too_large = bool(self._bytes) and self._bytes + size_bytes > self._most_bytes
        return (too_many or too_large) and not self._closed

    def _has_room(self) -> bool:
        few = len(self._items) <= FEW_ITEMS and self._bytes <= self._most_bytes // 2
        return few or not self._items or self._closed

    def close(self) -> None:
        """Nothing more comes, and nobody waits any more."""
        with self._filled:
            self._closed = True
            self._filled.notify_all()
            self._emptied.notify_all()
