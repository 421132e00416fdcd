"""The plan: which rows make which shard. A pure function of the files' row counts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

MAX_ROWS = 10**9
MAX_SHARDS = 10**6


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive rows of one input file, rendered by one attempt and committed together.

    `first_row` counts over the whole dataset, `first_row_in_file` within file number `file`.
    """

    index: int
    file: int
    first_row_in_file: int
    first_row: int
    rows: int

    def row_range(self) -> range:
        """The shard's rows as ordinals in the whole dataset."""
        return range(self.first_row, self.first_row + self.rows)


class Plan:
    """All shards of a run, computed when asked for: memory grows with the files, not the rows.

    `file_rows` are the row counts of the input files in their order, cut at the job's limit.
    Files without rows have no shards.
    """

    def __init__(self, file_rows: Sequence[int], rows_per_shard: int) -> None:
        if rows_per_shard < 1 or any(rows < 0 for rows in file_rows):
            raise ValueError(f"not a plan: {rows_per_shard=}, {min(file_rows, default=0)=}")
        self.rows_per_shard = rows_per_shard
        self.file_rows = tuple(file_rows)
        self._first_rows = (0, *accumulate(self.file_rows))
        self._first_shards = (0, *accumulate(-(-rows // rows_per_shard) for rows in file_rows))

    @property
    def rows(self) -> int:
        return self._first_rows[-1]

    @property
    def shards(self) -> int:
        return self._first_shards[-1]

    def shard(self, index: int) -> Shard:
        """Shard number `index`. Raises: IndexError."""
        if not 0 <= index < self.shards:
            raise IndexError(f"shard {index} of {self.shards}")
        file = bisect_right(self._first_shards, index) - 1
        first = (index - self._first_shards[file]) * self.rows_per_shard
        return Shard(
            index=index,
            file=file,
            first_row_in_file=first,
            first_row=self._first_rows[file] + first,
            rows=min(self.rows_per_shard, self.file_rows[file] - first),
        )

    def shard_of_row(self, row: int) -> Shard:
        """The shard that holds a row of the dataset. Raises: IndexError."""
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        file = bisect_right(self._first_rows, row) - 1
        in_file = (row - self._first_rows[file]) // self.rows_per_shard
        return self.shard(self._first_shards[file] + in_file)

    def __iter__(self) -> Iterator[Shard]:
        return (self.shard(index) for index in range(self.shards))


def limited(file_rows: Sequence[int], limit: int | None) -> tuple[int, ...]:
    """Row counts cut so that they add up to at most `limit` rows; None cuts nothing."""
    if limit is None:
        return tuple(file_rows)
    kept, left = [], limit
    for rows in file_rows:
        kept.append(min(rows, left))
        left -= kept[-1]
    return tuple(kept)
