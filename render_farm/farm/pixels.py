"""Pictures on their way from the engine to the threads that encode them."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")

MOST_BYTES = 128 << 20
"""Pixels that wait. Where encoding is slower than the engine, the engine waits for it here."""

MOST_AT_ONCE = 16
"""Items that a thread takes at a time: a small picture costs less than waking a thread for it."""

LATEST_S = 0.01
"""How long an item may wait for others to come before a thread that rests looks after it."""


class PixelQueue(Generic[Item]):
    """A queue bounded by bytes; one item always fits, however large."""

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
            while self._bytes and self._bytes + size_bytes > self._most_bytes and not self._closed:
                self._filled.notify()
                self._emptied.wait()
            self._items.append((item, size_bytes))
            self._bytes += size_bytes
            if len(self._items) % MOST_AT_ONCE == 0:
                self._filled.notify()

    def get(self) -> list[Item]:
        """Some items, in order; waits for the first. None are left once it is closed and empty."""
        with self._filled:
            while not self._items and not self._closed:
                self._filled.wait(LATEST_S)
            taken = [self._items.popleft() for _ in range(min(MOST_AT_ONCE, len(self._items)))]
            self._bytes -= sum(size_bytes for _, size_bytes in taken)
            self._emptied.notify_all()
            return [item for item, _ in taken]

    def close(self) -> None:
        """Nothing more comes, and nobody waits any more."""
        with self._filled:
            self._closed = True
            self._filled.notify_all()
            self._emptied.notify_all()
