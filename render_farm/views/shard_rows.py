"""What the objects of one shard show: its samples by (row, sample), its rejected rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa

from render_farm.job.plan import Shard
from render_farm.job.request import sample_key
from render_farm.job.resolve import ROW_COLUMN
from render_farm.ledger.receipt import Receipt, RowCounts, SampleCounts
from render_farm.ledger.record import RunRecord
from render_farm.output.layout import StoredSample
from render_farm.views.findings import Findings
from render_farm.views.handover import Rendered, ShardEnds

_READ = ("row", "sample", "status", "sha256", "attempt", ROW_COLUMN)


class ShardRows:
    """Takes what is found of one shard, and notes what is wrong with it."""

    def __init__(
        self, shard: Shard, record: RunRecord, receipt: Receipt, findings: Findings
    ) -> None:
        self.findings = findings
        self._shard = shard
        self._samples = record.job.defaults.samples
        self._container = record.job.output.container
        self._receipt = receipt
        self._images: dict[tuple[int, int], str] = {}
        self._listed: dict[tuple[int, int], str] | None = None
        self._filtered: set[tuple[int, int]] = set()
        self._quarantined: set[int] = set()
        self._origins: dict[int, int | None] = {}

    def sample(self, sample: StoredSample) -> None:
        """A done sample with its image; an image without bytes is one that is not there."""
        line = sample.record
        name = (line["row"], line["sample"])
        if sample.key != sample_key(*name):
            self.findings.note("corrupt", f"{sample.key} carries the metadata of {name}")
        self._expect(name, line)
        if not sample.image:
            return
        sha256 = hashlib.sha256(sample.image).hexdigest()
        if sha256 != line["sha256"]:
            self.findings.note("corrupt", f"{sample.key}: its image is not the one recorded")
        if name in self._images:
            self.findings.note("duplicated", f"sample {sample.key}")
        self._images[name] = sha256
        self._origins[line["row"]] = _origin(line)

    def listed(self, table: pa.Table) -> None:
        """The metadata Parquet beside a tar: must list the same samples."""
        self._listed = {}
        for line in _lines(table):
            name = (line["row"], line["sample"])
            if name in self._listed:
                self.findings.note("duplicated", f"line of sample {name} in the metadata")
            self._listed[name] = line["sha256"]

    def rejected(self, table: pa.Table) -> None:
        """The filtered samples and the quarantined rows."""
        for line in _lines(table):
            if line["status"] == "filtered":
                name = (line["row"], line["sample"])
                if name in self._filtered:
                    self.findings.note("duplicated", f"filtered sample {name}")
                self._filtered.add(name)
                self._origins[line["row"]] = _origin(line)
                self._expect(name, line)
                continue
            if line["row"] in self._quarantined:
                self.findings.note("duplicated", f"quarantined row {line['row']}")
            self._quarantined.add(line["row"])
            self._expect((line["row"], 0), line)

    def conclude(self) -> ShardEnds:
        """Hold what was found against what must be there; returns how the rows ended."""
        receipt = self._receipt
        for name in self._filtered & self._images.keys():
            self.findings.note("duplicated", f"sample {name} is done and filtered")
        beside = {} if self._listed is None else self._listed
        if self._container == "webdataset" and beside != self._images:
            self.findings.note("corrupt", f"shard {receipt.shard}: tar and metadata differ")
        ends = {row: self._end_of(row) for row in self._shard.row_range()}
        found = (
            RowCounts.model_validate(Counter(ends.values())),
            SampleCounts(done=len(self._images), filtered=len(self._filtered)),
        )
        if self.findings.whole and found != (receipt.counts, receipt.samples):
            self.findings.note("corrupt", f"shard {receipt.shard}: the receipt counts otherwise")
        return ShardEnds(
            quarantined=tuple(row for row, end in ends.items() if end == "quarantined"),
            rendered=tuple(
                (self._origins[row], end)
                for row, end in ends.items()
                if row in self._origins and end != "quarantined"
            ),
        )

    def _end_of(self, row: int) -> Rendered | Literal["quarantined"]:
        wanted = [(row, sample) for sample in range(self._samples)]
        there = [name for name in wanted if name in self._images or name in self._filtered]
        if row in self._quarantined:
            if there:
                self.findings.note("duplicated", f"row {row} is quarantined and rendered")
            return "quarantined"
        missing = len(wanted) - len(there)
        if missing:
            self.findings.note("lost", f"{missing} samples of row {row}", missing)
        return "done" if any(name in self._images for name in wanted) else "filtered"

    def _expect(self, name: tuple[int, int], line: dict[str, Any]) -> None:
        """Only samples of this shard, made by the attempt whose receipt it is."""
        row, sample = name
        planned = row in self._shard.row_range() and 0 <= sample < self._samples
        if not planned or line["attempt"] != self._receipt.attempt:
            self.findings.note("unexpected", f"sample {name} in shard {self._shard.index}")


def _lines(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The columns that are checked; what the input carried may hold what Python has no form for."""
    wanted = [name for name in _READ if name in table.column_names]
    for batch in table.select(wanted).to_batches():
        yield from batch.to_pylist()


def _origin(line: dict[str, Any]) -> int | None:
    """The row of the parent run that this row of a child run was."""
    origin = line.get(ROW_COLUMN)
    return origin if isinstance(origin, int) and not isinstance(origin, bool) else None
