"""The prompt dataset: surveying its Parquet files once, reading the rows of a shard.

Every file is copied to local scratch space and digested before it is read. What is rendered is
therefore what was pinned, even when somebody writes to the dataset while the run goes on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.errors import InputError, NotFound, StopError, first_line
from render_farm.job.dictionaries import check_indices
from render_farm.job.discover import find_files
from render_farm.job.plan import Shard
from render_farm.job.schema import (
    BATCH_ROWS,
    check_names,
    check_values_fit,
    conform,
    doubtful_columns,
    listed,
    unify,
)
from render_farm.store.base import Store
from render_farm.store.copy import copy_digested
from render_farm.store.open import open_store

MOST_PARTS = 100_000
"""Columns or row groups of a file: Arrow makes room for as many as the footer claims."""


@dataclass(frozen=True, slots=True)
class PromptFile:
    """One input file as it was found: `path` relative to the dataset's root, `rows` in all."""

    path: str
    rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PromptDataset:
    """The input files in their order, and the one schema that holds all of them."""

    root: str
    files: tuple[PromptFile, ...]
    schema: pa.Schema


def survey(path: str) -> PromptDataset:
    """Find the dataset's files, read each once from end to end and pin it by its digest.

    Reading everything costs little beside rendering it, and a corrupt page is found before the
    first image is made instead of after the last.

    Raises:
        InputError: nothing found, a file is no Parquet or is corrupt, schemas do not go together,
            no rows.
    """
    root, keys = find_files(path)
    store = open_store(root)
    files, schemas = [], []
    for key in keys:
        with tempfile.TemporaryFile(prefix="render-farm-") as copy, _memory_given_back():
            size, sha256 = _copy(store, key, copy)
            rows, schema = _read_through(copy, f"{path}: {key}")
        files.append(PromptFile(key, rows, size, sha256))
        schemas.append(schema)
    if not sum(file.rows for file in files):
        raise InputError.of(
            "prompts.path", f"{path} (0 rows)", "a dataset with rows", "point it at the prompts"
        )
    whole = unify(path, schemas)
    for file, schema in zip(files, schemas, strict=True):
        if doubtful := doubtful_columns(schema, whole):
            with tempfile.TemporaryFile(prefix="render-farm-") as copy:
                _copy_pinned(store, file, copy)
                check_values_fit(_opened(copy), f"{store.uri}/{file.path}", doubtful, whole)
    return PromptDataset(store.uri, tuple(files), whole)


@contextmanager
def _memory_given_back() -> Iterator[None]:
    """Let Arrow use the system's memory: its own pool keeps what it had, for as long as we live."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


class ShardReader:
    """Reads the rows of shards; holds the copy of one input file and its last row groups."""

    def __init__(self, dataset: PromptDataset) -> None:
        self._dataset = dataset
        self._file = -1
        self._copy: BinaryIO | None = None
        self._groups: dict[int, pa.Table] = {}

    def read(self, shard: Shard) -> pa.Table:
        """The shard's rows in the dataset's schema, in order.

        Raises:
            InputError: the file is not the one that was pinned.
        """
        parquet = self._open(shard.file)
        first, last = shard.first_row_in_file, shard.first_row_in_file + shard.rows
        pieces, groups, start = [], {}, 0
        for index in range(parquet.num_row_groups):
            end = start + parquet.metadata.row_group(index).num_rows
            if start < last and end > first:
                group = self._groups.get(index)
                groups[index] = parquet.read_row_group(index) if group is None else group
                low = max(first, start)
                pieces.append(groups[index].slice(low - start, min(last, end) - low))
            start = end
        self._groups = groups
        return conform(pa.concat_tables(pieces), self._dataset.schema)

    def close(self) -> None:
        """Let go of the local copy."""
        if self._copy is not None:
            self._copy.close()
        self._file, self._copy, self._groups = -1, None, {}

    def _open(self, index: int) -> pq.ParquetFile:
        if index != self._file:
            self.close()
            pinned = self._dataset.files[index]
            copy = tempfile.TemporaryFile(prefix="render-farm-")  # noqa: SIM115 - kept open
            try:
                _copy_pinned(open_store(self._dataset.root), pinned, copy)
            except BaseException:
                copy.close()
                raise
            self._file, self._copy = index, copy
        assert self._copy is not None
        return _opened(self._copy)


def _copy(store: Store, key: str, into: BinaryIO) -> tuple[int, str]:
    try:
        return copy_digested(store, key, into)
    except NotFound as error:
        raise InputError.of(
            "prompts.path", f"{store.uri}/{key}", "a file that is there", "put the file back"
        ) from error
    except OSError as error:
        raise StopError(
            f"{store.uri}/{key} could not be copied to {tempfile.gettempdir()} ({error})",
            "Make room there, or set TMPDIR to a folder with room; then go on.",
        ) from error


def _copy_pinned(store: Store, pinned: PromptFile, into: BinaryIO) -> None:
    size, sha256 = _copy(store, pinned.path, into)
    if (size, sha256) != (pinned.size_bytes, pinned.sha256):
        raise InputError.of(
            "prompts.path",
            f"{pinned.path}: {size} bytes, sha256 {sha256}",
            f"the file that was pinned: {pinned.size_bytes} bytes, sha256 {pinned.sha256}",
            "put the file back as it was, or start a new run at another output.uri",
        )


def _opened(copy: BinaryIO) -> pq.ParquetFile:
    return pq.ParquetFile(
        copy, page_checksum_verification=True, thrift_container_size_limit=MOST_PARTS
    )


def _read_through(copy: BinaryIO, name: str) -> tuple[int, pa.Schema]:
    """Decode every page of a file once; row groups leave memory again as they are read."""
    try:
        parquet = _opened(copy)
        rows = [sum(_checked_rows(batch) for batch in group) for group in _row_groups(parquet)]
        stated = [parquet.metadata.row_group(index).num_rows for index in range(len(rows))]
        schema = parquet.schema_arrow
        check_names(pa.struct(schema))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError.of(
            "prompts.path",
            f"{name} ({first_line(error)})",
            "Parquet files that can be read from end to end",
            "write the file anew, or leave it out of the dataset",
        ) from error
    if rows != stated or sum(rows) != parquet.metadata.num_rows:
        raise InputError.of(
            "prompts.path",
            f"{name} ({sum(rows)} rows read, {parquet.metadata.num_rows} in the footer)",
            "Parquet files whose footer is true",
            "write the file anew",
        )
    names = schema.names
    if twice := {column for column in names if names.count(column) > 1}:
        raise InputError.of(
            "prompts.path",
            f"{name} (columns that stand twice: {listed(sorted(twice))})",
            "columns with names of their own",
            "rename them",
        )
    return sum(rows), schema


def _checked_rows(batch: pa.RecordBatch) -> int:
    for column in batch.columns:
        check_indices(column)
    return batch.num_rows


def _row_groups(parquet: pq.ParquetFile) -> Iterator[Iterator[pa.RecordBatch]]:
    for index in range(parquet.num_row_groups):
        yield parquet.iter_batches(BATCH_ROWS, row_groups=[index])
