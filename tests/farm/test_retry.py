"""Child runs: what was quarantined or cancelled, with the pictures it would have had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.errors import InputError
from render_farm.farm.opening import open_run
from render_farm.farm.pool import LocalPool
from render_farm.farm.prepare import prepare
from render_farm.farm.retry import child_runs, make_child
from render_farm.ledger import keys
from render_farm.ledger.cancel import cancel_run
from render_farm.ledger.receipt import iter_receipts
from render_farm.views.results import shard_metadata
from render_farm.views.verify import verify_run
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import Run, submit
from tests.making.samplers import CuedSampler
from tests.making.stores import FaultyStore, Killed, killed_after, killed_before


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """20 rows of two samples, of which an engine that obeys cues refuses rows 3 and 17."""
    prompts = ["refuse" if row in {3, 17} else f"p{row}" for row in range(20)]
    path = write_prompts(tmp_path / "p.parquet", 20, prompt=prompts)
    limits = {"max_quarantined": 0.5}
    uri = f"memory://{tmp_path.name}/run"
    return submit(make_job(path, uri, limits=limits, defaults={"samples": 2}, seed=7))


def refusing() -> LocalPool:
    return LocalPool(lambda record, options: CuedSampler())


def child_of(run: Run, **options: Any) -> Run:
    child = make_child(run.store, run.record, cancelled=options.get("cancelled", False))
    store, record = open_run(prepare(child.job, run.model_cache), allow_no_cas=True)
    return Run(store, record, run.model_cache)


def by_row(run: Run, column: str) -> dict[tuple[int, int], str]:
    pictures = {}
    for receipt in iter_receipts(run.store):
        table = shard_metadata(run.store, receipt)
        if table is not None:
            for line in table.to_pylist():
                pictures[(line[column], line["sample"])] = line["sha256"]
    return pictures


@pytest.fixture
def undisturbed(tmp_path: Path, run: Run) -> dict[tuple[int, int], str]:
    """The pictures of the same job where nothing is refused."""
    job = run.record.job
    uri = f"memory://{tmp_path.name}/calm"
    calm = submit(job.model_copy(update={"output": job.output.model_copy(update={"uri": uri})}))
    calm.drive()
    return by_row(calm, "row")


def test_a_child_run_gives_the_quarantined_rows_the_pictures_they_would_have_had(
    run: Run, undisturbed: dict[tuple[int, int], str]
):
    run.drive(refusing())
    child = child_of(run)
    assert child.drive().reason is None
    pictures = by_row(child, "rf_row")
    assert pictures.keys() == {(3, 0), (3, 1), (17, 0), (17, 1)}
    assert all(undisturbed[name] == sha256 for name, sha256 in pictures.items())


def test_parent_and_children_together_are_whole(run: Run):
    run.drive(refusing())
    child = child_of(run)
    child.drive()
    verdict = verify_run(run.store, run.record).with_child(verify_run(child.store, child.record))
    assert verdict.ok
    assert (verdict.rows["done"], verdict.rows["quarantined"]) == (20, 0)


def test_the_quarantine_file_itself_can_be_submitted_as_it_is(
    run: Run, undisturbed: dict[tuple[int, int], str], tmp_path: Path
):
    run.drive(refusing())
    path = tmp_path / "quarantine.parquet"
    path.write_bytes(run.store.get("quarantine.parquet"))
    uri = f"memory://{tmp_path.name}/by-hand"
    again = submit(make_job(path, uri, defaults={"samples": 2}, seed=99))
    again.drive()
    for name, sha256 in by_row(again, "rf_row").items():
        assert undisturbed[name] == sha256


def test_a_second_generation_keeps_the_rows_of_the_first(
    run: Run, undisturbed: dict[tuple[int, int], str]
):
    run.drive(refusing())
    first = child_of(run)
    first.drive(refusing())
    second = child_of(run)
    assert second.store.uri.endswith("retries/002")
    second.drive()
    assert by_row(second, "rf_row").keys() == {(3, 0), (3, 1), (17, 0), (17, 1)}
    grandchild = pq.read_table(pa.BufferReader(first.store.get("quarantine.parquet")))
    assert grandchild["rf_row"].to_pylist() == [3, 17]


def test_a_child_that_is_not_complete_is_gone_on_with(run: Run):
    run.drive(refusing())
    child_of(run)
    assert child_of(run).store.uri.endswith("retries/001")
    assert len(child_runs(run.store)) == 1


def test_rows_that_a_child_has_rendered_are_not_retried_again(run: Run):
    run.drive(refusing())
    child_of(run).drive()
    with pytest.raises(InputError, match="no quarantined row left"):
        make_child(run.store, run.record, cancelled=False)


def test_cancelled_rows_are_retried_only_when_asked_for(
    run: Run, undisturbed: dict[tuple[int, int], str], make_stop: Callable[[Run], None]
):
    make_stop(run)
    cancel_run(run.store, run.record)
    child = child_of(run, cancelled=True)
    child.drive()
    parent, rest = by_row(run, "row"), by_row(child, "rf_row")
    assert not parent.keys() & rest.keys()
    assert parent | rest == undisturbed


@pytest.fixture
def make_stop() -> Callable[[Run], None]:
    def stop_after_the_first_shards(run: Run) -> None:
        driver = run.driver(on_progress=lambda p: p.decided_rows >= 8 and driver.ask_to_stop())
        driver.drive()

    return stop_after_the_first_shards


def test_rows_that_were_mended_after_planning_are_rendered_as_mended(run: Run):
    run.drive(refusing())
    planned = make_child(run.store, run.record, cancelled=False)
    key = "retries/001/prompts.parquet"
    table = pq.read_table(pa.BufferReader(run.store.get(key)))
    mended = table.set_column(
        table.column_names.index("prompt"), "prompt", pa.array(["mended 3", "mended 17"])
    )
    sink = pa.BufferOutputStream()
    pq.write_table(mended, sink)
    run.store.put(key, sink.getvalue().to_pybytes())
    child = child_of(run)
    assert (planned.rows, child.record.plan.rows) == (2, 2)
    assert child.drive(refusing()).reason is None
    (receipt,) = iter_receipts(child.store)
    metadata = shard_metadata(child.store, receipt)
    assert metadata is not None
    assert set(metadata["prompt"].to_pylist()) == {"mended 3", "mended 17"}
    verdict = verify_run(run.store, run.record).with_child(verify_run(child.store, child.record))
    assert verdict.rows["quarantined"] == 0


def test_a_cancel_that_was_cut_short_leaves_no_row_out_of_the_child(run: Run):
    # Shards are cancelled by several threads: the last one would else be, or not.
    ends = {keys.receipt(0): killed_after, keys.receipt(4): killed_before}
    with pytest.raises(Killed):
        cancel_run(FaultyStore(run.store, lambda call: ends.get(call.key)), run.record)
    closed = [receipt.shard for receipt in iter_receipts(run.store)]
    assert closed[0] == 0
    assert 4 not in closed
    assert make_child(run.store, run.record, cancelled=True).rows == 20
    assert [receipt.kind for receipt in iter_receipts(run.store)] == ["cancelled"] * 5
