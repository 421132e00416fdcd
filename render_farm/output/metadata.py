"""What is recorded of a sample: the columns and their Arrow types."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import pyarrow as pa

from render_farm.job.resolve import MAX_TEXT

Status: TypeAlias = Literal["done", "filtered", "quarantined"]

_STRING = pa.string()
_INT32 = pa.int32()
_INT64 = pa.int64()
_FLOAT64 = pa.float64()

_COLUMNS: Final[tuple[tuple[str, pa.DataType], ...]] = (
    ("shard", _INT32),
    ("row", _INT64),
    ("sample", _INT32),
    ("id", _STRING),
    ("prompt", _STRING),
    ("negative_prompt", _STRING),
    ("seed", _INT64),
    ("width", _INT32),
    ("height", _INT32),
    ("steps", _INT32),
    ("guidance_scale", _FLOAT64),
    ("scheduler", _STRING),
    ("model", _STRING),
    ("revision", _STRING),
    ("dtype", _STRING),
    ("status", _STRING),
    ("error_type", _STRING),
    ("error", _STRING),
    ("key", _STRING),
    ("format", _STRING),
    ("size_bytes", _INT64),
    ("sha256", _STRING),
    ("mean_luma", _FLOAT64),
    ("std_luma", _FLOAT64),
    ("flags", pa.list_(_STRING)),
    ("cut_tokens", _INT32),
    ("nsfw", pa.bool_()),
    ("attempt", _STRING),
    ("worker", _STRING),
    ("device", _STRING),
    ("batch_shape", _STRING),
    ("render_s", _FLOAT64),
    ("created_at", pa.timestamp("us", tz="UTC")),
    ("render_farm_version", _STRING),
)
_ALWAYS_SET: Final = {"shard", "row", "status", "attempt"}

METADATA_COLUMNS: Final = pa.schema(
    [pa.field(name, kind, nullable=name not in _ALWAYS_SET) for name, kind in _COLUMNS]
)
"""The columns that every result has, in their order, before those carried from the input."""

_IMAGE_NAMES: Final = frozenset({"image", "image.bytes", "image.path"})
"""To a reader that is asked for columns by name, the last two are parts of the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecord:
    """One line of metadata: a sample that is done or filtered, or a row that is quarantined.

    The other columns, `shard`, `attempt`, `key`, `format`, `size_bytes` and `sha256`, are added by
    `ShardWriter`. `key` is the sample's name, row (9 digits) _ sample (2): the basename of its tar
    members or files and never a path, so that it is the same in every attempt and container.

    A quarantined row's values are recorded as far as they could be resolved: a value that its
    column cannot hold, and a text too long to be a prompt, becomes null there; the input row
    itself keeps it.
    """

    row: int
    status: Status
    sample: int | None = None
    id: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str | None = None
    model: str | None = None
    revision: str | None = None
    dtype: str | None = None
    error_type: str | None = None
    error: str | None = None
    mean_luma: float | None = None
    std_luma: float | None = None
    flags: tuple[str, ...] | None = None
    cut_tokens: int | None = None
    nsfw: bool | None = None
    worker: str | None = None
    device: str | None = None
    batch_shape: str | None = None
    render_s: float | None = None
    created_at: datetime | None = None
    render_farm_version: str | None = None


def without_long_texts(record: SampleRecord) -> SampleRecord:
    """The record of a quarantined row with null for texts that no prompt is as long as."""
    long: dict[str, Any] = {
        name: None
        for name in ("id", "prompt", "negative_prompt", "scheduler")
        if isinstance(text := getattr(record, name), str) and len(text) > MAX_TEXT
    }
    return replace(record, **long)


def metadata_schema(input_fields: pa.Schema, *, with_image: bool = False) -> pa.Schema:
    """The schema of a result: `METADATA_COLUMNS`, then the carried columns of the input.

    A carried column keeps its type, nullability and field metadata. Where its name is taken —
    by a metadata column, by another carried column, or by `image` and its parts in a file
    `with_image` — it gets the prefix ``input_`` until it is free.
    """
    reserved = {*METADATA_COLUMNS.names, *(_IMAGE_NAMES if with_image else ())}
    taken = reserved | set(input_fields.names)
    used: set[str] = set()
    fields = list(METADATA_COLUMNS)
    for field in input_fields:
        name = field.name
        if name in reserved or name in used:
            while name in taken:
                name = f"input_{name}"
        taken.add(name)
        used.add(name)
        fields.append(field.with_name(name))
    return pa.schema(fields)
