"""One schema for files that differ: the widest plain types, and proof that the values fit them."""

from __future__ import annotations

from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.errors import InputError


def unify(path: str, schemas: list[pa.Schema]) -> pa.Schema:
    """One schema for all files: as it is where they agree, else the widest plain types.

    Raises: `InputError` where types of one column do not go together.
    """
    bare = [schema.remove_metadata() for schema in schemas]
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
    """Without encodings that do not change values: dictionaries and views."""
    # A file that lacks a column has nulls there, whatever the others declare.
    return pa.schema(
        [field.with_type(_plain_type(field.type)).with_nullable(True) for field in schema]
    )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    return kind


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


def check_values_fit(copy: BinaryIO, name: str, columns: list[str], whole: pa.Schema) -> None:
    """Read some columns of a file again and hold every value against its type for all files.

    Raises: `InputError` naming file and column.
    """
    parquet = pq.ParquetFile(copy)
    for column in columns:
        kind = whole.field(column).type
        try:
            for batch in parquet.iter_batches(columns=[column]):
                _cast_exactly(batch.column(0), kind)
        except pa.ArrowException as error:
            raise InputError.of(
                "prompts.path",
                f"{name} (column {column!r} as {kind}: {first_line(error)})",
                "files whose values fit the types that hold all files",
                f"rewrite the files with one type for {column!r}",
            ) from error


def _always_fits(kind: pa.DataType, whole: pa.DataType) -> bool:
    if pa.types.is_null(kind) or _plain_type(kind).equals(whole) or kind.equals(whole):
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


def first_line(error: Exception) -> str:
    """What an error of Arrow says, without its trace."""
    return str(error).partition("\n")[0] or type(error).__name__
