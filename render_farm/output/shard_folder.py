"""The local folder in which an attempt's files take shape; its paths are the keys of the run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from render_farm.output.json_form import json_rows
from render_farm.output.layout import OutputFile, ShardLayout, StoredSample
from render_farm.output.lines import Line, lines_to_table
from render_farm.output.metadata import metadata_schema
from render_farm.output.parquet import (
    ROW_GROUP_BYTES,
    dataset_schema,
    with_image_column,
    write_parquet,
)
from render_farm.output.spool import Spool
from render_farm.output.webdataset import write_tar


class ShardFolder:
    """Scratch space of one attempt: encoded images come in one by one, the shard's files go out.

    Images that go into a larger file wait in a `Spool`; in container files each is a file of its
    own from the first. Images may come from several threads at once.
    """

    def __init__(self, folder: Path, layout: ShardLayout) -> None:
        self._folder = folder
        self._layout = layout
        self._spool = Spool(folder)

    def keep_image(self, sample_key: str, encoded: bytes) -> None:
        """Put an encoded image aside until the files are written."""
        if self._layout.container == "files":
            self._path(self._layout.image_key(sample_key)).write_bytes(encoded)
        else:
            self._spool.put(sample_key, encoded)

    def write_data(self, done: Sequence[Line], carried: pa.Table) -> list[OutputFile]:
        """Write done samples, in the order given, into the files of the layout's container."""
        layout = self._layout
        if layout.container == "parquet":
            return [self._write_table(layout.metadata_key, done, carried, with_image=True)]
        if layout.container == "webdataset":
            path = self._path(layout.tar_key)
            write_tar(path, self._stored(done, carried), layout.image_format)
            files = [_described(layout.tar_key, path)]
        else:
            files = [self._image_file(line) for line in done]
        return [*files, self._write_table(layout.metadata_key, done, carried)]

    def write_rejected(self, rejected: Sequence[Line], carried: pa.Table) -> OutputFile:
        """Write the lines of filtered samples and quarantined rows."""
        return self._write_table(self._layout.rejected_key, rejected, carried)

    def close(self) -> None:
        """Let go of the images that were put aside; the files remain."""
        self._spool.close()

    def _write_table(
        self, key: str, lines: Sequence[Line], carried: pa.Table, *, with_image: bool = False
    ) -> OutputFile:
        """Write lines and their carried columns as one Parquet file."""

        def tables() -> Iterator[pa.Table]:
            for batch in _batches(lines, carried, counts_images=with_image):
                table = lines_to_table(batch, self._layout, carried, with_image=with_image)
                yield self._with_images(table, batch) if with_image else table

        path = self._path(key)
        schema = metadata_schema(carried.schema, with_image=with_image)
        write_parquet(path, dataset_schema(schema, carried.schema, with_image), tables())
        return _described(key, path)

    def _with_images(self, table: pa.Table, lines: Sequence[Line]) -> pa.Table:
        keys = [line.key or "" for line in lines]
        names = [self._layout.image_name(key) for key in keys]
        return with_image_column(table, names, [self._spool.get(key) for key in keys])

    def _stored(self, done: Sequence[Line], carried: pa.Table) -> Iterator[StoredSample]:
        for batch in _batches(done, carried, counts_images=False):
            for row in json_rows(lines_to_table(batch, self._layout, carried)):
                yield StoredSample(row["key"], self._spool.get(row["key"]), row)

    def _image_file(self, line: Line) -> OutputFile:
        """An image that is a file of its own; what was digested is what was written."""
        key = self._layout.image_key(line.key or "")
        return OutputFile(key, self._folder / key, line.size_bytes or 0, line.sha256 or "", False)

    def _path(self, key: str) -> Path:
        path = self._folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _batches(
    lines: Sequence[Line], carried: pa.Table, *, counts_images: bool
) -> Iterator[list[Line]]:
    """Consecutive lines of about `ROW_GROUP_BYTES`; carried rows count with their mean."""
    row_bytes = 1024 + carried.nbytes // max(1, carried.num_rows)
    batch: list[Line] = []
    batch_bytes = 0
    for line in lines:
        size = row_bytes + ((line.size_bytes or 0) if counts_images else 0)
        if batch and batch_bytes + size > ROW_GROUP_BYTES:
            yield batch
            batch, batch_bytes = [], 0
        batch.append(line)
        batch_bytes += size
    if batch:
        yield batch


def _described(key: str, path: Path) -> OutputFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return OutputFile(key, path, path.stat().st_size, digest, listed_in_receipt=True)
