"""Rows of a shard as Python values: in their place, each spoiled by nothing but itself."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

from render_farm.errors import RowError
from render_farm.job.plan import Shard
from render_farm.job.request import RenderRequest, Row
from render_farm.job.resolve import map_columns, resolve_row
from render_farm.job.rows import rows_of
from render_farm.job.seeds import derive_seed
from tests.making.jobs import make_job

TEXT = pa.string()
JOB = make_job("p.parquet", "out")


def table_requests(table: pa.Table) -> list[RenderRequest | str]:
    """What each row of a table becomes: its first request, or the type of its error."""
    mapping = map_columns(JOB, table.schema)
    shard = Shard(index=0, file=0, first_row_in_file=0, first_row=0, rows=table.num_rows)
    found: list[RenderRequest | str] = []
    for row in rows_of(table, shard, "a.parquet", mapping):
        try:
            found.append(resolve_row(row, JOB, mapping)[0])
        except RowError as error:
            found.append(error.error_type)
    return found


def spoiled_text(kind: pa.DataType, *values: bytes) -> pa.Array[Any]:
    """A text column whose bytes nobody checked."""
    raw = pa.array(values, pa.large_binary() if kind == pa.large_string() else pa.binary())
    if pa.types.is_string_view(kind):
        return pa.array(values, pa.binary_view()).view(kind)
    if pa.types.is_dictionary(kind):
        return raw.view(TEXT).dictionary_encode()
    return raw.view(kind)


KINDS_OF_TEXT = [TEXT, pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), TEXT)]


@pytest.mark.parametrize("kind", KINDS_OF_TEXT, ids=str)
@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "scheduler", "id"])
def test_bytes_that_are_no_utf_8_spoil_their_own_row_only(field: str, kind: pa.DataType) -> None:
    spoiled = spoiled_text(kind, b"fine", b"caf\xe9", b"\xed\xa0\x80", b"\xff" * 2**20, b"good")
    columns = {"prompt": pa.array(["a"] * 5)} | {field: spoiled}
    found = table_requests(pa.table(columns))
    assert [item if isinstance(item, str) else getattr(item, field) for item in found] == [
        "fine",
        *[f"bad_{field}"] * 3,
        "good",
    ]


def test_the_message_about_bad_bytes_is_short_and_says_what_is_wrong() -> None:
    table = pa.table({"prompt": spoiled_text(TEXT, b"\xff" * 2**20)})
    shard = Shard(0, 0, 0, 0, 1)
    (row,) = rows_of(table, shard, "f", {"prompt": "prompt"})
    with pytest.raises(RowError, match="allowed: a text in UTF-8") as caught:
        resolve_row(row, JOB, {"prompt": "prompt"})
    assert len(caught.value.message) < 400


def test_a_column_of_numbers_with_nulls_and_odd_values_spoils_odd_rows_only() -> None:
    table = pa.table(
        {
            "prompt": ["a", None, "c", "d", "e"],
            "width": pa.array([128.0, 64.0, None, math.nan, 64.5]),
            "seed": pa.array([1, 2, None, 4, 5], pa.uint64()),
        }
    )
    first, second, third, *others = table_requests(table)
    assert isinstance(first, RenderRequest)
    assert isinstance(third, RenderRequest)
    assert (first.width, first.seed) == (128, 1)
    assert (third.width, third.seed) == (64, derive_seed(0, ["a.parquet", 2], 0))
    assert [second, *others] == ["bad_prompt", "bad_width", "bad_width"]


def test_a_row_read_from_parquet_keeps_its_place_in_file_and_dataset() -> None:
    table = pa.table({"prompt": ["a", "b"], "label": [1, 2], "rf_row": [5, 6]})
    shard = Shard(index=3, file=1, first_row_in_file=10, first_row=110, rows=2)
    rows = list(rows_of(table, shard, "x/b.parquet", {"prompt": "prompt"}))
    assert rows == [
        Row(110, "x/b.parquet", 10, {"prompt": "a", "rf_row": 5}),
        Row(111, "x/b.parquet", 11, {"prompt": "b", "rf_row": 6}),
    ]


def test_a_table_in_pieces_gives_its_rows_in_order_and_spoils_none_beside_the_bad_one() -> None:
    pieces = [
        pa.table({"prompt": spoiled_text(TEXT, *texts)}) for texts in ([b"a"], [b"\xff", b"c"])
    ]
    found = table_requests(pa.concat_tables(pieces).slice(0, 3))
    assert [item if isinstance(item, str) else item.prompt for item in found] == [
        "a",
        "bad_prompt",
        "c",
    ]
