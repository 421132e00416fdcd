"""What is measured, by the options: model, size, steps, rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from render_farm.engine.bench import subject
from render_farm.engine.bench.options import BenchOptions
from render_farm.engine.bench.ours import warm_up
from render_farm.engine.bench.pictures import Pictures
from render_farm.engine.bench.published import SD15, SDXL
from render_farm.engine.bench.subject import find_subject, uniform_count
from render_farm.engine.bench.workload import Setting, Size
from render_farm.errors import InputError, OutOfMemory
from render_farm.job.request import RenderRequest
from tests.engine.bench.conftest import shrunk

SIZE = Size(64, 64)
SETTING = Setting(20, 7.5, "model")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "PUBLISHED", {"sd15": shrunk(SD15), "sdxl": shrunk(SDXL)})


def test_published_models_are_measured_at_their_usual_size_and_steps():
    found = find_subject(BenchOptions("sd15"))
    assert (found.engine, found.size, found.setting) == (
        "steps",
        Size(512, 512),
        Setting(50, 7.5, "model"),
    )
    assert find_subject(BenchOptions("sdxl")).size == Size(1024, 1024)
    assert find_subject(BenchOptions("sdxl")).setting.steps == 20


def test_uniform_rows_beside_mixed_ones_have_their_average_steps():
    assert find_subject(BenchOptions("sd15", mixed=True)).setting.steps == 25
    assert find_subject(BenchOptions("sd15", mixed=True, steps=3)).setting.steps == 3


def test_a_folder_is_measured_at_its_own_size(sd15_folder: Path):
    found = find_subject(BenchOptions(str(sd15_folder)))
    assert (found.size, found.engine) == (Size(512, 512), "steps")


def test_uniform_rows_are_full_batches_of_both_sides_where_they_are_not_too_many():
    options = BenchOptions("sd15")
    assert uniform_count(options, 8, 32) == 64
    assert uniform_count(options, 12, 32) == 2 * 96
    assert uniform_count(options, 31, 32) == 64
    assert uniform_count(replace(options, rows=5), 8, 32) == 5
    assert uniform_count(replace(options, rows=5, mixed=True), 8, 8) == 16


class MemoryFor:
    """Our side on a device that holds so many pictures."""

    def __init__(self, pictures: int, chosen: int = 32) -> None:
        self.pictures = pictures
        self.chosen = chosen
        self.steps: list[int] = []

    def default_batch(self, width: int, height: int) -> int:
        del width, height
        return self.chosen

    def render(self, rows: Sequence[RenderRequest], batch: int, pictures: Pictures) -> None:
        del pictures
        if batch > self.pictures:
            raise OutOfMemory(batch, "full")
        self.steps.extend(row.steps for row in rows)


def warmed(side: Any, wanted: int | None = None) -> int:
    return warm_up(side, wanted, SIZE, SETTING, CPU)[0]


def test_a_chosen_batch_is_halved_until_it_fits():
    side = MemoryFor(10)
    assert warmed(side) == 8
    assert side.steps == [2] * 8
    with pytest.raises(OutOfMemory):
        warmed(MemoryFor(0))


def test_a_batch_that_was_asked_for_fits_or_is_refused():
    assert warmed(MemoryFor(10), wanted=7) == 7
    with pytest.raises(InputError) as error:
        warmed(MemoryFor(10), wanted=11)
    assert error.value.problems[0].field == "--batch"
