"""Pictures drawn from the seed instead of a model: to rehearse a job at full scale for free.

Imports neither torch nor diffusers.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from render_farm.engine.batches import batches
from render_farm.engine.checks import check_request, picture_flags
from render_farm.engine.sampler import (
    Refused,
    Rendered,
    SamplerInfo,
    SortKey,
    batch_shape_label,
)
from render_farm.engine.schedulers import NAMES
from render_farm.errors import RowError, shown
from render_farm.job.request import RenderRequest

SIZE_FACTOR = 8
MOST_STEPS = 1000
BATCH_SIZE = 8
BLOCKS = 8
BAR_SHARE = 8

_DARKER = bytes(value * 3 // 4 for value in range(256))
"""Leaves room for the shade."""


class RehearsalSampler:
    """A `Sampler` without a model: the same checks, the same batches, pictures for free.

    A picture is a pattern of coloured blocks on a gradient, drawn from the seed, above a bar of
    colours drawn from the prompt: rows that swapped seeds or prompts show. `seconds_per_image`
    makes each picture take that long, by way of `sleep`.
    """

    def __init__(
        self,
        seconds_per_image: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._seconds_per_image = seconds_per_image
        self._sleep = sleep
        self._clock = clock
        self._info = SamplerInfo(
            engine="rehearsal",
            device="rehearsal",
            dtype="uint8",
            versions={"numpy": np.__version__},
        )

    @property
    def info(self) -> SamplerInfo:
        """The device is ``rehearsal``, whatever the machine: the pictures are the same on all."""
        return self._info

    def check(self, request: RenderRequest) -> None:
        """Refuse what no Stable Diffusion model can render.

        Raises: `RowError` with one of ``bad_prompt``, ``bad_size``, ``bad_guidance_scale``,
        ``bad_seed``, ``unknown_scheduler``, ``bad_steps``.
        """
        check_request(request, SIZE_FACTOR)
        if request.scheduler not in NAMES:
            raise RowError(
                "unknown_scheduler",
                f"scheduler: {shown(request.scheduler)} (allowed: {', '.join(NAMES)})",
            )
        if (
            isinstance(request.steps, bool)
            or not isinstance(request.steps, int)
            or not 1 <= request.steps <= MOST_STEPS
        ):
            raise RowError(
                "bad_steps", f"steps: {shown(request.steps)} (allowed: 1 to {MOST_STEPS})"
            )

    def order(self, request: RenderRequest) -> SortKey:
        """Pictures of one size share a batch."""
        return _size(request)

    def default_batch_size(self, width: int, height: int) -> int:
        """Always the same: memory does not matter here."""
        del width, height
        return BATCH_SIZE

    def render(
        self, requests: Iterable[RenderRequest], batch_size: int
    ) -> Iterator[Rendered | Refused]:
        """Draw requests lazily, batch by batch; see `Sampler.render`. Refuses none."""
        for batch in batches(requests, batch_size, _size):
            if self._seconds_per_image:
                for request in batch:
                    self._sleep(self._seconds_per_image)
                    yield from self._draw([request], batch_size)
            else:
                yield from self._draw(batch, batch_size)

    def _draw(self, batch: Sequence[RenderRequest], batch_size: int) -> list[Rendered]:
        """Draw pictures together: a fifth faster than one by one with other work in between."""
        began_s = self._clock()
        pictures = [draw(one.prompt, one.seed, one.width, one.height) for one in batch]
        flags = [picture_flags(pixels) for pixels in pictures]
        width, height = _size(batch[0])
        shape = batch_shape_label(batch_size, width, height, compiled=False)
        share_s = self._seconds_per_image + (self._clock() - began_s) / len(batch)
        return [
            Rendered(request, pixels, shape, share_s, flags=found)
            for request, pixels, found in zip(batch, pictures, flags, strict=True)
        ]


def _size(request: RenderRequest) -> tuple[int, int]:
    return request.width, request.height


def draw(prompt: str, seed: int, width: int, height: int) -> NDArray[np.uint8]:
    """A picture, uint8 [height, width, 3], that depends on nothing but the four arguments.

    The upper seven eighths are blocks from SHAKE128 of the seed (0…2^64−1), shaded from left to
    right; the rest is a bar of eight colours from SHA-256 of the prompt. Whole numbers throughout,
    so it is the same on every machine. Seeding a generator of numpy's took half the time of a
    small picture.
    """
    drawn = hashlib.shake_128(seed.to_bytes(8, "big")).digest(BLOCKS * BLOCKS * 3)
    colours = np.frombuffer(drawn.translate(_DARKER), np.uint8).reshape(BLOCKS, BLOCKS, 3)
    grid = _grid(width, height)
    strips = colours.take(grid.columns, axis=1)  # [BLOCKS, W, 3]
    strips += grid.shade  # at most 254
    picture = strips.take(grid.rows, axis=0)  # [H, W, 3]
    digest = np.frombuffer(hashlib.sha256(prompt.encode(errors="surrogatepass")).digest(), np.uint8)
    bar = digest[: BLOCKS * 3].reshape(BLOCKS, 3)
    picture[height - height // BAR_SHARE :] = bar.take(grid.columns, axis=0)
    return picture


class _Grid(NamedTuple):
    """What pictures of one size have in common."""

    columns: NDArray[np.intp]  # [W]: the block that each column lies in
    rows: NDArray[np.intp]  # [H]: the block that each row lies in
    shade: NDArray[np.uint8]  # [W, 1], 0…63


@lru_cache(maxsize=64)
def _grid(width: int, height: int) -> _Grid:
    return _Grid(
        columns=np.arange(width) * BLOCKS // width,
        rows=np.arange(height) * BLOCKS // height,
        shade=(np.arange(width) * 64 // width).astype(np.uint8)[:, None],
    )
