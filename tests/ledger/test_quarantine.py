"""What could not be rendered is kept so that it can be, with the pictures it would have had."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.engine.rehearsal import RehearsalSampler
from render_farm.errors import InputError, RowError, StopError
from render_farm.farm.pool import LocalPool
from render_farm.farm.retry import make_child
from render_farm.ledger import keys
from render_farm.ledger.quarantine import (
    Errors,
    done_origins,
    read_rejected,
    write_quarantine,
    write_rows,
)
from render_farm.ledger.receipt import iter_receipts
from render_farm.output.parquet import read_metadata
from render_farm.store.base import exists
from render_farm.store.open import open_store
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import Run, submit
from tests.making.stores import FaultyStore

ROWS = 10


class Picky(RehearsalSampler):
    """Refuses prompts that hold one of the given words."""

    def __init__(self, *words: str) -> None:
        super().__init__()
        self._words = words

    def check(self, request) -> None:
        if set(self._words) & set(request.prompt.split()):
            raise RowError("picky", f"not this prompt: {request.prompt}")
        super().check(request)


def drive(run: Run, *words: str) -> Run:
    run.drive(LocalPool(lambda record, options: Picky(*words)))
    return run


@pytest.fixture
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}-{id(request)}"


def lenient(prompts, uri: str, /, **sections):
    sections["limits"] = {"max_quarantined": 1.0}
    sections.setdefault("defaults", {"width": 16, "height": 16, "samples": 2})
    return make_job(prompts, uri, **sections)


def sha256_by_row(run: Run, column: str = "row") -> dict[tuple[int, int], str]:
    found: dict[tuple[int, int], str] = {}
    for receipt in iter_receipts(run.store):
        for item in receipt.objects:
            if item.key.startswith(keys.DATA) and item.key.endswith(".parquet"):
                table = read_metadata(pa.BufferReader(run.store.get(item.key)))
                for line in table.to_pylist():
                    sample = (line[column], line["sample"])
                    assert sample not in found
                    found[sample] = line["sha256"]
    return found


def quarantined(run: Run) -> pa.Table:
    return pq.read_table(pa.BufferReader(run.store.get(keys.QUARANTINE)))


def test_a_run_without_quarantined_rows_has_no_such_file(tmp_path: Path, name: str) -> None:
    run = drive(submit(lenient(write_prompts(tmp_path / "p.parquet", 4), f"{name}/run")))
    assert not exists(run.store, keys.QUARANTINE)
    assert write_quarantine(run.store, run.record) == 0


def test_only_shards_with_quarantined_rows_are_read_and_the_file_keeps_their_order(
    tmp_path: Path, name: str
) -> None:
    prompts = write_prompts(tmp_path / "p.parquet", 120)
    run = drive(submit(lenient(prompts, f"{name}/run", shards={"rows": 1})), *"123456789")
    before, watched = quarantined(run), FaultyStore(run.store)
    assert before["rf_row"].to_pylist() == list(range(1, 10))
    assert write_quarantine(watched, run.record) == 9
    assert quarantined(run).equals(before)
    read = [key for key in watched.made("get") if not key.startswith(keys.RECEIPTS)]
    rejected = {info.key for info in run.store.list(keys.REJECTED)}
    assert len(rejected) == 9
    assert {key for key in read if not key.startswith(keys.ROLLUPS)} == rejected


def test_a_file_that_cannot_be_finished_leaves_no_copy_of_the_input_open(
    tmp_path: Path, name: str
) -> None:
    run = submit(lenient(write_prompts(tmp_path / "p.parquet", 4), f"{name}/run"))

    def chosen() -> Iterator[tuple[int, Errors]]:
        yield 0, {0: ("refused", "told to")}
        raise StopError("a receipt cannot be read", "mend it")

    with pytest.raises(StopError, match="cannot be read"):
        write_rows(run.store, run.record, keys.QUARANTINE, chosen())
    gc.collect()  # an open file would warn now, and a warning is an error
    assert not exists(run.store, keys.QUARANTINE)


def test_rows_are_kept_in_the_inputs_own_schema_with_their_errors(
    tmp_path: Path, name: str
) -> None:
    prompts = write_prompts(
        tmp_path / "p.parquet",
        ROWS,
        steps=pa.array([4, 0] * 5, pa.int16()),
        tags=[["a", "b"], None] * 5,
        box=[{"x": 1, "y": "z"}] * ROWS,
    )
    run = drive(submit(lenient(prompts, f"{name}/run")), "3")
    table, given = quarantined(run), pq.read_table(prompts)
    assert table.schema.names == [
        *given.schema.names,
        "rf_row",
        "rf_row_key",
        "rf_job_seed",
        "rf_error_type",
        "rf_error",
    ]
    wrong = [1, 3, 5, 7, 9]
    assert table.select(given.schema.names).equals(given.take(wrong))
    assert table["rf_row"].to_pylist() == wrong
    assert table["rf_row_key"].to_pylist() == [f'"row-{row}"' for row in wrong]
    assert set(table["rf_job_seed"].to_pylist()) == {0}
    assert table["rf_error_type"].to_pylist() == ["bad_steps"] * 5
    assert all("steps" in text for text in table["rf_error"].to_pylist())


@pytest.mark.parametrize("ids", [True, False], ids=["rows with ids", "rows without"])
def test_submitted_as_it_is_to_a_more_permissive_engine_it_gives_the_same_pictures(
    ids: bool, tmp_path: Path, name: str
) -> None:
    prompts = write_prompts(tmp_path / "p.parquet", ROWS)
    columns = {} if ids else {"columns": {"id": None}}
    job = {"seed": 5, "prompts": columns}
    whole = sha256_by_row(drive(submit(lenient(prompts, f"{name}/whole", **job))))
    first = drive(submit(lenient(prompts, f"{name}/first", **job)), "2", "7")
    again = drive(
        submit(
            lenient(
                f"{name}/first/{keys.QUARANTINE}",
                f"{name}/again",
                seed=77,  # the row's own counts
                shards={"rows": 1},
                prompts=columns,
            )
        )
    )
    rendered = sha256_by_row(again, "rf_row")
    assert rendered == {sample: sha for sample, sha in whole.items() if sample[0] in (2, 7)}
    assert sha256_by_row(first) | rendered == whole


def test_with_the_poison_cured_the_rows_get_the_pictures_they_would_have_had(
    tmp_path: Path, name: str
) -> None:
    scales = [7.5] * ROWS
    healthy = write_prompts(tmp_path / "h.parquet", ROWS, guidance_scale=scales)
    whole = sha256_by_row(drive(submit(lenient(healthy, f"{name}/whole"))))
    scales[4] = scales[9] = -1.0
    poisoned = write_prompts(tmp_path / "p.parquet", ROWS, guidance_scale=scales)
    run = drive(submit(lenient(poisoned, f"{name}/run")))
    cured = quarantined(run)
    index = cured.schema.names.index("guidance_scale")
    cured = cured.set_column(index, "guidance_scale", pa.array([7.5, 7.5]))
    pq.write_table(cured, tmp_path / "cured.parquet")
    again = drive(submit(lenient(tmp_path / "cured.parquet", f"{name}/again", seed=3)))
    rendered = sha256_by_row(again, "rf_row")
    assert rendered == {sample: sha for sample, sha in whole.items() if sample[0] in (4, 9)}


def test_a_second_generation_keeps_the_origin_of_the_first(tmp_path: Path, name: str) -> None:
    prompts = write_prompts(tmp_path / "p.parquet", ROWS)
    whole = sha256_by_row(drive(submit(lenient(prompts, f"{name}/0", seed=1))))
    drive(submit(lenient(prompts, f"{name}/1", seed=1)), "2", "5", "7")
    second = drive(submit(lenient(f"{name}/1/{keys.QUARANTINE}", f"{name}/2", seed=2)), "5", "7")
    table = quarantined(second)
    assert table["rf_row"].to_pylist() == [5, 7]
    assert table["rf_row_key"].to_pylist() == ['"row-5"', '"row-7"']
    assert table["rf_job_seed"].to_pylist() == [1, 1]
    assert (
        table.schema.names
        == quarantined(Run(open_store(f"{name}/1"), second.record, "")).schema.names
    )
    third = drive(submit(lenient(f"{name}/2/{keys.QUARANTINE}", f"{name}/3", seed=3)))
    rendered = sha256_by_row(third, "rf_row")
    assert rendered == {sample: sha for sample, sha in whole.items() if sample[0] in (5, 7)}


def test_retries_of_a_run_that_was_itself_made_of_a_quarantine_file_lose_no_row(
    tmp_path: Path, name: str
) -> None:
    """Its rows have numbers of their own; those of the run before must not be taken for them."""
    prompts = write_prompts(tmp_path / "p.parquet", ROWS)
    whole = sha256_by_row(drive(submit(lenient(prompts, f"{name}/0"))))
    drive(submit(lenient(prompts, f"{name}/1")), "1", "2", "3", "4")
    parent = drive(submit(lenient(f"{name}/1/{keys.QUARANTINE}", f"{name}/2")), "1", "2", "3", "4")
    first = make_child(parent.store, parent.record, cancelled=False)
    assert first.rows == 4
    child = drive(submit(first.job), "2", "3")
    assert sorted(set(done_origins(child.store))) == [0, 3]
    second = make_child(parent.store, parent.record, cancelled=False)
    assert second.rows == 2
    last = drive(submit(second.job))
    assert sorted(set(done_origins(last.store))) == [1, 2]
    with pytest.raises(InputError, match="no quarantined row left"):
        make_child(parent.store, parent.record, cancelled=False)
    rendered = sorted([*sha256_by_row(child).values(), *sha256_by_row(last).values()])
    assert rendered == sorted(sha for sample, sha in whole.items() if sample[0] in (1, 2, 3, 4))


@pytest.mark.parametrize("harm", ["gone", "altered"])
def test_rows_are_never_taken_from_an_object_that_no_receipt_vouches_for(
    harm: str, tmp_path: Path, name: str
) -> None:
    prompts = write_prompts(tmp_path / "p.parquet", 4)
    run = drive(submit(lenient(prompts, f"{name}/run")), "2")
    [info] = run.store.list(keys.REJECTED)
    if harm == "gone":
        run.store.delete(info.key)
    else:
        data = bytearray(run.store.get(info.key))
        data[len(data) // 3] ^= 1
        run.store.put(info.key, bytes(data))
    [receipt] = iter_receipts(run.store)
    with pytest.raises(StopError, match=info.key):
        read_rejected(run.store, receipt)
    with pytest.raises(StopError, match=info.key):
        write_quarantine(run.store, run.record)
