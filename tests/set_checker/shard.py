"""One receipt's objects, read and held against the input."""

from __future__ import annotations

import hashlib

from tests.set_checker.blobs import Blobs
from tests.set_checker.claims import Name, ShardClaims
from tests.set_checker.contents import (
    Line,
    Unreadable,
    has_images,
    image_beside,
    parquet_lines,
    shown_size,
    tar_lines,
)
from tests.set_checker.planned import PlannedShard
from tests.set_checker.receipts import ReadReceipt
from tests.set_checker.verdict import Defects

Beside = dict[Name, tuple[str | None, str | None, str | None]]
"""Of the metadata beside a tar: sha256, id and prompt of each sample."""


class ShardCheck:
    """Reads what a receipt names; `images` are the keys of the single images that it found."""

    def __init__(
        self, blobs: Blobs, plan: PlannedShard, receipt: ReadReceipt, defects: Defects
    ) -> None:
        self.claims = ShardClaims(plan.index, receipt.cancelled)
        self.images: set[str] = set()
        self._blobs = blobs
        self._plan = plan
        self._receipt = receipt
        self._defects = defects
        self._rows = {row.row: row for row in plan.rows}
        self._in_tar: Beside | None = None
        self._beside: Beside | None = None

    def run(self) -> ShardClaims:
        """Note every defect; returns what the objects show."""
        receipt, rows = self._receipt, len(self._plan.rows)
        if (receipt.first_row, receipt.rows) != (self._plan.first_row, rows):
            self._corrupt(f"the receipt of shard {receipt.shard} is for other rows")
        if receipt.cancelled and receipt.objects:
            self._defects.unexpected.append(f"cancelled shard {receipt.shard} names objects")
        stem = f"{receipt.shard:06d}-{receipt.attempt}"
        ours = {f"data/{stem}.tar", f"data/{stem}.parquet", f"rejected/{stem}.parquet"}
        has_tar = any(item.key.endswith(".tar") for item in receipt.objects)
        for item in receipt.objects:
            if item.key not in ours:
                self._defects.unexpected.append(f"{item.key} named by shard {receipt.shard}")
            try:
                data = self._blobs.read(item.key)
            except FileNotFoundError:
                self._corrupt(f"{item.key} is not there")
                continue
            if (len(data), hashlib.sha256(data).hexdigest()) != (item.size_bytes, item.sha256):
                self._corrupt(f"{item.key} is not what its receipt vouches for")
            try:
                self._read(item.key, data, has_tar)
            except Unreadable as error:
                self._corrupt(f"{item.key}: {error}")
        self._conclude(rows)
        return self.claims

    def _read(self, key: str, data: bytes, has_tar: bool) -> None:
        if key.startswith("rejected/"):
            for line in parquet_lines(data):
                self._rejected(key, line)
        elif key.endswith(".tar"):
            self._in_tar = {}
            for found in tar_lines(data):
                if isinstance(found, Unreadable):
                    self._corrupt(f"{key}: {found}")
                else:
                    self._done(key, found, found.image)
                    self._in_tar[_name(found)] = _told(found)
        elif has_tar:
            lines = parquet_lines(data)
            self._beside = {_name(line): _told(line) for line in lines}
            if len(self._beside) != len(lines):
                self._defects.duplicated.append(f"{key} lists samples twice")
        elif has_images(data):
            for line in parquet_lines(data):
                self._done(key, line, line.image)
        else:
            for line in parquet_lines(data):
                where, image = image_beside(self._blobs, line)
                self.images.add(where)
                self._done(key, line, image)

    def _done(self, key: str, line: Line, image: bytes | None) -> None:
        """A sample counts where its picture is, whatever else is wrong with it."""
        row, sample = _name(line)
        told = f"{key}: row {row} sample {sample}"
        self._compare(told, line)
        if line.text("key") != f"{row:09d}_{sample:02d}" or line.text("status") != "done":
            self._corrupt(f"{told} is called {line.text('key')}, {line.text('status')}")
        if not image:
            return  # what is not there is lost
        self.claims.done[row, sample] += 1
        if (len(image), hashlib.sha256(image).hexdigest()) != (
            line.number("size_bytes"),
            line.text("sha256"),
        ):
            self._corrupt(f"{told}: the picture is not the one recorded")
            return
        try:
            size = shown_size(image, line.text("format"))
        except Unreadable as error:
            self._corrupt(f"{told}: {error}")
            return
        if size != (line.number("width"), line.number("height")):
            self._corrupt(f"{told}: the picture measures {size}")

    def _rejected(self, key: str, line: Line) -> None:
        row, status = line.number("row"), line.text("status")
        self._compare(f"{key}: {status} row {row}", line)
        if status == "filtered":
            self.claims.filtered[_name(line)] += 1
        elif status == "quarantined" and line.columns["sample"] is None:
            self.claims.quarantined[row] += 1
        else:
            self._corrupt(f"{key}: row {row} is {status}, sample {line.columns['sample']}")

    def _compare(self, told: str, line: Line) -> None:
        """Metadata against the input's row; what is not of this shard's rows shows elsewhere."""
        if (line.number("shard"), line.text("attempt")) != (
            self._receipt.shard,
            self._receipt.attempt,
        ):
            self._defects.unexpected.append(f"{told} is of another attempt")
        row = self._rows.get(line.number("row"))
        if row is None:
            return
        quarantined = line.text("status") == "quarantined"
        for field, wanted in (("id", row.id), ("prompt", row.prompt)):
            found = line.text(field)
            # A row may be quarantined just because its text cannot be recorded.
            if found != wanted and not (quarantined and found is None):
                self._corrupt(f"{told}: {field} {str(found)[:60]!r} is not the input's")

    def _conclude(self, rows: int) -> None:
        shard = self._plan.index
        if self._in_tar is not None and self._in_tar != self._beside:
            self._corrupt(f"shard {shard}: the metadata beside the tar tells otherwise")
        if self.claims.row_ends(rows) != self._receipt.row_ends:
            self._corrupt(f"shard {shard}: the receipt counts other rows")
        if self.claims.sample_ends() != self._receipt.samples:
            self._corrupt(f"shard {shard}: the receipt counts other samples")

    def _corrupt(self, message: str) -> None:
        self._defects.corrupt.append(message)


def _name(line: Line) -> Name:
    return line.number("row"), line.number("sample")


def _told(line: Line) -> tuple[str | None, str | None, str | None]:
    return line.text("sha256"), line.text("id"), line.text("prompt")
