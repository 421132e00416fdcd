"""The whole benchmark on tiny models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from render_farm.engine.bench import subject
from render_farm.engine.bench.contest import bench_engine
from render_farm.engine.bench.options import BenchOptions, EngineFigures
from render_farm.engine.bench.ours import Ours
from render_farm.engine.bench.pictures import Pictures, Pixels
from render_farm.engine.bench.published import SD15, SDXL
from render_farm.engine.bench.twin import twin_pipeline
from render_farm.engine.bench.workload import Setting, Size, mixed_rows, uniform_rows
from render_farm.engine.model import LoadedPipeline
from render_farm.errors import EngineError, InputError
from render_farm.job.request import RenderRequest
from tests.engine.bench.conftest import shrunk

SIZE = Size(32, 32)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published names mean tiny models, of which few batches are tried."""
    monkeypatch.setattr(subject, "PUBLISHED", {"sd15": shrunk(SD15), "sdxl": shrunk(SDXL)})
    monkeypatch.setattr("render_farm.engine.bench.stock.LARGEST_BATCH", 4)


def measured(**changes: object) -> EngineFigures:
    options = BenchOptions(
        model="sd15",
        steps=1,
        size=SIZE,
        batch=2,
        stock_batch=2,
        rows=4,
        rounds=1,
        compiled=False,
    )
    return bench_engine(replace(options, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_both_sides_make_the_same_pictures(model: str):
    assert measured(model=model, steps=3).largest_difference <= 2


def test_the_stock_pipeline_is_taken_at_its_best_batch_unless_told():
    assert measured(rows=1).stock_batch == 2
    assert measured(rows=1, stock_batch=None).stock_batch in {1, 2, 4}


def test_the_figures_follow_from_each_other():
    figures = measured()
    assert figures.ratio_to_stock == pytest.approx(
        figures.images_per_s / figures.stock_images_per_s
    )
    assert figures.flops_per_image is not None
    done = figures.images_per_s * figures.flops_per_image
    assert figures.fraction_of_peak == pytest.approx(done / figures.peak_tflops / 1e12)
    assert 0 < figures.fraction_of_peak < 1
    assert 0 < figures.occupancy <= 1
    assert figures.peak_memory_mb > 100
    assert (figures.batch, figures.rows, figures.size) == (2, 4, "32x32")
    assert figures.uniform is figures.gain_kernels is figures.gain_scheduling is None


def test_mixed_rows_tell_the_gain_of_scheduling_and_of_kernels_apart():
    figures = measured(mixed=True, rows=3)
    assert figures.rows == 3
    assert figures.uniform is not None
    assert figures.gain_kernels == figures.uniform.ratio_to_stock
    assert figures.gain_scheduling is not None
    assert figures.gain_kernels * figures.gain_scheduling == pytest.approx(figures.ratio_to_stock)


def test_no_prompt_is_rendered_twice_so_that_none_is_found_encoded(
    monkeypatch: pytest.MonkeyPatch,
):
    rendered: list[str] = []
    render = Ours.render

    def watched(ours: Ours, rows: Sequence[RenderRequest], batch: int, pictures: Pictures) -> None:
        rendered.extend(row.prompt for row in rows)
        render(ours, rows, batch, pictures)

    monkeypatch.setattr(Ours, "render", watched)
    figures = measured(mixed=True, rows=2, rounds=2)
    assert figures.uniform is not None
    assert len(rendered) == 2 + 2 * (figures.uniform.rows + 2)
    assert len(set(rendered)) == len(rendered)


def test_pictures_of_both_sides_are_encoded_alike():
    encoded: list[Pixels] = []

    def encode(pixels: Pixels) -> bytes:
        encoded.append(pixels)
        return b""

    measured(encode=encode)
    assert len(encoded) == 2 * 4
    assert {pixels.shape for pixels in encoded} == {(32, 32, 3)}


def test_a_folder_is_measured_at_its_own_size_unless_told(sd15_folder: Path):
    figures = measured(model=str(sd15_folder), size=Size(64, 64))
    assert (figures.engine, figures.size) == ("steps", "64x64")
    assert figures.dtype == "float32"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"size": Size(33, 32)}, "--size"),
        ({"steps": 1000}, "--steps"),
        ({"model": "/no/such"}, "--model"),
        ({"model": "/tmp"}, "--model"),
        ({"dtype": "float8"}, "--dtype"),
        ({"mixed": True, "rows": 75 * 4 * 4 + 1}, "--rows"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(changes: dict[str, object], field: str):
    with pytest.raises(InputError) as error:
        measured(**changes)
    (problem,) = error.value.problems
    assert problem.field == field
    assert problem.value
    assert problem.allowed
    assert problem.fix


def test_a_row_that_is_refused_ends_the_benchmark(tiny_sd15: LoadedPipeline):
    ours = Ours(tiny_sd15, "call", compiled=False)
    bad = replace(uniform_rows(1, SIZE, Setting(1, 7.5, "model"))[0], width=33)
    with pytest.raises(EngineError, match="divisible by 8"):
        ours.render([bad], 1, Pictures())


def test_lanes_are_counted_from_the_last_reset_on(tiny_sd15: LoadedPipeline):
    apart = replace(tiny_sd15, pipeline=twin_pipeline(tiny_sd15.pipeline))
    ours = Ours(apart, "steps", compiled=False)
    rows = uniform_rows(3, SIZE, Setting(1, 7.5, "ddim"))
    ours.render(rows[:1], 2, Pictures())
    assert ours.occupancy == 0.5
    ours.reset()
    ours.render(rows[1:], 2, Pictures())
    assert ours.occupancy == 1


def test_calls_are_as_full_as_their_rows_make_them(tiny_sd15: LoadedPipeline):
    ours = Ours(tiny_sd15, "call", compiled=False)
    rows = [
        *uniform_rows(3, SIZE, Setting(1, 7.5, "ddim")),
        *uniform_rows(1, SIZE, Setting(3, 1.0, "ddim"), first=3),
    ]
    ours.render(rows, 2, Pictures())
    # 2 of 2 and 1 of 2 at two lanes a step, and 1 of 2 at one lane and three steps
    assert ours.occupancy == (2 * 3 + 3) / (2 * 4 + 6)
    ours.reset()
    ours.render(rows[:2], 2, Pictures())
    assert ours.occupancy == 1


def test_every_row_is_rendered_once_in_any_order(tiny_sd15: LoadedPipeline):
    rows = [replace(row, steps=1) for row in mixed_rows(SIZE, batch=1, count=7)]
    with Pictures(keep=range(7)) as pictures:
        Ours(tiny_sd15, "call", compiled=False).render(rows, 2, pictures)
    assert pictures.count == 7
    assert len(pictures.kept) == 7
