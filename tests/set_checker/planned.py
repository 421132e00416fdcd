"""What must be there: the input's rows, and the shards that the design makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


@dataclass(frozen=True)
class InputColumns:
    """Which columns give id and prompt; no column, no ids."""

    id: str | None
    prompt: str


@dataclass(frozen=True)
class PlannedRow:
    """A row of the input. A text that is not UTF-8 is None: it can only be quarantined."""

    row: int
    id: str | None
    prompt: str | None


@dataclass(frozen=True)
class PlannedShard:
    """Consecutive rows of one input file."""

    index: int
    rows: tuple[PlannedRow, ...]

    @property
    def first_row(self) -> int:
        return self.rows[0].row


def plan_shards(
    prompts: Path | Sequence[Path], columns: InputColumns, shard_rows: int, limit: int | None
) -> list[PlannedShard]:
    """The shards of a dataset, in order: no shard has rows of two files."""
    shards: list[PlannedShard] = []
    row = 0
    for path in _files(prompts):
        values = list(_values(path, columns))
        if limit is not None:
            values = values[: limit - row]
        for first in range(0, len(values), shard_rows):
            piece = values[first : first + shard_rows]
            rows = (PlannedRow(row + at, *value) for at, value in enumerate(piece, first))
            shards.append(PlannedShard(len(shards), tuple(rows)))
        row += len(values)
    return shards


def _files(prompts: Path | Sequence[Path]) -> list[Path]:
    """A folder's files in bytewise order of their relative paths; others as they are given."""
    if not isinstance(prompts, Path):
        return list(prompts)
    if not prompts.is_dir():
        return [prompts]
    found = [path for path in prompts.rglob("*") if path.suffix in {".parquet", ".pq"}]
    parts = {path: path.relative_to(prompts).as_posix() for path in found if path.is_file()}
    shown = {path: key for path, key in parts.items() if not _hidden(key)}
    return sorted(shown, key=lambda path: shown[path].encode())


def _hidden(key: str) -> bool:
    return any(part.startswith((".", "_")) for part in key.split("/"))


def _values(path: Path, columns: InputColumns) -> Iterator[tuple[str | None, str | None]]:
    # By the schema as the file has it: a folder called `a=b` is no column.
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    id_column = columns.id if columns.id in names else None
    wanted = [columns.prompt, *([id_column] if id_column else [])]
    for batch in file.iter_batches(columns=wanted):
        for index in range(batch.num_rows):
            row_id = _text(batch[id_column][index]) if id_column else None
            yield row_id, _text(batch[columns.prompt][index])


def _text(scalar: Any) -> str | None:
    try:
        value = scalar.as_py()
    except UnicodeDecodeError:
        return None
    return None if value is None else str(value)
