"""Columns that Arrow hands out as dictionaries, whose indices it does not check."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def check_indices(values: pa.Array[Any]) -> None:
    """Hold every index, in nested types too, against its dictionary.

    Arrow decodes a corrupt page of indices without complaint. Reading such a value raises later,
    and writing it makes a corrupt file without a word.

    Raises: `pa.ArrowException` where an index has no value.
    """
    if isinstance(values, pa.DictionaryArray):
        pa.DictionaryArray.from_arrays(values.indices, values.dictionary, safe=True)
        return
    for part in _parts(values, values.type):
        check_indices(part)


def _parts(values: Any, kind: pa.DataType) -> list[pa.Array[Any]]:
    if isinstance(kind, pa.BaseExtensionType):
        return [values.storage]
    if pa.types.is_struct(kind):
        return [values.field(index) for index in range(kind.num_fields)]
    if pa.types.is_map(kind):
        return [values.keys, values.items]
    if pa.types.is_nested(kind):  # lists of every kind; Parquet holds no unions
        return [values.values]
    return []
