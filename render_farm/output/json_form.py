"""Arrow rows as JSON: the `.json` member of a webdataset sample."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import pyarrow as pa

_types: Final = pa.types


def json_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Every row of a table as a JSON-able dictionary, keys in the order of the schema.

    Numbers, booleans and strings are themselves; integers beyond 2^53 too, which readers that
    know floats only will round. What JSON has no form for:

    - NaN and infinities: null
    - binary: base64
    - timestamps, dates, times: ISO 8601; with a time zone in UTC and ending in ``Z``
    - durations: the whole number of the column's unit
    - decimals: a string, digits kept
    - maps: a list of [key, value] pairs
    - bytes of a string that are not UTF-8: escaped as ``\\xNN``
    """
    columns = [
        [value for chunk in column.chunks for value in _json_values(chunk)]
        for column in table.columns
    ]
    for values in zip(*columns, strict=True):
        yield dict(zip(table.column_names, values, strict=True))


def json_value(scalar: pa.Scalar[Any]) -> Any:
    """One Arrow scalar of any type, nested ones too, as `json_rows` describes."""
    if not scalar.is_valid:
        return None
    for fits, convert in _CONVERTERS:
        if fits(scalar.type):
            return convert(scalar)
    return scalar.as_py()


def to_json(row: dict[str, Any]) -> bytes:
    """A row of `json_rows` as UTF-8 JSON, without spaces and line ends."""
    return _ENCODER.encode(row).encode("utf-8")


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _json_values(array: pa.Array[Any]) -> list[Any]:
    """What `json_value` makes of each value: at once, where the type is a common one.

    Value by value takes a hundred times as long.
    """
    for fits, convert in _WHOLE:
        if fits(array.type):
            return convert(array)
    return _one_by_one(array)


def _one_by_one(array: pa.Array[Any]) -> list[Any]:
    return [json_value(scalar) for scalar in array]


def _texts(array: pa.Array[Any]) -> list[Any]:
    try:
        return array.to_pylist()
    except UnicodeDecodeError:
        return _one_by_one(array)


def _finite_values(array: pa.Array[Any]) -> list[Any]:
    values = array.to_pylist()
    return [float(v) if v is not None and math.isfinite(v) else None for v in values]


def _timestamps(array: pa.Array[Any]) -> list[Any]:
    # Through the integers, as `_timestamp`.
    instants = array.cast(pa.int64()).cast(pa.timestamp(array.type.unit)).cast(pa.string())
    zone = "Z" if array.type.tz is not None else ""
    return [v if v is None else v.replace(" ", "T") + zone for v in instants.to_pylist()]


def _lists(array: Any) -> list[Any]:
    ends = array.offsets.to_pylist()
    values = _json_values(array.values.slice(ends[0], ends[-1] - ends[0]))
    return [
        values[start - ends[0] : end - ends[0]] if valid else None
        for start, end, valid in zip(ends, ends[1:], array.is_valid().to_pylist(), strict=False)
    ]


def _text(scalar: Any) -> str:
    return bytes(scalar.as_buffer()).decode("utf-8", "backslashreplace")


def _base64(scalar: Any) -> str:
    return base64.b64encode(bytes(scalar.as_buffer())).decode("ascii")


def _finite(scalar: Any) -> float | None:
    value = float(scalar.as_py())
    return value if math.isfinite(value) else None


def _timestamp(scalar: Any) -> str:
    # Through the integer: Python's datetime has no nanoseconds and no years beyond 9999.
    instant = pa.scalar(scalar.value, pa.timestamp(scalar.type.unit)).cast(pa.string())
    zone = "Z" if scalar.type.tz is not None else ""
    return str(instant.as_py()).replace(" ", "T") + zone


def _struct(scalar: Any) -> dict[str, Any]:
    return {name: json_value(scalar[index]) for index, name in enumerate(scalar.type.names)}


def _map(scalar: Any) -> list[list[Any]]:
    return [[json_value(entry[0]), json_value(entry[1])] for entry in scalar.values]


def _is_string(data_type: pa.DataType) -> bool:
    return bool(
        _types.is_string(data_type)
        or _types.is_large_string(data_type)
        or _types.is_string_view(data_type)
    )


def _is_binary(data_type: pa.DataType) -> bool:
    return bool(
        _types.is_binary(data_type)
        or _types.is_large_binary(data_type)
        or _types.is_binary_view(data_type)
        or _types.is_fixed_size_binary(data_type)
    )


def _is_list(data_type: pa.DataType) -> bool:
    return bool(
        _types.is_list(data_type)
        or _types.is_large_list(data_type)
        or _types.is_fixed_size_list(data_type)
        or _types.is_list_view(data_type)
        or _types.is_large_list_view(data_type)
    )


def _is_wrapped(data_type: pa.DataType) -> bool:
    return bool(_types.is_dictionary(data_type) or isinstance(data_type, pa.BaseExtensionType))


def _is_plain(data_type: pa.DataType) -> bool:
    return bool(
        _types.is_integer(data_type) or _types.is_boolean(data_type) or _types.is_null(data_type)
    )


def _is_offset_list(data_type: pa.DataType) -> bool:
    return bool(_types.is_list(data_type) or _types.is_large_list(data_type))


_WHOLE: Final[list[tuple[Callable[[Any], bool], Callable[[Any], list[Any]]]]] = [
    (_is_plain, lambda array: array.to_pylist()),
    (_is_string, _texts),
    (_types.is_floating, _finite_values),
    (_types.is_timestamp, _timestamps),
    (_is_offset_list, _lists),
]

_CONVERTERS: Final[list[tuple[Callable[[Any], bool], Callable[[Any], Any]]]] = [
    (_is_wrapped, lambda scalar: json_value(scalar.value)),
    (_is_string, _text),
    (_is_binary, _base64),
    (_types.is_floating, _finite),
    (_types.is_decimal, lambda scalar: str(scalar.as_py())),
    (_types.is_timestamp, _timestamp),
    (_types.is_duration, lambda scalar: scalar.value),
    (_types.is_temporal, lambda scalar: str(scalar.cast(pa.string()).as_py())),
    (_types.is_struct, _struct),
    (_types.is_map, _map),
    (_is_list, lambda scalar: [json_value(value) for value in scalar.values]),
]
