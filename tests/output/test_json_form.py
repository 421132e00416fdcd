"""A whole column becomes JSON as its values do one by one."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from render_farm.output.json_form import json_rows, json_value
from tests.hostile.columns import COLUMNS

NUMBERS = st.integers(-(2**31), 2**31 - 1)
KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int32(), NUMBERS),
    (pa.bool_(), st.booleans()),
    (pa.float64(), st.floats()),
    (pa.float32(), st.floats(width=32)),
    (pa.string(), st.text(max_size=5)),
    (pa.timestamp("us", "Asia/Tokyo"), NUMBERS),
    (pa.timestamp("ns"), NUMBERS),
    (pa.binary(), st.binary(max_size=5)),
    (pa.list_(pa.float64()), st.lists(st.none() | st.floats(), max_size=4)),
    (
        pa.large_list(pa.list_(pa.string())),
        st.lists(st.none() | st.lists(st.none() | st.text(max_size=3), max_size=3), max_size=3),
    ),
    (
        pa.list_(pa.struct([("a", pa.timestamp("s"))])),
        st.lists(st.none() | st.fixed_dictionaries({"a": st.none() | NUMBERS}), max_size=3),
    ),
]


def one_by_one(column: pa.ChunkedArray[Any]) -> list[Any]:
    return [json_value(scalar) for scalar in column]


@pytest.mark.parametrize(("kind", "values"), KINDS, ids=[str(kind) for kind, _ in KINDS])
@given(data=st.data())
def test_a_column_in_pieces_and_cut_anywhere_becomes_what_its_values_become(kind, values, data):
    pieces = data.draw(st.lists(st.lists(st.none() | values, max_size=6), max_size=3))
    whole = pa.chunked_array([pa.array(piece, kind) for piece in pieces], kind)
    start = data.draw(st.integers(0, len(whole)))
    column = whole.slice(start, data.draw(st.integers(0, len(whole) - start)))
    rows = list(json_rows(pa.table({"x": column})))
    assert repr([row["x"] for row in rows]) == repr(one_by_one(column))


@pytest.mark.parametrize("name", COLUMNS)
def test_every_kind_of_carried_column_becomes_what_its_values_become(name):
    column = pa.chunked_array([COLUMNS[name], COLUMNS[name]])
    assert [row["x"] for row in json_rows(pa.table({"x": column}))] == one_by_one(column)


def test_one_text_that_is_no_utf_8_changes_no_other():
    spoiled = pa.array([b"fine", b"a\xff", None, "é".encode()], pa.binary()).view(pa.string())
    column = pa.ListArray.from_arrays([0, 2, 4], spoiled)
    rows = json_rows(pa.table({"x": spoiled[:2], "y": column}))
    assert [list(row.values()) for row in rows] == [
        ["fine", ["fine", "a\\xff"]],
        ["a\\xff", [None, "é"]],
    ]
