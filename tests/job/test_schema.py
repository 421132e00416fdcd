"""Names and numbers of a dataset's schema that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.errors import InputError
from render_farm.job.prompts import survey
from render_farm.job.resolve import map_columns
from render_farm.job.schema import check_names, listed
from tests.making.jobs import make_job


@pytest.mark.parametrize(
    "kind",
    [
        pa.timestamp("us", "Here"),
        pa.struct([("Here", pa.int8())]),
        pa.list_(pa.struct([("Here", pa.int8())])),
        pa.list_(pa.timestamp("us", "Here")),
    ],
    ids=str,
)
def test_a_name_within_a_type_that_is_no_text_is_found(kind: pa.DataType) -> None:
    check_names(kind)
    schema = pa.schema([("x", kind)]).serialize().to_pybytes().replace(b"Here", b"H\xffre")
    spoiled = pa.ipc.read_schema(pa.py_buffer(schema)).field("x").type
    with pytest.raises(UnicodeDecodeError):
        check_names(spoiled)


def test_a_column_is_checked_under_its_own_name_where_another_begins_with_it(
    tmp_path: Path,
) -> None:
    """`a` in one file is text and must not pass for numbers because `a.b` beside it does."""
    one = pa.table({"prompt": ["p"], "a.b": ["5"], "a": pa.array([2**60 + 1])})
    other = pa.table({"prompt": ["p"], "a.b": ["5"], "a": pa.array([0.5])})
    pq.write_table(one, tmp_path / "1.parquet")
    pq.write_table(other, tmp_path / "2.parquet")
    with pytest.raises(InputError, match="column 'a' as double"):
        survey(str(tmp_path))


def test_a_row_number_that_no_quarantine_file_can_hold_is_refused() -> None:
    schema = pa.schema([("prompt", pa.string()), ("rf_row", pa.uint64())])
    with pytest.raises(InputError, match="rf_row"):
        map_columns(make_job("p", "o"), schema)
    map_columns(make_job("p", "o"), schema.set(1, pa.field("rf_row", pa.uint32())))


def test_names_in_a_message_are_bounded_and_safe_to_print() -> None:
    assert listed(["a", "b c"]) == "a, b c"
    assert listed(["\x1b[31m", ""]) == "'\\x1b[31m', ''"
    assert len(listed(["k" * 10_000] * 10)) < 1100


def test_a_small_file_that_stands_for_gigabytes_of_text_is_read_in_bounded_memory(
    tmp_path: Path,
) -> None:
    """One text of 256 kB and 8,000 indices that name it: 2 GB, in a file below a megabyte."""
    path = tmp_path / "a.parquet"
    indices = pa.array([0] * 8_000, pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 2**18]))
    pq.write_table(pa.table({"prompt": column}), path, store_schema=False)
    assert path.stat().st_size < 2**20
    before = pa.default_memory_pool().max_memory()
    assert survey(str(path)).files[0].rows == 8_000
    assert pa.default_memory_pool().max_memory() - before < 2**30
