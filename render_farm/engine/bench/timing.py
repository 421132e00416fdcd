"""Timing: contestants by turns, so that a noisy machine is as noisy to each of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from render_farm.engine.device import synchronize

Clock = Callable[[], float]
Works = Mapping[str, Callable[[], object]]

# A product takes about a millisecond on a large accelerator and 0.2 s on a core.
PEAK_SIDE_CPU = 2048
PEAK_SIDE_ACCELERATOR = 8192
PEAK_REPEATS_ACCELERATOR = 100


def timed(work: Callable[[], object], device: torch.device, clock: Clock) -> float:
    """Seconds that the work takes, until the device is done with it."""
    synchronize(device)
    began_s = clock()
    work()
    synchronize(device)
    return clock() - began_s


def by_turns(
    works_of: Callable[[int], Works],
    rounds: int,
    device: torch.device,
    clock: Clock = time.perf_counter,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """The median seconds of each work, all of them done once a round, one after the other.

    `works_of` makes the works of a round, from 1 on; that is not timed.
    """
    seconds: dict[str, list[float]] = {}
    for number in range(1, rounds + 1):
        for name, work in works_of(number).items():
            gc.collect()
            seconds.setdefault(name, []).append(timed(work, device, clock))
        took = ", ".join(f"{name} {all_s[-1]:.2f} s" for name, all_s in seconds.items())
        tell(f"round {number} of {rounds}: {took}")
    return {name: statistics.median(all_s) for name, all_s in seconds.items()}


class Product:
    """A large matrix product in a dtype, whose speed stands for the device's peak."""

    def __init__(self, device: torch.device, dtype: torch.dtype, side: int | None = None) -> None:
        accelerated = device.type != "cpu"
        self._side = side or (PEAK_SIDE_ACCELERATOR if accelerated else PEAK_SIDE_CPU)
        self._repeats = PEAK_REPEATS_ACCELERATOR if accelerated else 1
        shape = (self._side, self._side)
        # normal numbers, as activations are: zeros need less power and so run faster
        self._left = torch.randn(shape, device=device).to(dtype)
        self._right = torch.randn(shape, device=device).to(dtype)
        self._result = torch.empty(shape, device=device, dtype=dtype)

    @property
    def flops(self) -> int:
        """Operations of one call."""
        return 2 * self._side**3 * self._repeats

    @torch.inference_mode()
    def __call__(self) -> None:
        """Compute the product, several times on an accelerator."""
        for _ in range(self._repeats):
            torch.matmul(self._left, self._right, out=self._result)
