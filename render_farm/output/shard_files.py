"""One attempt's samples, collected in any order and written as the files of a shard."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path

import pyarrow as pa

from render_farm.job.request import sample_key
from render_farm.output.layout import OutputFile, ShardLayout
from render_farm.output.lines import Line
from render_farm.output.metadata import SampleRecord, without_long_texts
from render_farm.output.shard_folder import ShardFolder


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a shard: rows and samples by state, quarantined rows by error type.

    A row is filtered when all its samples are.
    """

    rows_done: int
    rows_filtered: int
    rows_quarantined: int
    samples_done: int
    samples_filtered: int
    errors_by_type: dict[str, int] = field(default_factory=dict)


class ShardWriter:
    """Takes the samples of one attempt in any order and writes the shard's files at the end.

    `add` and `reject` may be called by several threads at once. Encoded images wait in a `Spool`,
    so that memory holds 16 MiB of them at most. What is written is sorted by (row, sample): the
    same records give the same bytes whatever the order of adding. One sample that cannot be
    rendered quarantines its row: samples of it, added before or after, are dropped.
    """

    def __init__(self, folder: Path, layout: ShardLayout) -> None:
        self._layout = layout
        self._files = ShardFolder(folder, layout)
        self._samples: dict[tuple[int, int], Line] = {}
        self._quarantined: dict[int, SampleRecord] = {}
        self._lock = threading.Lock()

    def add(self, record: SampleRecord, encoded: bytes) -> None:
        """Take a done sample with its encoded image.

        Raises:
            ValueError: a status other than done, a row or sample that is not the shard's, or one
                that was taken already.
        """
        self._expect(record, "done")
        self._files.keep_image(self._take(record, encoded), encoded)

    def reject(self, record: SampleRecord, encoded: bytes | None = None) -> None:
        """Take a filtered sample, or a row to be quarantined.

        Size and sha256 of a filtered sample are recorded when its `encoded` image is given; the
        image itself is not kept. For a quarantined row `sample` may say which sample is at fault:
        of several, the row is recorded with the error of the first; it is written as null.

        Raises: ValueError, as `add`.
        """
        if record.status == "filtered":
            self._take(record, encoded)
            return
        self._expect(record, "quarantined")
        with self._lock:
            known = self._quarantined.get(record.row)
            if known is None or _fault_order(record) < _fault_order(known):
                self._quarantined[record.row] = without_long_texts(record)

    def tally(self) -> Tally:
        """What was taken so far, by state."""
        records = [line.record for line in self._kept()]
        done = [record.row for record in records if record.status == "done"]
        rows_done = set(done)
        with self._lock:
            errors = Counter(
                record.error_type or "unknown" for record in self._quarantined.values()
            )
        return Tally(
            rows_done=len(rows_done),
            rows_filtered=len({record.row for record in records} - rows_done),
            rows_quarantined=errors.total(),
            samples_done=len(done),
            samples_filtered=len(records) - len(done),
            errors_by_type=dict(sorted(errors.items())),
        )

    def close(self, carried: pa.Table) -> list[OutputFile]:
        """Write the shard's files and return them in the order in which to store them.

        `carried` holds the carried columns of the shard's rows, one line a row, in order. Without
        a done sample there are no data files, without a rejected one there is no rejected file.

        Raises:
            ValueError: a row or sample of the shard is unaccounted for, or `carried` has another
                number of rows.
        """
        self._check_complete(carried)
        samples = self._kept()
        done = [line for line in samples if line.record.status == "done"]
        rejected = [line for line in samples if line.record.status == "filtered"]
        rejected += [Line(replace(record, sample=None)) for record in self._quarantined.values()]
        rejected.sort(key=attrgetter("place"))
        files = self._files.write_data(done, carried) if done else []
        if rejected:
            files.append(self._files.write_rejected(rejected, carried))
        self._files.close()
        return files

    def _expect(self, record: SampleRecord, status: str) -> None:
        layout = self._layout
        if record.status != status:
            raise ValueError(f"row {record.row}: status {record.status!r} (allowed: {status!r})")
        if not layout.first_row <= record.row < layout.first_row + layout.rows:
            raise ValueError(f"row {record.row} is not in {layout}")

    def _take(self, record: SampleRecord, encoded: bytes | None) -> str:
        self._expect(record, record.status)
        layout = self._layout
        if record.sample is None or not 0 <= record.sample < layout.samples:
            raise ValueError(f"row {record.row} has no sample {record.sample} in {layout}")
        key = sample_key(record.row, record.sample)
        line = Line(record, key)
        if encoded is not None:
            line = Line(record, key, len(encoded), hashlib.sha256(encoded).hexdigest())
        with self._lock:
            if self._samples.setdefault((record.row, record.sample), line) is not line:
                raise ValueError(f"sample {key} was taken already")
        return key

    def _kept(self) -> list[Line]:
        """The samples of rows that are not quarantined, in order."""
        with self._lock:
            kept = [
                line for (row, _), line in self._samples.items() if row not in self._quarantined
            ]
        return sorted(kept, key=attrgetter("place"))

    def _check_complete(self, carried: pa.Table) -> None:
        layout = self._layout
        if carried.num_columns and carried.num_rows != layout.rows:
            raise ValueError(f"carried has {carried.num_rows} rows, not those of {layout}")
        per_row = Counter(row for row, _ in self._samples)
        for row in range(layout.first_row, layout.first_row + layout.rows):
            if row not in self._quarantined and per_row[row] != layout.samples:
                raise ValueError(f"row {row} has {per_row[row]} samples, not those of {layout}")


def _fault_order(record: SampleRecord) -> tuple[int, str, str]:
    sample = -1 if record.sample is None else record.sample
    return sample, record.error_type or "", record.error or ""
