"""Proof that a run is whole: every planned row there once, every byte the one that was committed.

Reads everything back, a shard at a time; memory does not grow with the run.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from render_farm.errors import StopError
from render_farm.ledger import keys
from render_farm.ledger.manifest import ManifestWriter, Totals
from render_farm.ledger.receipt import Receipt, iter_receipts
from render_farm.ledger.record import RunRecord
from render_farm.store.base import Store, exists
from render_farm.views.findings import Findings
from render_farm.views.handover import Handover, ShardEnds
from render_farm.views.results import fetched
from render_farm.views.shard_check import check_shard
from render_farm.views.strays import check_strays

READERS = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of `verify_run`. Orphans are waste, not defects."""

    findings: Findings
    samples: int
    rows: dict[str, int]
    orphans: int
    handover: Handover = field(default_factory=Handover, repr=False)

    @property
    def complete(self) -> bool:
        return self.rows["pending"] == 0

    def with_child(self, child: Verdict) -> Verdict:
        """With the rows that a child run rendered, each instead of the rejected row that it was.

        A row that was not left to child runs, or that another one rendered before, is duplicated;
        one that this run never had is unexpected.
        """
        rows, handover = dict(self.rows), self.handover.left()
        findings = Findings()
        for part in (self.findings, child.findings, child.handover.repeats):
            findings.add(part)
        for row, end in child.handover.rendered():
            before = handover.take(row)
            if before is not None:
                rows[before] -= 1
                rows[end] += 1
            elif self.complete and 0 <= row < rows["planned"]:
                findings.note("duplicated", f"row {row}: a child run rendered it again")
            else:
                findings.note("unexpected", f"row {row} of a child run was not left to it")
        if strangers := child.handover.without_origin:
            findings.note("unexpected", f"{strangers} rows of a child run are of no row", strangers)
        samples, orphans = self.samples + child.samples, self.orphans + child.orphans
        return Verdict(findings, samples, rows, orphans, handover)

    @property
    def ok(self) -> bool:
        return self.complete and self.findings.whole

    def to_json(self) -> dict[str, Any]:
        """The JSON of the design, without what a replay adds."""
        findings = self.findings
        return {
            "ok": self.ok,
            "samples": self.samples,
            "rows": self.rows,
            "lost": findings.lost,
            "duplicated": findings.duplicated,
            "unexpected": findings.unexpected,
            "corrupt": findings.corrupt,
            "orphans": self.orphans,
            "problems": findings.problems,
        }


def verify_run(store: Store, record: RunRecord) -> Verdict:
    """Read everything back that the receipts vouch for and hold it against the plan.

    Every receipt is read from under its own key: a rollup is no proof.
    """
    findings, handover = Findings(), Handover()
    totals = _check_receipts(store, record, findings, handover)
    counts = totals.row_counts()
    rows = {
        "planned": record.plan.rows,
        **counts.model_dump(),
        "pending": record.plan.rows - counts.decided,
    }
    orphans = check_strays(store, record, findings)
    return Verdict(findings, totals.sample_counts().done, rows, orphans, handover)


def _check_receipts(
    store: Store, record: RunRecord, findings: Findings, handover: Handover
) -> Totals:
    """Check every shard, and that the manifest, where there is one, is what the receipts make."""
    # Asked first: a manifest that appears meanwhile knows more receipts than were read.
    there = exists(store, keys.MANIFEST)
    with tempfile.TemporaryDirectory(prefix="render-farm-") as scratch:
        path = Path(scratch) / "manifest.json"
        with ManifestWriter(path, record) as manifest:
            for receipt, (found, ends) in _checked(store, record, findings):
                manifest.add(receipt)
                findings.add(found)
                handover.add(ends)
            complete = manifest.close()
        if there and not (complete and _is_stored(store, keys.MANIFEST, path)):
            findings.note("corrupt", f"{keys.MANIFEST} is not the sum of the receipts")
    return manifest.totals


def _is_stored(store: Store, key: str, path: Path) -> bool:
    """Whether the object has the bytes of the local file."""
    with fetched(store, key) as copy, path.open("rb") as file:
        return copy.sha256 == hashlib.file_digest(file, "sha256").hexdigest()


def _checked(
    store: Store, record: RunRecord, findings: Findings
) -> Iterator[tuple[Receipt, tuple[Findings, ShardEnds]]]:
    """Every receipt with what its shard's objects showed, several shards at once."""

    def broken(error: StopError) -> None:
        findings.note("corrupt", error.reason)

    plan = record.make_plan()
    receipts = iter_receipts(store, plan.shards, broken)
    with ThreadPoolExecutor(READERS, thread_name_prefix="verify") as pool:
        while batch := list(islice(receipts, 4 * READERS)):
            checks = pool.map(lambda receipt: check_shard(store, record, plan, receipt), batch)
            yield from zip(batch, checks, strict=True)
