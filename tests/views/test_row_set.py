"""A set of rows, against Python's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from render_farm.views.row_set import RowSet

ROWS = st.integers(0, 20_000)
RANGES = st.tuples(ROWS, st.integers(0, 10_000)).map(lambda pair: range(pair[0], sum(pair)))


@given(st.lists(ROWS | RANGES), st.lists(ROWS))
def test_it_holds_what_was_added_and_not_discarded(added: list[int | range], gone: list[int]):
    rows, expected = RowSet(), set[int]()
    for each in added:
        if isinstance(each, range):
            rows.add_range(each)
            expected.update(each)
        else:
            rows.add(each)
            expected.add(each)
    before = rows.copy()
    for row in gone:
        rows.discard(row)
    assert list(before) == sorted(expected)
    expected -= set(gone)
    assert list(rows) == sorted(expected)
    assert len(rows) == len(expected)
    assert all((row in rows) == (row in expected) for row in gone)


def test_a_billion_rows_in_a_row_are_added_in_no_time():
    rows = RowSet()
    rows.add_range(range(5, 10**9))
    assert len(rows) == 10**9 - 5
    assert 4 not in rows
