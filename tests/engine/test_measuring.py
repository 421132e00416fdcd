"""The batch size is the smallest that is about as fast a picture as any that was tried."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from render_farm.engine.measuring import best_batch_size
from render_farm.errors import DeviceLost, OutOfMemory


class Device:
    """Takes the given seconds for a forward of each batch size; has no memory for another one."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self._seconds = seconds
        self.tried: list[int] = []

    def __call__(self, batch_size: int) -> float:
        self.tried.append(batch_size)
        if batch_size not in self._seconds:
            raise OutOfMemory(batch_size, "no")
        return self._seconds[batch_size]


@pytest.mark.parametrize(
    ("seconds", "best", "tried"),
    [
        # twice the work in less than twice the time, until there is nothing to gain
        ({1: 0.10, 2: 0.12, 4: 0.20, 8: 0.40, 16: 0.80}, 4, [1, 2, 4, 8, 16]),
        # nothing to gain at all
        ({1: 0.10, 2: 0.20, 4: 0.40, 8: 0.10}, 1, [1, 2, 4]),
        # a gain of less than one in a hundred is not worth twice the memory
        ({1: 0.10, 2: 0.1985, 4: 0.397, 8: 0.7}, 1, [1, 2, 4]),
        # one measured in a busy moment
        ({1: 0.10, 2: 0.30, 4: 0.10, 8: 0.20, 16: 0.40}, 4, [1, 2, 4, 8, 16]),
        # one that could not be measured ends it
        ({1: 0.10, 2: float("inf"), 4: 0.10}, 1, [1, 2]),
        # memory ends
        ({1: 0.10, 2: 0.11, 4: 0.12}, 4, [1, 2, 4, 8]),
        ({}, 1, [1]),
        # a forward takes long enough as it is
        ({1: 1.5, 2: 2.1, 4: 2.2}, 2, [1, 2]),
        ({1: 3.0, 2: 3.0}, 1, [1]),
        # the most
        (dict.fromkeys((1, 2, 4, 8, 16, 32), 0.1), 16, [1, 2, 4, 8, 16]),
    ],
)
def test_the_smallest_batch_that_is_as_fast_as_any_is_chosen(seconds, best, tried):
    device = Device(seconds)
    assert best_batch_size(device, 16) == best
    assert device.tried == tried


def test_a_device_that_is_lost_is_not_passed_over():
    def lost(_batch_size: int) -> float:
        raise DeviceLost("CUDA error")

    with pytest.raises(DeviceLost):
        best_batch_size(lost, 16)
