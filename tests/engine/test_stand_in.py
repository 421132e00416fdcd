"""The stand-in accelerator: a device that takes its time and a host that is free meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from render_farm.engine.rehearsal import RehearsalSampler
from render_farm.engine.sampler import Rendered
from render_farm.engine.stand_in import StandInSampler
from render_farm.job.request import RenderRequest

PATIENCE_S = 60


def requests(count: int, steps: int = 4, width: int = 64) -> list[RenderRequest]:
    return [
        RenderRequest(
            row=row,
            sample=0,
            id=None,
            prompt=f"picture {row}",
            negative_prompt="",
            seed=row,
            width=width,
            height=64,
            steps=steps,
            guidance_scale=7.5,
            scheduler="model",
        )
        for row in range(count)
    ]


class Device:
    """Stands in for sleeping: notes how long, and with `held` sleeps until it is let go."""

    def __init__(self, *, held: bool = False) -> None:
        self.slept: list[float] = []
        self._go = threading.Semaphore(0 if held else 1_000_000)

    def __call__(self, seconds: float) -> None:
        assert self._go.acquire(timeout=PATIENCE_S)
        self.slept.append(seconds)

    def let_go(self) -> None:
        self._go.release()


def test_every_request_is_answered_once_with_the_picture_of_a_rehearsal():
    asked = requests(10)
    found = list(StandInSampler(0.03, Device()).render(asked, 4))
    expected = list(RehearsalSampler().render(asked, 4))
    assert [each.request for each in found] == asked
    for ours, theirs in zip(found, expected, strict=True):
        assert isinstance(ours, Rendered)
        assert isinstance(theirs, Rendered)
        assert (ours.pixels == theirs.pixels).all()
        assert (ours.flags, ours.batch_shape) == (theirs.flags, theirs.batch_shape)


def test_a_batch_takes_the_steps_of_its_longest_request_full_or_not():
    device = Device()
    asked = [*requests(4, steps=10), *requests(1, steps=30), *requests(1, steps=20)]
    list(StandInSampler(0.5, device).render(asked, 4))
    assert device.slept == [5.0, 15.0]


def test_sizes_do_not_share_a_batch():
    device = Device()
    list(StandInSampler(1.0, device).render([*requests(2), *requests(2, width=128)], 4))
    assert device.slept == [4.0, 4.0]


def test_the_times_of_the_pictures_add_up_to_the_nominal_time_of_the_device():
    found = list(StandInSampler(0.25, Device()).render(requests(10, steps=8), 4))
    assert sum(each.render_s for each in found) == pytest.approx(3 * 8 * 0.25)


def test_the_device_computes_the_next_batch_while_the_host_draws():
    """Two batches have been handed to the device when the first picture of the first comes."""
    device = Device(held=True)
    taken: list[int] = []

    def stream() -> Iterator[RenderRequest]:
        for request in requests(12):
            taken.append(request.row)
            yield request

    pictures = StandInSampler(1.0, device).render(stream(), 4)
    device.let_go()
    next(pictures)
    assert len(taken) == 8  # a batch that is drawn and one that is computed, not three
    device.let_go()
    for _ in range(4):
        next(pictures)
    assert device.slept == [4.0, 4.0]
    assert len(taken) == 12
    device.let_go()
    assert len(list(pictures)) == 7


def test_no_picture_comes_before_the_device_is_done_with_its_batch():
    device = Device(held=True)
    pictures = StandInSampler(1.0, device).render(requests(8), 4)
    came: list[object] = []
    host = threading.Thread(target=lambda: came.extend(pictures), daemon=True)
    host.start()
    host.join(timeout=0.3)
    assert came == []
    device.let_go()
    device.let_go()
    host.join(timeout=PATIENCE_S)
    assert len(came) == 8


def test_a_caller_who_goes_away_leaves_no_device_behind():
    pictures = StandInSampler(1.0, Device()).render(requests(64), 4)
    next(pictures)
    pictures.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("device")]
