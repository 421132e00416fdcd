"""The plan of shards: every row once, whatever the files and the shard size."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from render_farm.job.plan import MAX_ROWS, MAX_SHARDS, Plan, Shard, limited

FILES = st.lists(st.integers(0, 60), max_size=12)
ROWS_PER_SHARD = st.integers(1, 40)


@given(files=FILES, rows_per_shard=ROWS_PER_SHARD)
def test_shards_cover_every_row_exactly_once_and_in_order(
    files: list[int], rows_per_shard: int
) -> None:
    plan = Plan(files, rows_per_shard)
    assert [row for shard in plan for row in shard.row_range()] == list(range(sum(files)))
    assert plan.rows == sum(files)


@given(files=FILES, rows_per_shard=ROWS_PER_SHARD)
def test_a_shard_lies_in_one_file_and_is_full_but_for_the_file_s_last(
    files: list[int], rows_per_shard: int
) -> None:
    plan = Plan(files, rows_per_shard)
    covered: list[list[int]] = [[] for _ in files]
    for shard in plan:
        end = shard.first_row_in_file + shard.rows
        assert 1 <= shard.rows <= rows_per_shard
        assert shard.rows == rows_per_shard or end == files[shard.file]
        assert shard.first_row == sum(files[: shard.file]) + shard.first_row_in_file
        covered[shard.file] += range(shard.first_row_in_file, end)
    assert covered == [list(range(rows)) for rows in files]


@given(files=FILES, rows_per_shard=ROWS_PER_SHARD)
def test_shards_are_numbered_as_they_come(files: list[int], rows_per_shard: int) -> None:
    plan = Plan(files, rows_per_shard)
    shards = list(plan)
    assert [shard.index for shard in shards] == list(range(plan.shards))
    assert [plan.shard(index) for index in range(plan.shards)] == shards


@given(files=FILES, rows_per_shard=ROWS_PER_SHARD)
def test_the_shard_of_a_row_is_the_one_that_holds_it(files: list[int], rows_per_shard: int) -> None:
    plan = Plan(files, rows_per_shard)
    for shard in plan:
        assert all(plan.shard_of_row(row) == shard for row in shard.row_range())


@given(files=FILES, limit=st.integers(1, 800), rows_per_shard=ROWS_PER_SHARD)
def test_a_limit_keeps_the_first_rows_and_no_others(
    files: list[int], limit: int, rows_per_shard: int
) -> None:
    cut = limited(files, limit)
    assert sum(cut) == min(limit, sum(files))
    assert len(cut) == len(files)
    whole = [(file, row) for file, rows in enumerate(files) for row in range(rows)]
    kept = [
        (shard.file, shard.first_row_in_file + offset)
        for shard in Plan(cut, rows_per_shard)
        for offset in range(shard.rows)
    ]
    assert kept == whole[:limit]


def test_no_limit_cuts_nothing() -> None:
    assert limited([3, 0, 5], None) == (3, 0, 5)


def test_empty_files_have_no_shards() -> None:
    plan = Plan([0, 5, 0, 0, 3, 0], 4)
    assert list(plan) == [
        Shard(index=0, file=1, first_row_in_file=0, first_row=0, rows=4),
        Shard(index=1, file=1, first_row_in_file=4, first_row=4, rows=1),
        Shard(index=2, file=4, first_row_in_file=0, first_row=5, rows=3),
    ]


@pytest.mark.parametrize("files", [[], [0], [0, 0]])
def test_a_plan_without_rows_has_no_shards(files: list[int]) -> None:
    plan = Plan(files, 4)
    assert (plan.rows, plan.shards, list(plan)) == (0, 0, [])


@pytest.mark.parametrize("index", [-1, 2, 10**9])
def test_what_is_not_in_the_plan_is_an_index_error(index: int) -> None:
    plan = Plan([2], 1)
    with pytest.raises(IndexError):
        plan.shard(index)
    with pytest.raises(IndexError):
        plan.shard_of_row(index)


@pytest.mark.parametrize(("files", "rows_per_shard"), [([1], 0), ([1], -1), ([1, -1], 4)])
def test_what_is_no_plan_is_refused(files: list[int], rows_per_shard: int) -> None:
    with pytest.raises(ValueError, match="not a plan"):
        Plan(files, rows_per_shard)


def test_the_largest_plan_costs_no_time_and_no_memory() -> None:
    tracemalloc.start()
    started = time.perf_counter()
    plan = Plan([MAX_ROWS], MAX_ROWS // MAX_SHARDS)
    last = plan.shard_of_row(MAX_ROWS - 1)
    took_s = time.perf_counter() - started
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (plan.shards, plan.rows, last.index) == (10**6, 10**9, 10**6 - 1)
    assert took_s < 0.1
    assert peak_bytes < 100_000
