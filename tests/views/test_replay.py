"""Rendering again what was committed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.engine.rehearsal import RehearsalSampler
from render_farm.engine.sampler import Refused, Rendered
from render_farm.errors import InputError
from render_farm.job.request import RenderRequest
from render_farm.ledger import keys
from render_farm.views.replay import replay_samples
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


def test_samples_of_a_whole_run_come_out_the_same(run: Made) -> None:
    replays = replay_samples(*run, ROWS, RehearsalSampler())
    assert [replay.key for replay in replays] == [
        f"{row:09d}_00" for row in range(ROWS) if row != POISONED
    ]
    assert all(replay.same and replay.psnr_db == math.inf for replay in replays)


def test_as_many_as_asked_for_are_spread_over_the_run(run: Made) -> None:
    replays = replay_samples(*run, 2, RehearsalSampler())
    assert [replay.key for replay in replays] == ["000000000_00"]  # row 5 is quarantined
    replays = replay_samples(*run, 3, RehearsalSampler())
    assert [replay.key for replay in replays] == ["000000000_00", "000000003_00", "000000006_00"]
    assert replay_samples(*run, 0, RehearsalSampler()) == []


def test_they_are_rendered_at_their_recorded_shape(make_run: Callable[..., Made]) -> None:
    store, record = make_run(workers={"batch_size": 3})
    drive_on(store, record)
    sampler = Recorder()
    assert all(replay.same for replay in replay_samples(store, record, 4, sampler))
    assert set(sampler.batches) == {3}


def test_other_pixels_are_a_mismatch_with_its_size(run: Made) -> None:
    for replay in replay_samples(*run, 3, Shifted()):
        assert not replay.same
        assert 60 < replay.psnr_db < math.inf


def test_a_sample_that_is_refused_now_is_a_mismatch(run: Made) -> None:
    for replay in replay_samples(*run, 3, Refusing()):
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
    replays = {replay.key: replay.same for replay in replay_samples(store, record, 10, Recorder())}
    assert [sample for sample, same in replays.items() if not same] == [
        "000000000_00",
        "000000001_00",
    ]


def test_a_run_that_has_only_begun_replays_what_is_there(make_run: Callable[..., Made]) -> None:
    store, record = make_run()
    assert replay_samples(store, record, 5, RehearsalSampler()) == []
    render_on(store, record, 2)
    replays = replay_samples(store, record, ROWS, RehearsalSampler())
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
        replay_samples(store, record.model_copy(update={"prompts": prompts}), 1, RehearsalSampler())
