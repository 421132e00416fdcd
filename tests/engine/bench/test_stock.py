"""The stock side: grouped by setting, at its best batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from render_farm.engine.bench.pictures import Pictures
from render_farm.engine.bench.stock import Stock, best_batch, calls, most_for
from render_farm.engine.bench.switches import Switches
from render_farm.engine.bench.workload import Setting, Size, mixed_rows, setting_of, uniform_rows
from render_farm.engine.call import CallSampler
from render_farm.engine.model import LoadedPipeline
from render_farm.engine.sampler import Rendered
from render_farm.errors import OutOfMemory
from render_farm.job.request import RenderRequest

SIZE = Size(64, 64)
SETTING = Setting(20, 7.5, "model")


class SpeedOf:
    """A stock side that takes as long as it is told, and the clock that says so."""

    device = torch.device("cpu")

    def __init__(self, images_per_s: dict[int, float]) -> None:
        self.images_per_s = images_per_s
        self.now_s = 0.0
        self.tried: list[int] = []
        self.steps: set[int] = set()

    def render(self, rows: Sequence[RenderRequest], batch: int, pictures: Pictures) -> None:
        del pictures
        self.steps |= {row.steps for row in rows}
        if batch not in self.images_per_s:
            raise OutOfMemory(batch, "full")
        if batch not in self.tried:
            self.tried.append(batch)
        self.now_s += len(rows) / self.images_per_s[batch]

    def best(self, most: int = 64) -> int:
        side: Any = self
        return best_batch(side, SIZE, SETTING, most, clock=lambda: self.now_s)


def test_the_fastest_batch_is_taken():
    stock = SpeedOf({1: 10, 2: 18, 4: 30, 8: 29, 16: 28, 32: 99})
    assert stock.best() == 4
    assert stock.tried == [1, 2, 4, 8, 16]
    assert stock.steps == {10}


def test_one_doubling_that_gains_nothing_does_not_end_the_search():
    assert SpeedOf({1: 10, 2: 20, 4: 19, 8: 40, 16: 60, 32: 61, 64: 62}).best() == 64


def test_memory_and_the_most_allowed_end_the_search():
    assert SpeedOf({1: 10, 2: 20}).best() == 2
    assert SpeedOf({1: 10, 2: 20, 4: 40, 8: 80}).best(most=4) == 4
    with pytest.raises(OutOfMemory):
        SpeedOf({}).best()


def test_a_call_that_takes_a_minute_ends_the_search():
    stock = SpeedOf({1: 0.01, 2: 0.02})
    assert stock.best() == 1
    assert stock.tried == [1]


def test_calls_are_of_one_setting_and_at_most_the_batch():
    rows = mixed_rows(SIZE, batch=2)
    made = list(calls(rows, 3))
    assert max(map(len, made)) == 3
    assert all(len(set(map(setting_of, call))) == 1 for call in made)
    assert sorted(row.row for call in made for row in call) == [row.row for row in rows]


def test_mixed_rows_get_the_pictures_that_calls_of_their_own_give_them(sd15: LoadedPipeline):
    rows = [
        *uniform_rows(3, SIZE, Setting(2, 5.0, "ddim")),
        *uniform_rows(2, SIZE, Setting(3, 1.0, "euler"), first=3),
    ]
    shuffled = [rows[number] for number in (3, 0, 4, 2, 1)]
    with Pictures(keep=range(5)) as pictures:
        Stock(sd15, Switches.now()).render(shuffled, 2, pictures)
    alone = {
        answer.request.row: answer.pixels
        for answer in CallSampler(sd15).render(rows, 1)
        if isinstance(answer, Rendered)
    }
    assert pictures.count == 5
    for row, pixels in pictures.kept.items():
        assert np.abs(pixels.astype(int) - alone[row]).max() <= 1


def test_it_renders_with_the_switches_that_it_was_given(
    sd15: LoadedPipeline, monkeypatch: pytest.MonkeyPatch
):
    users = Switches.now()
    monkeypatch.setattr(
        torch.backends.cudnn, "deterministic", not users.values["cudnn", "deterministic"]
    )
    stock = Stock(sd15, users)
    seen: list[Switches] = []

    def call(rows: object) -> list[object]:
        seen.append(Switches.now())
        return [np.zeros((2, 2, 3), np.uint8)]

    monkeypatch.setattr(stock, "_call", call)
    stock.render(uniform_rows(1, SIZE, SETTING), 1, Pictures())
    assert seen == [users]
    assert Switches.now() != users


def test_a_cpu_is_not_tried_with_more_than_its_memory_holds():
    cpu = torch.device("cpu")
    assert most_for(cpu, torch.float32, Size(64, 64)) == 64
    assert most_for(cpu, torch.float32, Size(8192, 8192)) == 1
    assert most_for(torch.device("cuda"), torch.float16, Size(8192, 8192)) == 64
