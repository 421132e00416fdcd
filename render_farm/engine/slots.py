"""Which request is in which lanes of the denoiser, and which requests are to come."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from render_farm.engine.conditioning import is_guided
from render_farm.job.request import RenderRequest


def lanes_needed(request: RenderRequest) -> int:
    """Two with guidance, for the prompt and the negative prompt; one without."""
    return 2 if is_guided(request) else 1


@dataclass(slots=True)
class Slot:
    """A request that is being denoised: `lanes` holds its prompt's lane and then the negative's.

    `render_s` adds up its share of the time so far.
    """

    request: RenderRequest
    lanes: tuple[int, ...]
    render_s: float = 0.0


@dataclass(slots=True)
class Denoised:
    """A request that has left its lanes, with its latents, [1, C, h, w]."""

    request: RenderRequest
    latents: torch.Tensor
    render_s: float


class LaneTable:
    """Hands out a fixed number of lanes and takes them back."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))[::-1]

    @property
    def free(self) -> int:
        """How many lanes are free."""
        return len(self._free)

    def reserve(self, count: int) -> tuple[int, ...]:
        """Take free lanes, the lowest first. Raises: `IndexError` when there are fewer."""
        return tuple(self._free.pop() for _ in range(count))

    def release(self, lanes: tuple[int, ...]) -> None:
        """Give lanes back."""
        self._free.extend(lanes)
        self._free.sort(reverse=True)


@dataclass(slots=True)
class Occupancy:
    """Counts lanes over forwards: those computed, and those that advanced a real request."""

    computed: int = 0
    advanced: int = 0

    @property
    def share(self) -> float:
        """Advanced ÷ computed; 1 before anything was computed."""
        return self.advanced / self.computed if self.computed else 1.0


class Window:
    """The requests to come, a few of them at a time, so that one can be chosen that fits."""

    def __init__(self, requests: Iterable[RenderRequest], look_ahead: int) -> None:
        self._requests = iter(requests)
        self._look_ahead = look_ahead
        self._waiting: deque[RenderRequest] = deque()

    def first(self) -> RenderRequest | None:
        """The request that has waited longest, left where it is; None at the end."""
        self._look()
        return self._waiting[0] if self._waiting else None

    def take(self, size: tuple[int, int], lanes: int) -> RenderRequest | None:
        """The first request in sight of that size (px) that fits into so many lanes."""
        self._look()
        for position, request in enumerate(self._waiting):
            if (request.width, request.height) == size and lanes_needed(request) <= lanes:
                del self._waiting[position]
                return request
        return None

    def __iter__(self) -> Iterator[RenderRequest]:
        """The requests in sight."""
        return iter(self._waiting)

    def _look(self) -> None:
        while len(self._waiting) < self._look_ahead:
            request = next(self._requests, None)
            if request is None:
                return
            self._waiting.append(request)
