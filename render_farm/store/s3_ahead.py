"""A large object read from front to back while its next ranges are on their way already.

One connection to S3 carries some tens of MB a second, whatever the network could do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, takewhile

from render_farm.store.s3_body import CHUNK_BYTES, ContinuedBody

OpenRange = Callable[[int, int], ContinuedBody]
"""Opens an object from a start to a stop, at the version that was opened first."""


class ReadAhead:
    """The body of an object: first what `first` reads, then the ranges after it, in order.

    Nothing is asked for before the first read. From then on `ranges` ranges of `range_bytes` are
    on their way or wait in memory; there are never more.

    Raises: on reading, whatever `first` and `open_range` raise.
    """

    def __init__(
        self, first: ContinuedBody, open_range: OpenRange, *, range_bytes: int, ranges: int
    ) -> None:
        self._first = first
        self._open_range = open_range
        starts = range(first.stop, first.total_bytes, range_bytes)
        self._spans = ((at, min(at + range_bytes, first.total_bytes)) for at in starts)
        self._at_once = min(ranges, len(starts))
        self._coming: deque[Future[deque[bytes]]] = deque()
        self._pieces: deque[bytes] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def read(self, amt: int | None = None) -> bytes:
        """The next bytes, at most `amt`; none at the end only."""
        if self._pool is None and self._at_once:
            self._pool = ThreadPoolExecutor(self._at_once, thread_name_prefix="read-ahead")
            self._ask(self._pool, self._at_once)
        size = CHUNK_BYTES if amt is None else amt
        return self._first.read(size) or self._next_piece(size)

    def close(self) -> None:
        """End all transfers: what has not come is not wanted any more."""
        self._closed = True
        self._first.close()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _next_piece(self, size: int) -> bytes:
        if not self._pieces:
            if not self._coming or self._pool is None:
                return b""
            self._pieces = self._coming.popleft().result()
            self._ask(self._pool, 1)
        piece = self._pieces.popleft()
        if len(piece) > size:
            self._pieces.appendleft(piece[size:])
        return piece[:size]

    def _ask(self, pool: ThreadPoolExecutor, count: int) -> None:
        for start, stop in islice(self._spans, count):
            self._coming.append(pool.submit(self._fetch, start, stop))

    def _fetch(self, start: int, stop: int) -> deque[bytes]:
        with self._open_range(start, stop) as body:
            return deque(takewhile(lambda _piece: not self._closed, body.pieces()))
