"""Reading many small objects: what that costs is round trips, so many go at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

READERS = 32
AHEAD = 4 * READERS
"""So many are asked for before they are wanted, that no reader waits for the slowest answer."""


def read_ahead(read: Callable[[T], R], wanted: Iterable[T], ahead: int = AHEAD) -> Iterator[R]:
    """`read` of everything wanted, in its order, by `READERS` threads.

    At most `ahead` answers are held, and no more of `wanted` is drawn before they are taken.
    Raises what `read` raises, where its answer would stand.
    """
    todo = iter(wanted)
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="read-ahead")
    try:
        asked: deque[Future[R]] = deque(pool.submit(read, item) for item in islice(todo, ahead))
        while asked:
            answer = asked.popleft().result()
            asked.extend(pool.submit(read, item) for item in islice(todo, 1))
            yield answer
    finally:
        pool.shutdown(cancel_futures=True)
