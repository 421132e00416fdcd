"""Rows that child runs render are known by their identity, never by their count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from render_farm.farm.opening import open_run
from render_farm.farm.pool import LocalPool
from render_farm.farm.prepare import prepare
from render_farm.farm.retry import make_child
from render_farm.ledger.cancel import cancel_run
from render_farm.output.layout import CONTAINERS
from render_farm.views.findings import Findings
from render_farm.views.handover import Handover, ShardEnds
from render_farm.views.row_set import RowSet
from render_farm.views.verify import Verdict, verify_run
from tests.making.jobs import make_job, write_prompts
from tests.making.runs import Run, submit
from tests.making.samplers import CuedSampler

REFUSED = [3, 9]


@pytest.fixture(params=CONTAINERS)
def parent(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """12 rows of two samples, of which rows 3 and 9 are quarantined."""
    prompts = ["refuse" if row in REFUSED else f"p{row}" for row in range(12)]
    path = write_prompts(tmp_path / "p.parquet", 12, prompt=prompts)
    run = submit(
        make_job(
            path,
            f"memory://{tmp_path.name}/run",
            output={"container": request.param},
            defaults={"width": 16, "height": 8, "samples": 2},
            limits={"max_quarantined": 1.0},
        )
    )
    run.drive(refusing())
    return run


def refusing() -> LocalPool:
    return LocalPool(lambda record, options: CuedSampler())


def planned(parent: Run, change: Callable[[pa.Table], pa.Table], *, cancelled: bool = False) -> Run:
    """The next child run, whose dataset was changed between planning and rendering."""
    child = make_child(parent.store, parent.record, cancelled=cancelled)
    key = child.uri.removeprefix(parent.store.uri + "/") + "/prompts.parquet"
    sink = pa.BufferOutputStream()
    pq.write_table(change(pq.read_table(pa.BufferReader(parent.store.get(key)))), sink)
    parent.store.put(key, sink.getvalue().to_pybytes())
    store, record = open_run(prepare(child.job, parent.model_cache), allow_no_cas=True)
    return Run(store, record, parent.model_cache)


def as_it_is(table: pa.Table) -> pa.Table:
    return table


def numbered(*rows: int | None) -> Callable[[pa.Table], pa.Table]:
    """The child's rows under other numbers, repeated or fewer as need be."""

    def change(table: pa.Table) -> pa.Table:
        taken = table.take(pa.array([index % len(table) for index in range(len(rows))]))
        index = taken.column_names.index("rf_row")
        return taken.set_column(index, "rf_row", pa.array(rows, pa.int64()))

    return change


def verdict(run: Run, *children: Run) -> Verdict:
    found = verify_run(run.store, run.record)
    for child in children:
        found = found.with_child(verify_run(child.store, child.record))
    return found


def told(found: Verdict) -> dict[str, int]:
    kinds = ("lost", "duplicated", "unexpected", "corrupt")
    return {kind: getattr(found.findings, kind) for kind in kinds if getattr(found.findings, kind)}


def test_rows_that_a_child_rendered_are_done(parent: Run) -> None:
    child = planned(parent, as_it_is)
    child.drive()
    found = verdict(parent, child)
    assert found.ok
    assert (found.rows["done"], found.rows["quarantined"], found.samples) == (12, 0, 24)
    assert verdict(parent).rows["quarantined"] == 2


def test_a_row_that_fails_again_stays_quarantined_until_a_later_child_renders_it(
    parent: Run,
) -> None:
    first = planned(parent, as_it_is)
    first.drive(refusing())
    second = planned(parent, as_it_is)
    second.drive()
    assert verdict(parent, first).rows["quarantined"] == 2
    found = verdict(parent, first, second)
    assert found.ok
    assert found.rows["quarantined"] == 0


@pytest.mark.parametrize(
    ("rows", "defects", "done"),
    [
        ((3, 5), {"duplicated": 1}, 11),  # row 5 was rendered by the parent
        ((5, 6), {"duplicated": 2}, 10),
        ((3, 3), {"duplicated": 1}, 11),  # twice in one child
        ((3, 9, 3, 9, 3), {"duplicated": 3}, 12),
        ((3, 12), {"unexpected": 1}, 11),  # the parent has no row 12
        ((3, -1), {"unexpected": 1}, 11),
        ((3, None), {"unexpected": 1}, 11),  # a row of nobody's
        ((None, None), {"unexpected": 2}, 10),
        ((9,), {}, 11),
    ],
)
def test_a_child_that_rendered_what_was_not_left_to_it_is_caught(
    parent: Run, rows: Sequence[int | None], defects: dict[str, int], done: int
) -> None:
    child = planned(parent, numbered(*rows))
    child.drive()
    found = verdict(parent, child)
    assert told(found) == defects
    assert (found.rows["done"], found.rows["quarantined"]) == (done, 12 - done)
    assert found.ok == (not defects)


