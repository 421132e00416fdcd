"""A picture's bytes follow from its request and the batch size, however the work is arranged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from render_farm.engine.schedulers import NAMES
from render_farm.engine.steps import StepSampler
from render_farm.job.request import RenderRequest
from tests.engine.conftest import REQUEST, LoadModel, needs_compiler, pixels_of


def mixed_rows(second_size: tuple[int, int]) -> Iterator[RenderRequest]:
    """Every scheduler twice, in two sizes, guided and not, with few distinct texts and steps."""
    for row in range(2 * len(NAMES)):
        width, height = second_size if row >= len(NAMES) else (32, 32)
        yield replace(
            REQUEST,
            row=row,
            seed=90 + row,
            scheduler=NAMES[row % len(NAMES)],
            steps=2 + row % 3,
            guidance_scale=(0.0, 1.0, 1.5, 7.5)[row % 4],
            # with the negative ones fewer texts than an encoder takes: the tiny encoders' layers of
            # 37 numbers do not fill vectors, and their last lane has bits of its own
            prompt=f"picture {row % 5}",
            negative_prompt=("", "grey")[row % 2],
            width=width,
            height=height,
        )


PHASES = (Phase.explicit, Phase.generate)
ROWS = 2 * len(NAMES)
POOLS = {
    "demo": list(mixed_rows((32, 48))),
    "sd15": list(mixed_rows((24, 40))),
    "sdxl": list(mixed_rows((40, 24))),
}


@dataclass(frozen=True)
class Shard:
    """Rows that one call renders, on a worker that other shards used before or on a new one."""

    rows: tuple[int, ...]
    new_worker: bool


@st.composite
def arrangements(draw: st.DrawFn) -> list[Shard]:
    """Some of the rows in any order, cut into shards: what is left out was done before a resume."""
    rows = draw(st.permutations(range(ROWS)))
    kept = rows[: draw(st.integers(1, len(rows)))]
    cuts = sorted(draw(st.sets(st.integers(1, len(rows)), max_size=3)))
    shards = [kept[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    return [Shard(tuple(shard), draw(st.booleans())) for shard in shards if shard]


class Farm:
    """Workers with one model, and what each of them renders."""

    def __init__(self, model: str, load_model: LoadModel, batch_size: int) -> None:
        self._load = partial(load_model, model)
        self._batch_size = batch_size
        self._pool = POOLS[model]
        self._old = StepSampler(self._load())
        self.reference = pixels_of(self._old.render(self._pool, batch_size))

    def render(self, shard: Shard) -> dict[int, bytes]:
        sampler = StepSampler(self._load()) if shard.new_worker else self._old
        return pixels_of(sampler.render([self._pool[row] for row in shard.rows], self._batch_size))


@pytest.mark.parametrize(
    ("model", "batch_size"), [("demo", 1), ("demo", 2), ("sdxl", 2), ("sd15", 3), ("demo", 8)]
)
def test_the_bytes_of_a_picture_are_the_same_in_every_arrangement(load_model, model, batch_size):
    farm = Farm(model, load_model, batch_size)
    assert len(set(farm.reference.values())) == ROWS

    # not shrunk: that would take minutes
    @settings(max_examples=4, deadline=None, derandomize=True, database=None, phases=PHASES)
    @given(arrangements())
    def holds(shards: list[Shard]) -> None:
        for shard in shards:
            assert farm.render(shard) == {row: farm.reference[row] for row in shard.rows}

    holds()


def test_neighbours_that_are_stepped_together_change_nothing(stepper, stepped):
    # the arrangements draw equal schedules rarely: here are four of each, begun at once
    afresh = StepSampler(stepped)
    for name, request in zip(NAMES, POOLS["demo"], strict=False):
        assert request.scheduler == name
        rows = [replace(request, row=n, seed=n, prompt=f"number {n}") for n in range(4)]
        together = pixels_of(stepper.render(rows, 4))
        assert pixels_of(afresh.render(rows[2:3], 4)) == {2: together[2]}, name


@pytest.mark.parametrize(
    ("size", "batch_size"),
    [
        ((72, 104), 2),
        ((72, 104), 3),
        ((24, 40), 1),
        ((16, 16), 3),
        ((8, 8), 1),
        ((32, 48), 3),
    ],
)
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_the_last_lane_is_as_good_as_the_first_where_lanes_do_not_fill_vectors(
    stepper, size, batch_size, guidance
):
    # on a CPU torch computes the last few numbers of an activation by another formula
    row = replace(REQUEST, width=size[0], height=size[1], guidance_scale=guidance)
    rows = [replace(row, row=n, seed=n) for n in range(2 * batch_size)]
    together = pixels_of(stepper.render(rows, batch_size))
    assert pixels_of(stepper.render(rows[::-1], batch_size)) == together
    assert pixels_of(stepper.render(rows[-1:], batch_size)) == {
        rows[-1].row: together[len(rows) - 1]
    }


@needs_compiler
def test_compiled_forwards_keep_that_promise(load_model):
    sampler = StepSampler(load_model("demo"), compiled=True)
    rows = POOLS["demo"][:7]
    answers = list(sampler.render(rows, 2))
    assert {answer.batch_shape for answer in answers} == {"2x32x32+compiled"}
    reference = pixels_of(answers)
    again = pixels_of(sampler.render(rows[:2:-1], 2)) | pixels_of(sampler.render(rows[2:3], 2))
    assert again == {row: reference[row] for row in again}
    assert len(again) == 5
