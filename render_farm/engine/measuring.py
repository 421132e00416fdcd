"""Finds the batch size from which on a device gains nothing more."""

from __future__ import annotations

from collections.abc import Callable

from render_farm.errors import OutOfMemory

GAIN = 0.01
"""A larger batch must take this share less time a picture to be worth its memory."""

PATIENCE = 2
"""Doublings in a row that gain nothing before the search ends: one may have met a busy moment."""

LONGEST_S = 2.0
"""A forward that takes this long has work enough: larger ones are not tried."""


def best_batch_size(seconds_of: Callable[[int], float], most: int) -> int:
    """The smallest power of two whose time a picture is within `GAIN` of the best one tried.

    `seconds_of` measures a forward at a batch size. Sizes double up to `most`, and end where
    doubling gained nothing, ran out of memory or would take long.
    """
    a_picture: dict[int, float] = {}
    in_vain, batch_size = 0, 1
    while batch_size <= most and in_vain < PATIENCE:
        try:
            seconds = seconds_of(batch_size)
        except OutOfMemory:
            break
        best = min(a_picture.values(), default=float("inf"))
        a_picture[batch_size] = seconds / batch_size
        in_vain = 0 if a_picture[batch_size] < best * (1 - GAIN) else in_vain + 1
        if seconds > LONGEST_S:
            break
        batch_size *= 2
    best = min(a_picture.values(), default=0.0)
    return min((size for size, each in a_picture.items() if each * (1 - GAIN) <= best), default=1)
