"""One schema for files that differ: the widest plain types, and proof that the values fit them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.errors import InputError, first_line, shown

BATCH_ROWS = 1024
"""Rows decoded at once: a page of few bytes may stand for thousands of long texts."""

MOST_LISTED = 1000
"""Characters of a list of columns in a message."""


def unify(path: str, schemas: list[pa.Schema]) -> pa.Schema:
    """One schema for all files: as it is where they agree, else the widest plain types.

    Raises: `InputError` where types of one column do not go together.
    """
    bare = [_without_views(schema.remove_metadata()) for schema in schemas]
    if all(schema.equals(bare[0]) for schema in bare):
        return bare[0]
    try:
        return pa.unify_schemas([_plain(schema) for schema in bare], promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError.of(
            "prompts.path",
            f"{path} ({first_line(error)})",
            "files whose columns of one name have types that go together",
            "rewrite the files with one schema",
        ) from error


def _plain(schema: pa.Schema) -> pa.Schema:
    """Without dictionaries, an encoding that does not change values."""
    # A file that lacks a column has nulls there, whatever the others declare.
    return pa.schema(
        [field.with_type(_plain_type(field.type)).with_nullable(True) for field in schema]
    )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    return _viewless(kind)


def _without_views(schema: pa.Schema) -> pa.Schema:
    """With plain text and bytes for their views, of which Arrow cannot take single rows."""
    return pa.schema([field.with_type(_viewless(field.type)) for field in schema])


def _viewless(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    own: list[Any] = [kind.field(index) for index in range(kind.num_fields)]
    parts: list[Any] = [field.with_type(_viewless(field.type)) for field in own]
    if parts == own:
        return kind
    if pa.types.is_struct(kind):
        return pa.struct(parts)
    if isinstance(kind, pa.MapType):
        entry = parts[0].type
        return pa.map_(entry.field(0), entry.field(1), kind.keys_sorted)
    if isinstance(kind, pa.FixedSizeListType):
        return pa.list_(parts[0], kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(parts[0])
    return pa.list_(parts[0]) if pa.types.is_list(kind) else kind


def check_names(kind: pa.DataType) -> None:
    """Read every name within a type: of fields and of time zones, which Arrow takes unread.

    Raises: `UnicodeDecodeError` where one is no text.
    """
    if pa.types.is_timestamp(kind):
        _ = kind.tz
    for index in range(kind.num_fields):
        check_names(kind.field(index).type)
        _ = kind.field(index).name


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns and types of `schema`; columns it lacks are null."""
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.column_names
        else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def doubtful_columns(own: pa.Schema, whole: pa.Schema) -> list[str]:
    """Columns of a file whose values may not all fit the types of the schema for all files."""
    return [
        field.name for field in own if not _always_fits(field.type, whole.field(field.name).type)
    ]


def check_values_fit(
    parquet: pq.ParquetFile, name: str, columns: list[str], whole: pa.Schema
) -> None:
    """Read some columns of a file again and hold every value against its type for all files.

    Raises: `InputError` naming file and column.
    """
    for column in columns:
        kind = whole.field(column).type
        try:
            # Asked for `a`, Arrow also hands out a column called `a.b`.
            for batch in parquet.iter_batches(BATCH_ROWS, columns=[column]):
                _cast_exactly(batch.column(column), kind)
        except pa.ArrowException as error:
            raise InputError.of(
                "prompts.path",
                f"{name} (column {column!r} as {kind}: {first_line(error)})",
                "files whose values fit the types that hold all files",
                f"rewrite the files with one type for {shown(column)}",
            ) from error


def _always_fits(kind: pa.DataType, whole: pa.DataType) -> bool:
    if pa.types.is_null(kind) or any(
        same.equals(whole) for same in (kind, _plain_type(kind), _viewless(kind))
    ):
        return True
    if pa.types.is_integer(kind) and pa.types.is_integer(whole):
        return whole.bit_width > kind.bit_width
    return (pa.types.is_floating(kind) and pa.types.is_floating(whole)) or whole in {
        pa.large_string(),
        pa.large_binary(),
    }


def _cast_exactly(values: pa.Array[Any], kind: pa.DataType) -> None:
    """Raises: `pa.ArrowException` where a value would not be the same."""
    cast = values.cast(kind)
    if pa.types.is_decimal(values.type) and not cast.cast(values.type).equals(values):
        raise pa.ArrowInvalid("digits would be lost")


def listed(names: Sequence[str]) -> str:
    """Names or types of columns as a message shows them: what the dataset says, within bounds."""
    plain = (name if name and name.isprintable() else repr(name) for name in names)
    text = ", ".join(plain)
    return text if len(text) <= MOST_LISTED else f"{text[:MOST_LISTED]}…"
