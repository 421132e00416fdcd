"""The manifest: what the receipts add up to. A pure function of them, so anyone may write it."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from render_farm.ledger import keys
from render_farm.ledger.receipt import Receipt, RowCounts, SampleCounts
from render_farm.ledger.record import RunRecord
from render_farm.ledger.rollup import Rollups, recall_receipts
from render_farm.store.base import Store


@dataclass(slots=True)
class Totals:
    """Sums over receipts."""

    shards: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)
    errors_by_type: Counter[str] = field(default_factory=Counter)

    def add(self, receipt: Receipt) -> None:
        self.shards += 1
        self.rows.update(receipt.counts.model_dump())
        self.samples.update(receipt.samples.model_dump())
        self.errors_by_type.update(receipt.errors_by_type)

    def row_counts(self) -> RowCounts:
        return RowCounts(**self.rows)

    def sample_counts(self) -> SampleCounts:
        return SampleCounts(**self.samples)


def sum_receipts(receipts: Iterable[Receipt]) -> Totals:
    """Add receipts up."""
    totals = Totals()
    for receipt in receipts:
        totals.add(receipt)
    return totals


class ManifestWriter:
    """Writes a manifest to a local file while receipts pass by, in the order of shards.

    Memory does not grow with the run. The same receipts give the same bytes.
    """

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.totals = Totals()
        self._record = record
        self._closed = 0
        self._separator = "\n  "
        self._file = path.open("w", encoding="utf-8")
        self._file.write('{"version": 1,\n "objects": [')

    def __enter__(self) -> ManifestWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, receipt: Receipt) -> None:
        self.totals.add(receipt)
        self._closed += receipt.shard < self._record.plan.shards
        for item in receipt.objects:
            self._file.write(self._separator + json.dumps(item.model_dump()))
            self._separator = ",\n  "

    def close(self) -> bool:
        """Write the sums; returns whether every shard of the plan has its receipt."""
        summary = json.dumps(_summary(self._record, self.totals), indent=1)
        self._file.write("],\n" + summary.removeprefix("{\n"))
        self._file.close()
        return self._closed == self._record.plan.shards


def write_manifest(store: Store, record: RunRecord) -> bool:
    """Write `manifest.json` if every shard has its receipt; returns whether that was so.

    Receipts that it found in no rollup are in one afterwards, so that nobody reads them again.
    """
    rollups = Rollups(store, record)
    with tempfile.TemporaryDirectory(prefix="render-farm-") as scratch:
        path = Path(scratch) / "manifest.json"
        with ManifestWriter(path, record) as manifest:
            for receipt in recall_receipts(store, record, rollups=rollups):
                manifest.add(receipt)
            rollups.flush()
            if not manifest.close():
                return False
        store.upload(keys.MANIFEST, path)
    return True


def _summary(record: RunRecord, totals: Totals) -> dict[str, object]:
    return {
        "run": record.job.output.uri,
        "token": record.token,
        "shards": totals.shards,
        "rows": {"planned": record.plan.rows, **totals.row_counts().model_dump()},
        "samples": {"planned": record.plan.samples, **totals.sample_counts().model_dump()},
        "errors_by_type": dict(sorted(totals.errors_by_type.items())),
    }
