"""Small whole Parquet files of every encoding, compression and nesting that prompts come in."""

from __future__ import annotations

import datetime as dt
import decimal
import io
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 24
NESTED = pa.list_(pa.struct([("name", pa.string()), ("xy", pa.list_(pa.float64()))]))


@dataclass(frozen=True)
class Flavour:
    """A whole Parquet file and where its parts begin; `pages` are offsets of page headers."""

    data: bytes
    footer: int
    chunks: tuple[tuple[int, int], ...]
    pages: tuple[int, ...]
    checked: bool


@cache
def flavours() -> dict[str, Flavour]:
    """Small files of every encoding, compression and nesting that prompts come in."""
    flat, nested = flat_table(), nested_table()
    plain: dict[str, Any] = {"use_dictionary": False}
    return {
        "snappy, dictionary": _made(flat, compression="snappy"),
        "zstd, dictionary, checksums": _made(flat, compression="zstd", write_page_checksum=True),
        "plain": _made(flat, compression="none", **plain),
        "plain, checksums": _made(flat, compression="none", write_page_checksum=True, **plain),
        "gzip, pages of version 2": _made(
            flat, compression="gzip", data_page_version="2.0", data_page_size=128, **plain
        ),
        "brotli, dictionary, indices of pages": _made(
            flat, compression="brotli", write_page_index=True, data_page_size=64
        ),
        "lz4, delta encodings": _made(
            flat.select(["id", "prompt", "seed"]),
            compression="lz4",
            use_dictionary=False,
            column_encoding={
                "id": "DELTA_LENGTH_BYTE_ARRAY",
                "prompt": "DELTA_BYTE_ARRAY",
                "seed": "DELTA_BINARY_PACKED",
            },
        ),
        "nested, snappy": _made(nested, compression="snappy"),
        "nested, plain, checksums": _made(
            nested, compression="none", write_page_checksum=True, **plain
        ),
        "dictionaries of Arrow's": _made(dictionary_table(), compression="none"),
        "without Arrow's schema": _made(flat, compression="none", store_schema=False),
    }


def flat_table() -> pa.Table:
    return pa.table(
        {
            "id": [f"row-{row}" for row in range(ROWS)],
            "prompt": [f"a picture of number {row % 7}" for row in range(ROWS)],
            "seed": pa.array([None if row % 5 == 0 else row * 10**9 for row in range(ROWS)]),
            "guidance_scale": [row / 2 for row in range(ROWS)],
            "label": pa.array([row % 3 for row in range(ROWS)], pa.int8()),
            "flag": [row % 2 == 0 for row in range(ROWS)],
        }
    )


def nested_table() -> pa.Table:
    boxes = [
        None if row % 4 == 0 else [{"name": f"n{row}", "xy": [row / 3] * (row % 3)}] * (row % 3)
        for row in range(ROWS)
    ]
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return pa.table(
        {
            "prompt": pa.array([f"p{row % 3}" for row in range(ROWS)]).dictionary_encode(),
            "boxes": pa.array(boxes, NESTED),
            "tags": pa.array(
                [[("k", row), ("l", None)] for row in range(ROWS)],
                pa.map_(pa.string(), pa.int64()),
            ),
            "price": pa.array([decimal.Decimal(row) / 8 for row in range(ROWS)]),
            "at": pa.array([at + dt.timedelta(hours=row) for row in range(ROWS)]),
            "blob": pa.array([bytes([row] * 4) for row in range(ROWS)], pa.binary(4)),
            "half": pa.array([row / 4 for row in range(ROWS)], pa.float16()),
        }
    )


def dictionary_table() -> pa.Table:
    """Dictionaries that Arrow hands out as such, without a look at the indices."""
    kind = pa.dictionary(pa.int32(), pa.string())
    tones = [f"tone {row % 5}" for row in range(ROWS)]
    return pa.table(
        {
            "prompt": pa.array([f"picture {row % 3}" for row in range(ROWS)], kind),
            "tone": pa.array(tones, kind),
            "inner": pa.array([{"tone": tone} for tone in tones], pa.struct([("tone", kind)])),
            "list": pa.array([[tone] * 2 for tone in tones], pa.list_(kind)),
        }
    )


def _made(table: pa.Table, **options: Any) -> Flavour:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=ROWS // 3, **options)
    data = sink.getvalue()
    chunks, pages = [], []
    metadata = pq.read_metadata(io.BytesIO(data))
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            start = column.dictionary_page_offset or column.data_page_offset
            chunks.append((start, start + column.total_compressed_size))
            pages += sorted({start, column.data_page_offset})
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    checked = bool(options.get("write_page_checksum"))
    return Flavour(data, footer, tuple(chunks), tuple(pages), checked)
