"""Lines of metadata, and the Arrow table made of them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import pyarrow as pa

from render_farm.output.layout import ShardLayout
from render_farm.output.metadata import METADATA_COLUMNS, SampleRecord, metadata_schema


class Line(NamedTuple):
    """A record and what the shard's writer knows of it.

    `key`, the sample's name, is null for a quarantined row; `size_bytes` and `sha256` are those
    of the encoded image, where there was one.
    """

    record: SampleRecord
    key: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None

    @property
    def place(self) -> tuple[int, int]:
        """What lines are sorted by."""
        return self.record.row, self.record.sample or 0


def lines_to_table(
    lines: Sequence[Line], layout: ShardLayout, carried: pa.Table, *, with_image: bool = False
) -> pa.Table:
    """Lines and the carried columns of their rows as one table of `metadata_schema`.

    `carried` holds the carried columns of the shard's rows, one line a row. Carried values keep
    their Arrow types and are taken, never converted.

    Raises:
        pa.ArrowException, TypeError, ValueError: a record that is not quarantined holds a value
            that its column cannot.
    """
    records = [line.record for line in lines]
    odd = [index for index, one in enumerate(records) if one.status == "quarantined"]
    written = _written(lines, layout)
    columns: list[Any] = [
        pa.array(
            written[field.name] if field.name in written else _recorded(records, field, odd),
            type=field.type,
        )
        for field in METADATA_COLUMNS
    ]
    if carried.num_columns:
        rows = pa.array([record.row - layout.first_row for record in records], pa.int64())
        columns += carried.take(rows).columns
    schema = metadata_schema(carried.schema, with_image=with_image)
    return pa.Table.from_arrays(columns, schema=schema)


def _written(lines: Sequence[Line], layout: ShardLayout) -> dict[str, list[Any]]:
    """The columns that are not the record's own."""
    keys = [line.key for line in lines]
    return {
        "shard": [layout.shard] * len(lines),
        "attempt": [layout.attempt] * len(lines),
        "key": keys,
        "format": [None if key is None else layout.image_format for key in keys],
        "size_bytes": [line.size_bytes for line in lines],
        "sha256": [line.sha256 for line in lines],
    }


def _recorded(
    records: Sequence[SampleRecord], field: pa.Field[Any], odd: Sequence[int]
) -> list[Any]:
    """A column of records; those at `odd` may hold anything."""
    values = list(map(attrgetter(field.name), records))
    for index in odd:
        if not _fits(values[index], field.type):
            values[index] = None
    return values


def _fits(value: Any, data_type: pa.DataType) -> bool:
    """Whether the type holds the value as it is; Arrow itself makes 1 of 1.5."""
    if value is None:
        return True
    try:
        held = pa.array([value], type=data_type)[0].as_py()
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return bool(held == (list(value) if isinstance(value, tuple) else value))
