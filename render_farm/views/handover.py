"""Which rows a run leaves to its child runs, and which rows of its parent a child has rendered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from render_farm.views.findings import Findings
from render_farm.views.row_set import RowSet

Rendered: TypeAlias = Literal["done", "filtered"]
Left: TypeAlias = Literal["quarantined", "cancelled"]


@dataclass(frozen=True, slots=True)
class ShardEnds:
    """The rows of one shard, as its objects show them.

    `rendered` has for each rendered row the row of the parent run that it was, None if it names
    none, as all rows of a run that is no child do.
    """

    quarantined: tuple[int, ...] = ()
    cancelled: range = range(0)
    rendered: tuple[tuple[int | None, Rendered], ...] = ()


@dataclass(slots=True)
class Handover:
    """Rows by their identity, never by their count.

    Memory holds the rows that were rejected, and of a child run its rendered rows, which are the
    parent's rejected ones: not the rows of a run.
    """

    quarantined: RowSet = field(default_factory=RowSet)
    cancelled: RowSet = field(default_factory=RowSet)
    done: RowSet = field(default_factory=RowSet)
    filtered: RowSet = field(default_factory=RowSet)
    without_origin: int = 0
    repeats: Findings = field(default_factory=Findings)
    """Rows of the parent that this run has rendered more than once."""

    def add(self, ends: ShardEnds) -> None:
        """Add a shard's rows."""
        for row in ends.quarantined:
            self.quarantined.add(row)
        self.cancelled.add_range(ends.cancelled)
        for origin, end in ends.rendered:
            if origin is None:
                self.without_origin += 1
            elif origin in self.done or origin in self.filtered:
                self.repeats.note("duplicated", f"row {origin}: twice in a child run")
            else:
                (self.done if end == "done" else self.filtered).add(origin)

    def rendered(self) -> Iterator[tuple[int, Rendered]]:
        """The rows of the parent that this run has rendered, each once."""
        yield from ((row, "done") for row in self.done)
        yield from ((row, "filtered") for row in self.filtered)

    def left(self) -> Handover:
        """A copy to take rows from, with the rows that are left to child runs only."""
        return Handover(self.quarantined.copy(), self.cancelled.copy())

    def take(self, row: int) -> Left | None:
        """Take a row that is left to child runs; returns how it had ended, None if it is not."""
        if row in self.quarantined:
            self.quarantined.discard(row)
            return "quarantined"
        if row in self.cancelled:
            self.cancelled.discard(row)
            return "cancelled"
        return None
