"""Columns that a dataset may carry along: every type of Parquet's, at its odd ends, and names."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa

NAMES = (
    "",
    " ",
    ".",
    "../../etc/passwd",
    "a",
    "a.b",
    "image",
    "image.bytes",
    "image.path",
    "input_image",
    "shard",
    "input_shard",
    "input_input_shard",
    "row",
    "key",
    "status",
    "error",
    "rf_error",
    "ARROW:schema",
    "nul\0",
    "\x1b[31mred",
    "line\nend",
    "Prompt",
    "🎨",
    "k" * 10_240,
)


def _nested(depth: int) -> pa.Array:
    value, kind = None, pa.int8()
    for _ in range(depth):
        value, kind = [value], pa.list_(kind)
    return pa.array([value, None], kind)


def _extension(kind: pa.DataType, storage: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, storage)


_NO_TEXT = pa.array([b"\xff", None], pa.binary())

COLUMNS: dict[str, pa.Array] = {
    "a list of 300,000": pa.array([list(range(300_000)), None], pa.list_(pa.int64())),
    "a megabyte of text": pa.array(["x" * 2**20, None]),
    "text that is none": _NO_TEXT.view(pa.string()),
    "a view of text": pa.array(["a", None], pa.string_view()),
    "a view of text that is none": _NO_TEXT.cast(pa.binary_view()).view(pa.string_view()),
    "a view of bytes": pa.array([b"\xff", None], pa.binary_view()),
    "views in a list": pa.array([["a", None], None], pa.list_(pa.string_view())),
    "views in a struct": pa.array([{"a": "b"}, None], pa.struct([("a", pa.string_view())])),
    "views in a map": pa.array([[("k", "v")], None], pa.map_(pa.string(), pa.string_view())),
    "views in a large list": pa.array([["a"], None], pa.large_list(pa.string_view())),
    "views in a list of two": pa.array([["a", "b"], None], pa.list_(pa.string_view(), 2)),
    "a list view": pa.array([[1], None], pa.list_view(pa.int8())),
    "large text in a large list": pa.array([["a"], None], pa.large_list(pa.large_string())),
    "a map with a key twice": pa.array(
        [[("k", 1), ("k", 2)], None], pa.map_(pa.string(), pa.int64())
    ),
    "a map with lists as keys": pa.array(
        [[(["k"], 1)], None], pa.map_(pa.list_(pa.string()), pa.int64())
    ),
    "lists thirty deep": _nested(30),
    "a struct of structs": pa.array([{"a": {"b": [{"c": None}]}}, None]),
    "a struct with odd names": pa.array([{"": 1, ".": 2, "a.b": 3}, None]),
    "a dictionary": pa.array(["a", None]).dictionary_encode(),
    "a dictionary in a struct": pa.array(
        [{"d": "a"}, None], pa.struct([("d", pa.dictionary(pa.int8(), pa.string()))])
    ),
    "38 digits": pa.array([Decimal("9" * 38), None], pa.decimal128(38, 0)),
    "76 digits": pa.array([Decimal("9" * 76), None], pa.decimal256(76, 0)),
    "the first nanosecond": pa.array([1 - 2**63, None], pa.timestamp("ns")),
    "the last microsecond": pa.array([2**63 - 1, None], pa.timestamp("us", "UTC")),
    "a zone that is none": pa.array([1, None], pa.timestamp("ms", "Mars/Olympus")),
    "the last day": pa.array([2**31 - 1, None], pa.date32()),
    "a time out of the day": pa.array([10**15, None], pa.time64("us")),
    "a duration": pa.array([2**63 - 1, None], pa.duration("ns")),
    "halves": pa.array([0.1, None], pa.float16()),
    "infinity": pa.array([float("-inf"), None]),
    "the largest number": pa.array([2**64 - 1, None], pa.uint64()),
    "bytes of one width": pa.array([bytes(16), None], pa.binary(16)),
    "lists of one width": pa.array([[1, 2], None], pa.list_(pa.int8(), 2)),
    "nulls": pa.nulls(2),
    "a list of nulls": pa.array([[None], None], pa.list_(pa.null())),
    "a uuid": _extension(pa.uuid(), pa.array([bytes(16), None], pa.binary(16))),
    "broken JSON": _extension(pa.json_(), pa.array(["{", None])),
    "a tensor": _extension(
        pa.fixed_shape_tensor(pa.int8(), [2]), pa.array([[1, 2], None], pa.list_(pa.int8(), 2))
    ),
}

NO_PROMPTS: dict[str, pa.Array] = {
    "numbers": pa.array([1, 2]),
    "bools": pa.array([True, False]),
    "bytes": pa.array([b"a", b"b"]),
    "lists": pa.array([["a"], ["b"]]),
    "structs": pa.array([{"text": "a"}, {"text": "b"}]),
    "maps": pa.array([[("a", "b")], []], pa.map_(pa.string(), pa.string())),
    "decimals": pa.array([Decimal(1), Decimal(2)]),
    "times": pa.array([1, 2], pa.timestamp("s")),
}
"""What no column that gives a request field can hold, but for numbers."""