def test_a_row_that_two_children_rendered_is_duplicated(parent: Run) -> None:
    first = planned(parent, numbered(3))
    first.drive()
    second = planned(parent, numbered(3, 9))
    second.drive()
    found = verdict(parent, first, second)
    assert told(found) == {"duplicated": 1}
    assert any("row 3" in problem for problem in found.findings.problems)
    assert found.rows["done"] == 12


def test_a_dataset_that_says_nothing_of_its_origin_is_unexpected(parent: Run) -> None:
    child = planned(parent, lambda table: table.drop_columns(["rf_row"]))
    child.drive()
    assert told(verdict(parent, child)) == {"unexpected": 2}


@pytest.mark.parametrize("parent", ["webdataset"], indirect=True)
def test_cancelled_rows_are_left_to_children_and_done_ones_are_not(
    parent: Run, tmp_path: Path
) -> None:
    job = parent.record.job
    output = job.output.model_copy(update={"uri": f"memory://{tmp_path.name}/cancelled"})
    run = submit(job.model_copy(update={"output": output}))
    driver = run.driver(on_progress=lambda seen: seen.decided_rows >= 4 and driver.ask_to_stop())
    driver.drive()
    cancel_run(run.store, run.record)
    done = verdict(run).rows["done"]
    assert 0 < done < 12
    child = planned(run, as_it_is, cancelled=True)
    child.drive()
    found = verdict(run, child)
    assert found.ok
    assert (found.rows["done"], found.rows["cancelled"]) == (12, 0)
    assert told(found.with_child(verdict(child))) == {"duplicated": 12 - done}


@pytest.mark.parametrize("parent", ["webdataset"], indirect=True)
def test_rows_of_a_parent_that_is_still_rendering_are_not_left_to_children(parent: Run) -> None:
    child = planned(parent, numbered(3, 0))
    child.drive()
    parent.store.delete("receipts/000000.json")
    parent.store.delete("manifest.json")
    assert told(verdict(parent, child)) == {"unexpected": 2}


def verdict_of(handover: Handover, **rows: int) -> Verdict:
    ends = ("planned", "done", "filtered", "quarantined", "cancelled", "pending")
    return Verdict(
        Findings(), 2 * rows.get("done", 0), {end: rows.get(end, 0) for end in ends}, 1, handover
    )


def handover_of(*shards: ShardEnds) -> Handover:
    handover = Handover()
    for ends in shards:
        handover.add(ends)
    return handover


def test_counts_follow_the_rows_and_the_parents_verdict_stays_as_it_is() -> None:
    left = handover_of(ShardEnds(quarantined=(1, 2, 3)), ShardEnds(cancelled=range(8, 10)))
    parent = verdict_of(left, planned=10, done=5, quarantined=3, cancelled=2)
    rendered = handover_of(ShardEnds(rendered=((1, "done"), (2, "filtered"), (9, "done"))))
    both = parent.with_child(verdict_of(rendered, planned=5, done=2, filtered=1, quarantined=2))
    assert both.ok
    ends = {"done": 7, "filtered": 1, "quarantined": 1, "cancelled": 1}
    assert both.rows == {"planned": 10, "pending": 0} | ends
    assert (both.samples, both.orphans) == (14, 2)
    assert parent.rows["done"] == 5
    assert list(parent.handover.quarantined) == [1, 2, 3]


def test_a_childs_defects_are_the_runs() -> None:
    parent = verdict_of(handover_of(ShardEnds(quarantined=(0,))), planned=2, done=1, quarantined=1)
    child = verdict_of(handover_of(ShardEnds(rendered=((0, "done"),))), planned=1, done=1)
    child.findings.note("lost", "x")
    both = parent.with_child(child)
    assert not both.ok
    assert both.findings.lost == 1
    assert both.findings.problems == ["lost: x"]
    assert parent.findings.whole


@given(st.lists(st.tuples(st.booleans(), st.integers(-10_000, 10**9))))
def test_a_row_set_is_a_set(steps: list[tuple[bool, Any]]) -> None:
    ours, true = RowSet(), set()
    for adds, row in steps:
        (ours.add if adds else ours.discard)(row)
        (true.add if adds else true.discard)(row)
        assert (row in ours) == (row in true)
    before = ours.copy()
    assert list(ours) == list(before) == sorted(true)
    assert len(ours) == len(true)
    ours.add(10**9 + 1)
    assert 10**9 + 1 not in before
