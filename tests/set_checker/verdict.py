"""What a check found: four kinds of defects in words, and how the rows ended."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SetVerdict:
    """How every planned row ended, and what is wrong.

    A row is counted under the one end that its objects show; one that lacks a sample, or has
    two ends, is counted nowhere. `samples` are the done ones. Orphans spoil nothing.
    """

    planned_rows: int
    done_rows: int
    filtered_rows: int
    quarantined_rows: int
    cancelled_rows: int
    samples: int
    lost: list[str]
    duplicated: list[str]
    unexpected: list[str]
    corrupt: list[str]
    orphans: int

    @property
    def whole(self) -> bool:
        """Whether nothing is lost, duplicated, unexpected or corrupt."""
        return not (self.lost or self.duplicated or self.unexpected or self.corrupt)


@dataclass
class Defects:
    """The defects found so far."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
