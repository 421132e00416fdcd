"""Rows of a shard as Python values; a value that cannot be decoded spoils its own row only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from render_farm.job.plan import Shard
from render_farm.job.request import Row
from render_farm.job.resolve import JOB_SEED_COLUMN, ROW_COLUMN, ROW_KEY_COLUMN
from render_farm.job.spec import RequestField


def rows_of(
    table: pa.Table, shard: Shard, file: str, mapping: Mapping[RequestField, str]
) -> Iterator[Row]:
    """The rows of a shard's table, with the columns that decide its requests.

    Text that is not UTF-8 appears as the `UnicodeDecodeError` that reading it raised, which
    `resolve_row` refuses with the row.
    """
    wanted = {*mapping.values(), ROW_COLUMN, ROW_KEY_COLUMN, JOB_SEED_COLUMN}.intersection(
        table.column_names
    )
    columns = [_values(table.column(name)) for name in wanted]
    for index in range(table.num_rows):
        yield Row(
            row=shard.first_row + index,
            file=file,
            row_in_file=shard.first_row_in_file + index,
            columns={name: values[index] for name, values in zip(wanted, columns, strict=True)},
        )


def _values(column: pa.ChunkedArray[Any]) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar[Any]) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error
