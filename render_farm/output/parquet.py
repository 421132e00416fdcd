"""Parquet files of a result: metadata, and the container with the images in it.

Every file has page checksums; 18 % of flipped bits would go unseen without them. Metadata is
compressed with zstd, image bytes are not: they are compressed already.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.output.corrupt import CorruptFile
from render_farm.output.json_form import json_rows
from render_farm.output.layout import StoredSample
from render_farm.output.metadata import METADATA_COLUMNS

Source: TypeAlias = Path | BinaryIO
"""A local file, or a seekable stream."""

ROW_GROUP_BYTES: Final = 64 << 20
"""What a row group is filled up to. Viewers want at most 100 MB."""

_IMAGE: Final = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
_IMAGE_LEAVES: Final = ("image.bytes", "image.path")
_HUGGINGFACE: Final = b"huggingface"


def with_image_column(table: pa.Table, names: Sequence[str], images: Sequence[bytes]) -> pa.Table:
    """The table with the column `image: struct<bytes, path>` in front; all aligned."""
    parts: list[Any] = [pa.array(images, pa.binary()), pa.array(names, pa.string())]
    return table.add_column(0, _IMAGE, pa.StructArray.from_arrays(parts, fields=list(_IMAGE.type)))


def dataset_schema(schema: pa.Schema, input_fields: pa.Schema, with_image: bool) -> pa.Schema:
    """A `metadata_schema` as it is written: with the image column and what `datasets` reads.

    `datasets` shows images, and knows features, by the schema metadata ``huggingface``. What the
    input declares there for carried columns (class labels) is declared again under their names
    here.
    """
    names = schema.names[len(METADATA_COLUMNS) :]
    declared = _declared_features(input_fields)
    pairs = zip(input_fields.names, names, strict=True)
    features = {name: declared[source] for source, name in pairs if source in declared}
    if with_image:
        schema = schema.insert(0, _IMAGE)
        features[_IMAGE.name] = {"_type": "Image"}
    if not features:
        return schema.remove_metadata()
    info = json.dumps({"info": {"features": features}}, sort_keys=True)
    return schema.with_metadata({_HUGGINGFACE: info.encode()})


def write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables of one schema, each as one row group; the same tables give the same bytes."""
    leaves = _leaves(schema)
    image_leaves = set(_IMAGE_LEAVES) if schema.names[0] == _IMAGE.name else set()
    plain = [leaf for leaf in leaves if leaf not in image_leaves]
    with pq.ParquetWriter(
        path,
        schema,
        compression={leaf: "zstd" if leaf in plain else "none" for leaf in leaves},
        use_dictionary=plain,  # type: ignore[arg-type]  # the stubs lack the list
        write_statistics=plain,
        write_page_checksum=True,
        # Pages are cut between write batches: one of 1024 images would be a page of gigabytes.
        write_batch_size=4 if image_leaves else 1024,
    ) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(1, table.num_rows))


def read_metadata(source: Source, name: str = "metadata") -> pa.Table:
    """Everything of a Parquet file of a result but the images; page checksums are verified.

    Raises:
        CorruptFile: not a whole Parquet file of a result; `name` is in it.
        FileNotFoundError: there is no such file.
    """
    with _reading(source, name) as file:
        names = file.schema_arrow.names
        if names[:1] == [_IMAGE.name]:
            del names[0]
        if names[: len(METADATA_COLUMNS)] != METADATA_COLUMNS.names:
            raise CorruptFile(name, "it has not the metadata columns of a result")
        return file.read(columns=names)


def read_samples(source: Source, name: str = "parquet") -> Iterator[StoredSample]:
    """The samples of a file of container parquet, in order, a few in memory at a time.

    Raises: as `read_metadata`.
    """
    with _reading(source, name) as file:
        if file.schema_arrow.names[:1] != [_IMAGE.name]:
            raise CorruptFile(name, "it has no column image")
        for group in range(file.num_row_groups):
            # Asked for all groups at once, Arrow would keep every one that it has read.
            for batch in file.iter_batches(batch_size=16, row_groups=[group]):
                yield from _stored(pa.Table.from_batches([batch]))


@contextmanager
def _reading(source: Source, name: str) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the operating system's; Arrow's own have no number
        raise CorruptFile(name, f"not a whole Parquet file: {error}") from error


def _stored(table: pa.Table) -> Iterator[StoredSample]:
    images: list[Any] = table.column(0).to_pylist()
    records = json_rows(table.drop_columns([_IMAGE.name]))
    for image, record in zip(images, records, strict=True):
        yield StoredSample(record["key"], image["bytes"], record)


@lru_cache(maxsize=16)
def _leaves(schema: pa.Schema) -> tuple[str, ...]:
    """The names of the columns as Parquet has them, where a list or struct is several."""
    buffer = io.BytesIO()
    pq.write_table(schema.empty_table(), buffer)
    columns = pq.ParquetFile(buffer).schema
    return tuple(columns.column(index).path for index in range(len(columns)))


def _declared_features(input_fields: pa.Schema) -> dict[str, Any]:
    try:
        declared = json.loads((input_fields.metadata or {})[_HUGGINGFACE])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}  # a hint for viewers, written by others; the values do not depend on it
    return declared if isinstance(declared, dict) else {}
