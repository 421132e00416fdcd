"""Rendering again what was committed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.engine.rehearsal import RehearsalSampler
from render_farm.engine.sampler import Refused, Rendered, Sampler, batch_shape_label
from render_farm.errors import InputError
from render_farm.job.request import RenderRequest
from render_farm.job.seeds import reroll_seed
from render_farm.ledger import keys
from render_farm.store.base import Store
from render_farm.views.replay import replay_samples
from tests.making.samplers import CuedSampler
from tests.making.stores import drive_on, render_on
from tests.views.conftest import POISONED, ROWS, Made


class Recorder(RehearsalSampler):
    """Notes the batches it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def render(
        self, requests: Iterable[RenderRequest], batch_size: int
    ) -> Iterator[Rendered | Refused]:
        self.batches.append(batch_size)
        return super().render(requests, batch_size)


class Shifted(RehearsalSampler):
    """Other software: every picture is one brighter in one place."""

    def render(self, requests, batch_size):
        for outcome in super().render(requests, batch_size):
            outcome.pixels[0, 0, 0] ^= 1
            yield outcome


class Refusing(RehearsalSampler):
    def render(self, requests, batch_size):
        for request in requests:
            yield Refused(request, "nan", "not a number")


def rehearsal(compiled: bool) -> Sampler:
    """Built as the run's samples were: none of the rehearsal's is compiled."""
    assert not compiled
    return RehearsalSampler()


def test_samples_of_a_whole_run_come_out_the_same(run: Made) -> None:
    replays = replay_samples(*run, ROWS, rehearsal)
    assert [replay.key for replay in replays] == [
        f"{row:09d}_00" for row in range(ROWS) if row != POISONED
    ]
    assert all(replay.same and replay.psnr_db == math.inf for replay in replays)


def test_as_many_as_asked_for_are_spread_over_the_run(run: Made) -> None:
    replays = replay_samples(*run, 2, rehearsal)
    assert [replay.key for replay in replays] == ["000000000_00"]  # row 5 is quarantined
    replays = replay_samples(*run, 3, rehearsal)
    assert [replay.key for replay in replays] == ["000000000_00", "000000003_00", "000000006_00"]
    assert replay_samples(*run, 0, rehearsal) == []


def test_they_are_rendered_at_their_recorded_shape(make_run: Callable[..., Made]) -> None:
    store, record = make_run(workers={"batch_size": 3})
    drive_on(store, record)
    sampler = Recorder()
    assert all(replay.same for replay in replay_samples(store, record, 4, lambda compiled: sampler))
    assert set(sampler.batches) == {3}


def test_other_pixels_are_a_mismatch_with_its_size(run: Made) -> None:
    for replay in replay_samples(*run, 3, lambda compiled: Shifted()):
        assert not replay.same
        assert 60 < replay.psnr_db < math.inf


def test_a_sample_that_is_refused_now_is_a_mismatch(run: Made) -> None:
    for replay in replay_samples(*run, 3, lambda compiled: Refusing()):
        assert not replay.same
        assert math.isnan(replay.psnr_db)


@pytest.mark.parametrize("whole_run", ["parquet"], indirect=True)
def test_a_row_with_another_rows_picture_is_found_though_all_digests_agree(run: Made) -> None:
    """Pictures, digests, receipt: a swap that only rendering from the input can see."""
    store, record = run
    [key] = [info.key for info in store.list(keys.DATA) if info.key.startswith("data/000000")]
    table = pq.read_table(pa.BufferReader(store.get(key)))
    order = [2, 1, 0, *range(3, table.num_rows)]  # sample 0 of rows 0 and 1
    for name in ("image", "sha256", "size_bytes", "seed", "prompt"):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), table.column(index).take(order))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.put(key, sink.getvalue().to_pybytes())
    replays = {replay.key: replay.same for replay in replay_samples(store, record, 10, rehearsal)}
    assert [sample for sample, same in replays.items() if not same] == [
        "000000000_00",
        "000000001_00",
    ]


def test_a_run_that_has_only_begun_replays_what_is_there(make_run: Callable[..., Made]) -> None:
    store, record = make_run()
    assert replay_samples(store, record, 5, rehearsal) == []
    render_on(store, record, 2)
    replays = replay_samples(store, record, ROWS, rehearsal)
    assert [replay.key for replay in replays] == ["000000008_00", "000000009_00"]


