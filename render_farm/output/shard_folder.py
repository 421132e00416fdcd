"""The local folder in which an attempt's files take shape; its paths are the keys of the run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from render_farm.output.json_form import json_rows
from render_farm.output.layout import OutputFile, ShardLayout, StoredSample
from render_farm.output.metadata import SampleRecord, metadata_schema, records_to_table
from render_farm.output.parquet import (
    ROW_GROUP_BYTES,
    dataset_schema,
    with_image_column,
    write_parquet,
)
from render_farm.output.webdataset import write_tar


@dataclass(frozen=True, slots=True)
class ShardFolder:
    """Scratch space of one attempt: encoded images come in one by one, the shard's files go out."""

    folder: Path
    layout: ShardLayout

    def keep_image(self, sample_key: str, encoded: bytes) -> None:
        """Put an encoded image aside until the files are written."""
        self._image_path(sample_key).write_bytes(encoded)

    def write_data(self, done: Sequence[SampleRecord], carried: pa.Table) -> list[OutputFile]:
        """Write done samples, in the order given, into the files of the layout's container."""
        layout = self.layout
        if layout.container == "parquet":
            return [self.write_table(layout.metadata_key, done, carried, self._take_image)]
        if layout.container == "webdataset":
            path = self._path(layout.tar_key)
            write_tar(path, self._stored(done, carried), layout.image_format)
            files = [_described(layout.tar_key, path)]
        else:
            keys = [record.key or "" for record in done]
            files = [
                _described(layout.image_key(key), self._image_path(key), listed=False)
                for key in keys
            ]
        return [*files, self.write_table(layout.metadata_key, done, carried)]

    def write_table(
        self,
        key: str,
        records: Sequence[SampleRecord],
        carried: pa.Table,
        image_of: Callable[[SampleRecord], bytes] | None = None,
    ) -> OutputFile:
        """Write records and their carried columns as one Parquet file, with images if given."""

        def tables() -> Iterator[pa.Table]:
            for batch in self._batches(records, carried, counts_images=image_of is not None):
                table = records_to_table(
                    batch, carried, self._rows(batch), with_image=image_of is not None
                )
                if image_of is not None:
                    names = [self._image_path(record.key or "").name for record in batch]
                    table = with_image_column(table, names, [image_of(record) for record in batch])
                yield table

        path = self._path(key)
        schema = metadata_schema(carried.schema, with_image=image_of is not None)
        write_parquet(path, dataset_schema(schema, carried.schema, image_of is not None), tables())
        return _described(key, path)

    def _stored(self, done: Sequence[SampleRecord], carried: pa.Table) -> Iterator[StoredSample]:
        for batch in self._batches(done, carried, counts_images=False):
            table = records_to_table(batch, carried, self._rows(batch))
            for record, row in zip(batch, json_rows(table), strict=True):
                yield StoredSample(row["key"], self._take_image(record), row)

    def _batches(
        self, records: Sequence[SampleRecord], carried: pa.Table, *, counts_images: bool
    ) -> Iterator[list[SampleRecord]]:
        """Consecutive records of about `ROW_GROUP_BYTES`; carried rows count with their mean."""
        row_bytes = 1024 + carried.nbytes // max(1, carried.num_rows)
        batch: list[SampleRecord] = []
        batch_bytes = 0
        for record in records:
            size = row_bytes + ((record.size_bytes or 0) if counts_images else 0)
            if batch and batch_bytes + size > ROW_GROUP_BYTES:
                yield batch
                batch, batch_bytes = [], 0
            batch.append(record)
            batch_bytes += size
        if batch:
            yield batch

    def _rows(self, records: Sequence[SampleRecord]) -> list[int]:
        return [record.row - self.layout.first_row for record in records]

    def _take_image(self, record: SampleRecord) -> bytes:
        path = self._image_path(record.key or "")
        encoded = path.read_bytes()
        path.unlink()  # it goes into a larger file: the disk holds one copy, not two
        return encoded

    def _image_path(self, sample_key: str) -> Path:
        return self._path(self.layout.image_key(sample_key))

    def _path(self, key: str) -> Path:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _described(key: str, path: Path, *, listed: bool = True) -> OutputFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return OutputFile(key, path, path.stat().st_size, digest, listed)
