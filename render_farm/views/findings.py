"""What is wrong with a run: counted by kind, and the first defects in words."""

from __future__ import annotations

from dataclasses import dataclass, field

SHOWN_PROBLEMS = 100
SHOWN_CHARACTERS = 500
"""Of a problem: what lies in a damaged object can be of any length."""


@dataclass(slots=True)
class Findings:
    """What reading back found, counted; the first problems are kept in words.

    Memory is bounded, however much is wrong.
    """

    lost: int = 0
    duplicated: int = 0
    unexpected: int = 0
    corrupt: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not (self.lost or self.duplicated or self.unexpected or self.corrupt)

    def note(self, kind: str, message: str, count: int = 1) -> None:
        """Count a defect: `kind` is lost, duplicated, unexpected or corrupt."""
        setattr(self, kind, getattr(self, kind) + count)
        if len(self.problems) < SHOWN_PROBLEMS:
            text = f"{kind}: {message}"
            cut = text[:SHOWN_CHARACTERS] + " …" if len(text) > SHOWN_CHARACTERS else text
            self.problems.append(cut)

    def add(self, other: Findings) -> None:
        for kind in ("lost", "duplicated", "unexpected", "corrupt"):
            setattr(self, kind, getattr(self, kind) + getattr(other, kind))
        self.problems += other.problems[: SHOWN_PROBLEMS - len(self.problems)]
