"""The rows that are rendered while it is measured."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from render_farm.engine.bench.workload import (
    MIXED,
    Setting,
    Size,
    by_setting,
    mixed_rows,
    most_mixed_rows,
    prompts,
    setting_of,
    uniform_rows,
)

SIZE = Size(64, 32)
SETTING = Setting(20, 7.5, "model")


def test_a_mixed_workload_has_every_setting_and_of_each_at_most_four_batches():
    counts = Counter(map(setting_of, mixed_rows(SIZE, batch=5)))
    assert counts.keys() == set(MIXED)
    assert len(MIXED) == 5 * 5 * 3
    assert counts.total() == 1200
    assert max(counts.values()) <= 4 * 5
    assert len(set(counts.values())) > 5


def test_a_mixed_workload_of_a_small_batch_is_as_large_as_it_can_be():
    counts = Counter(map(setting_of, mixed_rows(SIZE, batch=3)))
    assert set(counts.values()) == {12}


def test_the_order_is_random_and_always_the_same():
    rows = mixed_rows(SIZE, batch=2)
    assert rows == mixed_rows(SIZE, batch=2)
    neighbours = [setting_of(a) == setting_of(b) for a, b in itertools.pairwise(rows)]
    assert sum(neighbours) < len(rows) / 10


def test_so_many_rows_as_are_asked_for_are_drawn_over_the_settings():
    counts = Counter(map(setting_of, mixed_rows(SIZE, batch=2, count=100)))
    assert counts.total() == 100
    assert max(counts.values()) <= 8
    assert len(counts) > 40


def test_no_setting_has_more_than_four_batches():
    rows = mixed_rows(SIZE, batch=1, count=most_mixed_rows(1))
    assert set(Counter(map(setting_of, rows)).values()) == {4}
    for count in (0, most_mixed_rows(1) + 1):
        with pytest.raises(ValueError, match="allowed: 1 to 300"):
            mixed_rows(SIZE, batch=1, count=count)


def test_prompts_and_seeds_are_distinct_however_many_there_are():
    texts = prompts(30_000)
    assert len(set(texts)) == len(texts)
    rows = mixed_rows(SIZE, batch=4)
    assert len({row.seed for row in rows}) == len({row.prompt for row in rows}) == len(rows)


def test_another_first_row_means_other_prompts_and_seeds_of_the_same_settings():
    some, others = mixed_rows(SIZE, batch=1), mixed_rows(SIZE, batch=1, first=500)
    assert list(map(setting_of, some)) == list(map(setting_of, others))
    for field in ("row", "seed", "prompt"):
        assert not {getattr(row, field) for row in some} & {getattr(row, field) for row in others}
    assert uniform_rows(3, SIZE, SETTING, first=7)[0] == uniform_rows(8, SIZE, SETTING)[7]


def test_uniform_rows_are_of_one_setting_and_size():
    rows = uniform_rows(5, SIZE, SETTING)
    assert {setting_of(row) for row in rows} == {SETTING}
    assert {(row.width, row.height) for row in rows} == {(64, 32)}


def test_rows_are_grouped_by_setting_and_none_is_lost():
    rows = mixed_rows(SIZE, batch=2)
    groups = by_setting(rows)
    assert len(groups) == len(MIXED)
    assert all(len({setting_of(row) for row in group}) == 1 for group in groups)
    assert sorted(row.row for group in groups for row in group) == [row.row for row in rows]
