"""A set of row ordinals, small in memory: a bit a row where rows are dense."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_BLOCK_BITS = 12


class RowSet:
    """Row ordinals in blocks of 4096; a block that has none costs nothing."""

    def __init__(self, rows: Iterable[int] = ()) -> None:
        self._blocks: dict[int, int] = {}
        for row in rows:
            self.add(row)

    def add(self, row: int) -> None:
        self._blocks[row >> _BLOCK_BITS] = self._block(row) | _bit(row)

    def add_range(self, rows: range) -> None:
        """Add consecutive rows, a block at a time."""
        row = rows.start
        while row < rows.stop:
            end = min(rows.stop, ((row >> _BLOCK_BITS) + 1) << _BLOCK_BITS)
            bits = ((1 << (end - row)) - 1) << (row & ((1 << _BLOCK_BITS) - 1))
            self._blocks[row >> _BLOCK_BITS] = self._block(row) | bits
            row = end

    def discard(self, row: int) -> None:
        self._blocks[row >> _BLOCK_BITS] = self._block(row) & ~_bit(row)

    def copy(self) -> RowSet:
        copy = RowSet()
        copy._blocks = dict(self._blocks)
        return copy

    def __contains__(self, row: int) -> bool:
        return bool(self._block(row) & _bit(row))

    def __len__(self) -> int:
        return sum(block.bit_count() for block in self._blocks.values())

    def __iter__(self) -> Iterator[int]:
        """In order."""
        for number, block in sorted(self._blocks.items()):
            left = block
            while left:
                lowest = left & -left
                yield (number << _BLOCK_BITS) + lowest.bit_length() - 1
                left ^= lowest

    def _block(self, row: int) -> int:
        return self._blocks.get(row >> _BLOCK_BITS, 0)


def _bit(row: int) -> int:
    return 1 << (row & ((1 << _BLOCK_BITS) - 1))
