"""Where both contestants leave their pictures: pixels in host memory, encoded if asked for."""

from __future__ import annotations

from collections.abc import Callable, Container
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Encode = Callable[[Pixels], bytes]

ENCODERS = 8


class Pictures:
    """Takes pictures, encodes them on threads while others are rendered, and counts them.

    Leaving the block waits for the encoders. Of the rows in `keep` the pixels are kept.
    """

    def __init__(self, encode: Encode | None = None, keep: Container[int] = ()) -> None:
        self._encode = encode
        self._keep = keep
        self._threads = ThreadPoolExecutor(ENCODERS) if encode else None
        self._encoded: list[Future[int]] = []
        self.kept: dict[int, Pixels] = {}
        self.count = 0

    def __enter__(self) -> Pictures:
        return self

    def take(self, row: int, pixels: Pixels) -> None:
        """Take the picture of a row, uint8 [H, W, 3]."""
        self.count += 1
        if row in self._keep:
            self.kept[row] = pixels
        if self._threads is not None:
            self._encoded.append(self._threads.submit(self._size, pixels))

    def _size(self, pixels: Pixels) -> int:
        assert self._encode is not None
        return len(self._encode(pixels))

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._threads is not None:
            self._threads.shutdown()
            for encoded in self._encoded:
                encoded.result()


def largest_difference(some: dict[int, Pixels], others: dict[int, Pixels]) -> int:
    """The largest difference of a value, in 1/255, over the rows that both have; 0 if none."""
    return max(
        (
            int(np.abs(some[row].astype(np.int16) - others[row].astype(np.int16)).max())
            for row in some.keys() & others.keys()
        ),
        default=0,
    )
