"""A stand-in for an accelerator: it takes the time and leaves the host as free as a real one does.

Imports neither torch nor diffusers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from render_farm.engine.batches import batches
from render_farm.engine.checks import picture_flags
from render_farm.engine.rehearsal import RehearsalSampler, draw
from render_farm.engine.sampler import Refused, Rendered, batch_shape_label
from render_farm.job.request import RenderRequest


class StandInSampler(RehearsalSampler):
    """A `Sampler` whose device sleeps `step_s` for each step of a batch; draws rehearsal pictures.

    A real device computes by itself: the host queues the next batch, and while that one is
    computed it fetches the pictures of the batch before. So here the device is a thread that
    sleeps, with one batch in hand and at most one queued, and the caller's thread draws what the
    device is done with. A batch takes as many steps as its longest request, whether it is full or
    not, in one sleep, since a device asks nobody between two steps.

    `render_s` is a picture's share of its batch's nominal time: all of them add up to the time for
    which the device was wanted. What a sleep takes beyond that is nobody's.
    """

    def __init__(self, step_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__()
        self._step_s = step_s
        self._device_sleep = sleep

    def render(
        self, requests: Iterable[RenderRequest], batch_size: int
    ) -> Iterator[Rendered | Refused]:
        """Draw requests lazily, at most two batches ahead; see `Sampler.render`. Refuses none."""
        device = ThreadPoolExecutor(1, thread_name_prefix="device")
        before: tuple[list[RenderRequest], Future[float]] | None = None
        try:
            for batch in batches(requests, batch_size, self.order):
                queued = batch, device.submit(self._compute, batch)
                if before is not None:
                    yield from _pictures(*before, batch_size)
                before = queued
            if before is not None:
                yield from _pictures(*before, batch_size)
        finally:
            device.shutdown(cancel_futures=True)

    def _compute(self, batch: list[RenderRequest]) -> float:
        """The device's part: nominal seconds of the batch."""
        batch_s = self._step_s * max(request.steps for request in batch)
        self._device_sleep(batch_s)
        return batch_s


def _pictures(
    batch: list[RenderRequest], computed: Future[float], batch_size: int
) -> Iterator[Rendered]:
    """The host's part: the pictures of a batch, once the device is done with it."""
    share_s = computed.result() / len(batch)
    for request in batch:
        width, height = request.width, request.height
        pixels = draw(request.prompt, request.seed, width, height)
        yield Rendered(
            request=request,
            pixels=pixels,
            batch_shape=batch_shape_label(batch_size, width, height, compiled=False),
            render_s=share_s,
            flags=picture_flags(pixels),
        )
