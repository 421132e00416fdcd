"""The prompt dataset: finding its Parquet files, surveying them once, reading the rows of a shard.

Every file is copied to local scratch space and digested before it is read. What is rendered is
therefore what was pinned, even when somebody writes to the dataset while the run goes on.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.errors import InputError, NotFound
from render_farm.job.plan import Shard
from render_farm.store.base import Store
from render_farm.store.open import open_store

_SUFFIXES = (".parquet", ".pq")
_COPY_BYTES = 4 * 1024 * 1024


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
        with tempfile.TemporaryFile(prefix="render-farm-") as copy:
            size, sha256 = _copy(store, key, copy)
            rows, schema = _read_through(copy, f"{path}: {key}")
        files.append(PromptFile(key, rows, size, sha256))
        schemas.append(schema)
    if not sum(file.rows for file in files):
        raise InputError.of(
            "prompts.path", f"{path} (0 rows)", "a dataset with rows", "point it at the prompts"
        )
    whole = _unify(path, schemas)
    for key, schema in zip(keys, schemas, strict=True):
        _check_values_fit(store, key, schema, whole)
    return PromptDataset(store.uri, tuple(files), whole)


def find_files(path: str) -> tuple[str, list[str]]:
    """The dataset's root and its files relative to it, sorted bytewise.

    A single file has its folder as root. A folder is searched through; names that start with a
    dot or an underscore are left out, as Hive, Spark and Arrow do, and a glob's wildcards do not
    match them either. In a glob ``*``, ``?`` and ``[…]`` stay within a folder, ``**`` does not.

    Raises: `InputError`.
    """
    single = _single_file(path)
    if single is not None:
        return single
    root, pattern = _split(path)
    keys = [info.key for info in open_store(root).list("") if _wanted(info.key, pattern)]
    if not keys:
        raise InputError.of(
            "prompts.path",
            path,
            "a Parquet file, or a folder or glob with *.parquet files in it",
            "check the path, and that the files can be listed with these credentials",
        )
    if strange := [key for key in keys if not _is_text(key)]:
        raise InputError.of(
            "prompts.path", f"{path}: {strange[0]!r}", "names of files in UTF-8", "rename the file"
        )
    return root, sorted(keys, key=lambda key: key.encode("utf-8"))


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
            size, sha256 = _copy(open_store(self._dataset.root), pinned.path, copy)
            if (size, sha256) != (pinned.size_bytes, pinned.sha256):
                copy.close()
                raise InputError.of(
                    "prompts.path",
                    f"{pinned.path}: {size} bytes, sha256 {sha256}",
                    f"the file that was pinned: {pinned.size_bytes} bytes, sha256 {pinned.sha256}",
                    "put the file back as it was, or start a new run at another output.uri",
                )
            self._file, self._copy = index, copy
        assert self._copy is not None
        return pq.ParquetFile(self._copy, page_checksum_verification=True)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns and types of `schema`; columns it lacks are null."""
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.column_names
        else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _single_file(path: str) -> tuple[str, list[str]] | None:
    """Folder and name if the path is one object; Spark's folders are called ``x.parquet`` too."""
    root, slash, name = path.rpartition("/")
    if name in {"", ".", ".."} or root.endswith(":/"):
        return None
    root = (root or "/") if slash else "."
    try:
        open_store(root).head(name)
    except NotFound:
        return None
    except ValueError as error:
        raise InputError.of(
            "prompts.path", path, "a path with / between its parts", "write / instead of \\"
        ) from error
    return root, [name]


def _split(path: str) -> tuple[str, list[str] | None]:
    """The folder to search and the pattern of paths in it, None for all Parquet files."""
    wildcard = re.search(r"[*?\[]", path)
    if not wildcard:
        return path, None
    root, slash, _ = path[: wildcard.start()].rpartition("/")
    return (root or "/") if slash else ".", path[len(root) + len(slash) :].split("/")


def _wanted(key: str, pattern: list[str] | None) -> bool:
    names = key.split("/")
    if pattern is not None:
        return _matches(names, pattern)
    return key.endswith(_SUFFIXES) and not any(_is_hidden(name) for name in names)


def _matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a glob, part by part, is met by a path; ``**`` stands for any visible folders."""
    if not pattern or not names:
        return not pattern and not names
    name, part = names[0], pattern[0]
    if part == "**":
        if _matches(names, pattern[1:] or ["*"]):
            return True
        return not _is_hidden(name) and _matches(names[1:], pattern)
    if _is_hidden(name) and not part.startswith(name[0]):
        return False
    return fnmatch.fnmatchcase(name, part) and _matches(names[1:], pattern[1:])


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _is_text(key: str) -> bool:
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _copy(store: Store, key: str, into: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    try:
        with store.open(key) as source:
            while block := source.read(_COPY_BYTES):
                digest.update(block)
                size += into.write(block)
    except NotFound as error:
        raise InputError.of(
            "prompts.path", f"{store.uri}/{key}", "a file that is there", "put the file back"
        ) from error
    into.flush()
    return size, digest.hexdigest()


def _read_through(copy: BinaryIO, name: str) -> tuple[int, pa.Schema]:
    """Decode every page of a file once; row groups leave memory again as they are read."""
    try:
        parquet = pq.ParquetFile(copy, page_checksum_verification=True)
        rows = [sum(batch.num_rows for batch in group) for group in _row_groups(parquet)]
        stated = [parquet.metadata.row_group(index).num_rows for index in range(len(rows))]
        schema = parquet.schema_arrow
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError.of(
            "prompts.path",
            f"{name} ({_first_line(error)})",
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
            f"{name} (columns that stand twice: {', '.join(sorted(twice))})",
            "columns with names of their own",
            "rename them",
        )
    return sum(rows), schema


def _row_groups(parquet: pq.ParquetFile) -> Iterator[Iterator[pa.RecordBatch]]:
    for index in range(parquet.num_row_groups):
        yield parquet.iter_batches(row_groups=[index])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _unify(path: str, schemas: list[pa.Schema]) -> pa.Schema:
    """One schema for all files: as it is where they agree, else the widest plain types."""
    bare = [schema.remove_metadata() for schema in schemas]
    if all(schema.equals(bare[0]) for schema in bare):
        return bare[0]
    try:
        return pa.unify_schemas([_plain(schema) for schema in bare], promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError.of(
            "prompts.path",
            f"{path} ({_first_line(error)})",
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


def _check_values_fit(store: Store, key: str, own: pa.Schema, whole: pa.Schema) -> None:
    """Read a file again where the types of one schema for all may not hold its values."""
    doubtful = [
        field for field in own if not _always_fits(field.type, whole.field(field.name).type)
    ]
    if not doubtful:
        return
    with tempfile.TemporaryFile(prefix="render-farm-") as copy:
        _copy(store, key, copy)
        parquet = pq.ParquetFile(copy)
        for field in doubtful:
            kind = whole.field(field.name).type
            try:
                for batch in parquet.iter_batches(columns=[field.name]):
                    _cast_exactly(batch.column(0), kind)
            except pa.ArrowException as error:
                raise InputError.of(
                    "prompts.path",
                    f"{store.uri}/{key} (column {field.name!r} as {kind}: {_first_line(error)})",
                    "files whose values fit the types that hold all files",
                    f"rewrite the files with one type for {field.name!r}",
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