def test_an_input_that_changed_is_refused(make_run: Callable[..., Made]) -> None:
    store, record = make_run()
    drive_on(store, record)
    files = tuple(
        file.model_copy(update={"sha256": hashlib.sha256(b"").hexdigest()})
        for file in record.prompts.files
    )
    prompts = record.prompts.model_copy(update={"files": files})
    with pytest.raises(InputError, match="pinned"):
        replay_samples(store, record.model_copy(update={"prompts": prompts}), 1, rehearsal)


BAD_ROW = 1


def black_seeds(tries: int) -> frozenset[int]:
    """The seeds of the first tries at a sample of the row whose seed is 1001."""
    return frozenset([1001, *(reroll_seed(1001, n) for n in range(1, tries))])


@pytest.fixture
def rerolled_run(make_run: Callable[..., Made]) -> Made:
    """Row 1's picture is its second reroll. In Parquet, where metadata are easy to rewrite."""
    store, record = make_run(
        4,
        columns={"seed": [1000, 1001, 1002, 1003]},
        layout={"container": "parquet"},
        defaults={"width": 16, "height": 16},
        limits={"on_flagged": "reroll", "max_quarantined": 1.0},
    )
    drive_on(store, record, sampler=CuedSampler(black=black_seeds(2)))
    return store, record


def rewrite(store: Store, **columns: object) -> None:
    """Record something else of the row that was rerolled."""
    [key] = [info.key for info in store.list(keys.DATA)]
    table = pq.read_table(pa.BufferReader(store.get(key)))
    for name, value in columns.items():
        index = table.schema.get_field_index(name)
        values = table.column(index).to_pylist()
        values[BAD_ROW] = value
        array = pa.array(values, table.schema.field(index).type)
        table = table.set_column(index, table.schema.field(index), array)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.put(key, sink.getvalue().to_pybytes())


def test_a_rerolled_sample_is_replayed_from_its_reroll(rerolled_run: Made) -> None:
    replays = replay_samples(*rerolled_run, 4, rehearsal)
    assert len(replays) == 4
    assert all(replay.same for replay in replays)


@pytest.mark.parametrize(
    "recorded",
    [
        {"seed": 1001},
        {"seed": 1001, "flags": []},
        {"seed": reroll_seed(1001, 1)},
        {"seed": reroll_seed(1001, 1), "flags": ["reroll:1"]},
        {"seed": reroll_seed(1000, 2)},
        {"seed": reroll_seed(1001, 4), "flags": ["reroll:4"]},
        {"flags": []},
        {"flags": ["reroll:1"]},
        {"seed": 5, "device": "another"},
    ],
)
def test_a_recorded_seed_or_reroll_that_is_not_the_pictures_is_a_mismatch(
    rerolled_run: Made, recorded: dict[str, object]
) -> None:
    """On whatever device: the rule of the seeds is the same on all."""
    rewrite(rerolled_run[0], **recorded)
    replays = replay_samples(*rerolled_run, 4, rehearsal)
    assert [replay.key for replay in replays if replay.mismatch] == ["000000001_00"]


@pytest.mark.parametrize(
    ("labels", "asked"),
    [
        ({}, [False]),
        (dict.fromkeys(range(4), True), [True]),
        ({0: True, 2: True}, [True, False]),
    ],
)
def test_a_sampler_is_built_as_the_samples_were_made_and_once(
    make_run: Callable[..., Made], labels: dict[int, bool], asked: list[bool]
) -> None:
    class Compiled(RehearsalSampler):
        def render(self, requests, batch_size):
            for outcome in super().render(requests, batch_size):
                compiled = labels.get(outcome.request.row, False)
                yield replace(
                    outcome, batch_shape=batch_shape_label(batch_size, 16, 16, compiled=compiled)
                )

    store, record = make_run(4)
    drive_on(store, record, sampler=Compiled())
    built: list[tuple[bool, Recorder]] = []

    def build(compiled: bool) -> Sampler:
        built.append((compiled, Recorder()))
        return built[-1][1]

    assert all(replay.same for replay in replay_samples(store, record, 4, build))
    assert [compiled for compiled, _ in built] == asked
    assert {batch for _, sampler in built for batch in sampler.batches} == {4}


def test_no_sampler_is_built_for_nothing(make_run: Callable[..., Made]) -> None:
    def build(compiled: bool) -> Sampler:
        raise AssertionError("built")

    assert replay_samples(*make_run(), 5, build) == []
