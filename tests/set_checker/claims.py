"""Who shows what of which row, over all receipts in force, held against the plan at the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.set_checker.planned import PlannedShard
from tests.set_checker.verdict import Defects

Name = tuple[int, int]
"""Row and sample."""


@dataclass
class ShardClaims:
    """What the objects that one receipt names show, each as often as they show it."""

    shard: int
    cancelled: bool = False
    done: Counter[Name] = field(default_factory=Counter)
    filtered: Counter[Name] = field(default_factory=Counter)
    quarantined: Counter[int] = field(default_factory=Counter)

    def row_ends(self, rows: int) -> dict[str, int]:
        """What a true receipt of a shard of so many rows counts."""
        done = {row for row, _ in self.done} - self.quarantined.keys()
        filtered = {row for row, _ in self.filtered} - self.quarantined.keys() - done
        return {
            "done": len(done),
            "filtered": len(filtered),
            "quarantined": len(self.quarantined),
            "cancelled": rows if self.cancelled else 0,
        }

    def sample_ends(self) -> dict[str, int]:
        return {"done": len(self.done), "filtered": len(self.filtered)}


class AllClaims:
    """The claims of all shards together."""

    def __init__(self, claims: Iterable[ShardClaims]) -> None:
        self.done: dict[Name, list[int]] = defaultdict(list)
        self.filtered: dict[Name, list[int]] = defaultdict(list)
        self.quarantined: dict[int, list[int]] = defaultdict(list)
        self.cancelled: set[int] = set()
        for each in claims:
            for name in each.done.elements():
                self.done[name].append(each.shard)
            for name in each.filtered.elements():
                self.filtered[name].append(each.shard)
            for row in each.quarantined.elements():
                self.quarantined[row].append(each.shard)
            if each.cancelled:
                self.cancelled.add(each.shard)

    def rows_by_end(
        self, plan: Sequence[PlannedShard], samples: int, defects: Defects
    ) -> Counter[str]:
        """How the planned rows ended; notes what is lost, duplicated or unexpected."""
        planned = {row.row: shard.index for shard in plan for row in shard.rows}
        self._find_strangers(planned, samples, defects)
        ends = (self._end_of(row, shard, samples, defects) for row, shard in planned.items())
        return Counter(end for end in ends if end is not None)

    def _find_strangers(self, planned: dict[int, int], samples: int, defects: Defects) -> None:
        for claims in (self.done, self.filtered):
            for (row, sample), shards in claims.items():
                for shard in shards:
                    if planned.get(row) != shard or not 0 <= sample < samples:
                        defects.unexpected.append(f"row {row} sample {sample} in shard {shard}")
        for row, shards in self.quarantined.items():
            for shard in shards:
                if planned.get(row) != shard:
                    defects.unexpected.append(f"quarantined row {row} in shard {shard}")

    def _end_of(self, row: int, shard: int, samples: int, defects: Defects) -> str | None:
        """How a row ended; None if it did not, or more than once."""
        names = [(row, sample) for sample in range(samples)]
        there = [len(self.done.get(n, ())) + len(self.filtered.get(n, ())) for n in names]
        quarantined = len(self.quarantined.get(row, ()))
        cancelled = shard in self.cancelled
        twice = [f"row {row} sample {k}: {n} times" for k, n in enumerate(there) if n > 1]
        if quarantined > 1:
            twice.append(f"row {row}: quarantined {quarantined} times")
        if bool(sum(there)) + bool(quarantined) + cancelled > 1:
            twice.append(f"row {row}: two of rendered, quarantined, cancelled")
        defects.duplicated += twice
        if quarantined or cancelled:
            end = "quarantined" if quarantined else "cancelled"
        else:
            missing = [f"row {row} sample {k}" for k, count in enumerate(there) if not count]
            defects.lost += missing
            any_done = any(name in self.done for name in names)
            end = None if missing else "done" if any_done else "filtered"
        return None if twice else end
