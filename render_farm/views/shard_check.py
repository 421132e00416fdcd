"""Everything that can be wrong with one committed shard, found by reading all of it back."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from render_farm.errors import NotFound
from render_farm.job.plan import Plan, Shard
from render_farm.job.request import sample_key
from render_farm.ledger import keys
from render_farm.ledger.receipt import (
    DataObject,
    Receipt,
    RowCounts,
    SampleCounts,
)
from render_farm.ledger.record import RunRecord
from render_farm.output.containers import iter_samples
from render_farm.output.corrupt import CorruptFile
from render_farm.output.layout import StoredSample
from render_farm.output.parquet import read_metadata
from render_farm.store.base import Store
from render_farm.views.results import fetched, samples_object

SHOWN_PROBLEMS = 100


@dataclass(slots=True)
class Findings:
    """What reading back found, counted; the first problems are kept in words."""

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
            self.problems.append(f"{kind}: {message}")

    def add(self, other: Findings) -> None:
        for kind in ("lost", "duplicated", "unexpected", "corrupt"):
            setattr(self, kind, getattr(self, kind) + getattr(other, kind))
        self.problems += other.problems[: SHOWN_PROBLEMS - len(self.problems)]


def check_shard(store: Store, record: RunRecord, plan: Plan, receipt: Receipt) -> Findings:
    """Everything that is wrong with one shard."""
    findings = Findings()
    if receipt.shard >= plan.shards:
        findings.note("unexpected", f"receipt of shard {receipt.shard}, which is not planned")
        return findings
    shard = plan.shard(receipt.shard)
    if (receipt.first_row, receipt.rows) != (shard.first_row, shard.rows):
        findings.note("corrupt", f"shard {shard.index}: the receipt is for other rows")
    if receipt.kind == "cancelled":
        return findings
    seen = _Seen(shard, record, receipt, findings)
    for item in receipt.objects:
        if keys.owner(item.key) != (receipt.shard, receipt.attempt):
            findings.note("unexpected", f"{item.key} in the receipt of shard {receipt.shard}")
        try:
            _check_object(store, record, receipt, item, seen)
        except NotFound:
            findings.note("corrupt", f"{item.key} is not there")
        except CorruptFile as error:
            findings.note("corrupt", str(error))
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # Altered bytes that still parse: values of any kind, or none, where ours should be.
            findings.note("corrupt", f"{item.key} holds no metadata of a result ({error!r})")
    seen.conclude()
    return findings


def _check_object(
    store: Store, record: RunRecord, receipt: Receipt, item: DataObject, seen: _Seen
) -> None:
    with fetched(store, item.key) as copy:
        if not copy.matches(item):
            message = f"{item.key}: {copy.size_bytes} bytes, sha256 {copy.sha256}"
            seen.findings.note("corrupt", f"{message}, not what its receipt vouches for")
        if item.key.startswith(keys.REJECTED):
            seen.rejected(read_metadata(copy.file, item.key).to_pylist())
        elif item == samples_object(record, receipt):
            container = record.job.output.container
            for sample in iter_samples(container, copy.file, _fetch_of(store), item.key):
                seen.sample(sample)
        else:
            seen.listed(read_metadata(copy.file, item.key).to_pylist())


def _fetch_of(store: Store) -> Callable[[str], bytes]:
    """For container files: one image that is gone must not hide those after it."""

    def fetch(key: str) -> bytes:
        try:
            return store.get(key)
        except NotFound:
            return b""

    return fetch


class _Seen:
    """What was found of one shard: samples by (row, sample), rows that were quarantined."""

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

    def listed(self, lines: list[dict[str, Any]]) -> None:
        """The metadata Parquet beside a tar: must list the same samples."""
        self._listed = {}
        for line in lines:
            name = (line["row"], line["sample"])
            if name in self._listed:
                self.findings.note("duplicated", f"line of sample {name} in the metadata")
            self._listed[name] = line["sha256"]

    def rejected(self, lines: list[dict[str, Any]]) -> None:
        """The filtered samples and the quarantined rows."""
        for line in lines:
            if line["status"] == "filtered":
                name = (line["row"], line["sample"])
                if name in self._filtered:
                    self.findings.note("duplicated", f"filtered sample {name}")
                self._filtered.add(name)
                self._expect(name, line)
                continue
            if line["row"] in self._quarantined:
                self.findings.note("duplicated", f"quarantined row {line['row']}")
            self._quarantined.add(line["row"])
            self._expect((line["row"], 0), line)

    def conclude(self) -> None:
        """Hold what was found against what must be there."""
        receipt = self._receipt
        for name in self._filtered & self._images.keys():
            self.findings.note("duplicated", f"sample {name} is done and filtered")
        beside = {} if self._listed is None else self._listed
        if self._container == "webdataset" and beside != self._images:
            self.findings.note("corrupt", f"shard {receipt.shard}: tar and metadata differ")
        ends = Counter(self._end_of(row) for row in self._shard.row_range())
        found = (
            RowCounts(**ends),
            SampleCounts(done=len(self._images), filtered=len(self._filtered)),
        )
        if self.findings.whole and found != (receipt.counts, receipt.samples):
            self.findings.note("corrupt", f"shard {receipt.shard}: the receipt counts otherwise")

    def _end_of(self, row: int) -> str:
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
