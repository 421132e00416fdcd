"""The contact sheet."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from render_farm.errors import InputError
from render_farm.views.results import pick_samples
from render_farm.views.sheet import TILE_PX, make_sheet
from tests.making.stores import drive_on, render_on
from tests.views.conftest import POISONED, ROWS, Made


def decoded(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        image.load()
        return image.convert("RGB")


def test_samples_are_picked_evenly_over_the_run(make_run: Callable[..., Made]) -> None:
    store, record = make_run(rows=40, shards={"rows": 7})
    drive_on(store, record)
    picked = [sample.record["row"] for sample in pick_samples(store, record, 8)]
    assert picked == [0, 10, 15, 20, 25, 30, 35]  # row 5 is quarantined
    assert [sample.record["row"] for sample in pick_samples(store, record, 99)] == [
        row for row in range(40) if row != POISONED
    ]


def test_it_is_a_picture_of_as_many_samples_as_it_says(run: Made) -> None:
    sheet = make_sheet(*run, 4, columns=2)
    image = decoded(sheet.png)
    assert sheet.samples == 3  # rows 0, 2, 5 and 7, of which 5 is quarantined
    assert image.width >= 2 * TILE_PX
    assert image.height >= 2 * TILE_PX
    assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 100


def test_more_samples_make_a_larger_sheet(run: Made) -> None:
    small, large = make_sheet(*run, 1), make_sheet(*run, ROWS)
    assert large.samples == ROWS - 1
    assert decoded(large.png).width > decoded(small.png).width


def test_a_run_half_done_shows_what_is_done(make_run: Callable[..., Made]) -> None:
    store, record = make_run()
    render_on(store, record, 0)
    assert make_sheet(store, record, ROWS).samples == 4


def test_a_run_with_nothing_done_has_no_sheet(make_run: Callable[..., Made]) -> None:
    with pytest.raises(InputError, match="done samples"):
        make_sheet(*make_run(), 8)


@pytest.mark.parametrize(
    "prompt", ["", " ", "x" * 5000, "many words " * 500, "日本語 émoji 🙂\n\t\x07", "a\n\nb"]
)
def test_any_prompt_can_be_written_under_its_picture(
    prompt: str, make_run: Callable[..., Made]
) -> None:
    store, record = make_run(1, {"prompt": [prompt]}, defaults={"width": 8, "height": 40})
    render_on(store, record, 0)
    [sample] = pick_samples(store, record, 1)
    assert sample.record["prompt"] == prompt
    decoded(make_sheet(store, record, 1).png)
