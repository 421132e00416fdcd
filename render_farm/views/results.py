"""Reading committed shards back, by way of their receipts and never by a listing."""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

import pyarrow as pa

from render_farm.job.plan import Shard
from render_farm.ledger import keys
from render_farm.ledger.receipt import DataObject, Receipt, closed_shards, read_receipt
from render_farm.ledger.record import RunRecord
from render_farm.output.containers import iter_samples
from render_farm.output.layout import StoredSample
from render_farm.output.parquet import read_metadata
from render_farm.store.base import Store
from render_farm.store.copy import copy_digested


@dataclass(frozen=True, slots=True)
class Fetched:
    """A local copy of an object, with what was read."""

    file: BinaryIO
    size_bytes: int
    sha256: str

    def matches(self, item: DataObject) -> bool:
        """Whether these are the bytes that the receipt vouches for."""
        return (self.size_bytes, self.sha256) == (item.size_bytes, item.sha256)


@contextmanager
def fetched(store: Store, key: str) -> Iterator[Fetched]:
    """A copy of an object on local disk, digested on the way. Raises: `NotFound`."""
    with tempfile.TemporaryFile(prefix="render-farm-") as copy:
        size, sha256 = copy_digested(store, key, copy)
        copy.seek(0)
        yield Fetched(copy, size, sha256)


def object_of(receipt: Receipt, suffix: str) -> DataObject | None:
    """The data object of a receipt with this ending."""
    wanted = (
        item
        for item in receipt.objects
        if item.key.startswith(keys.DATA) and item.key.endswith(suffix)
    )
    return next(wanted, None)


def samples_object(record: RunRecord, receipt: Receipt) -> DataObject | None:
    """The object to read a shard's samples from: the tar, or the Parquet file."""
    webdataset = record.job.output.container == "webdataset"
    return object_of(receipt, ".tar" if webdataset else ".parquet")


def shard_metadata(store: Store, receipt: Receipt) -> pa.Table | None:
    """The metadata of a shard's done samples, None if it has none. Raises: `CorruptFile`."""
    item = object_of(receipt, ".parquet")
    if item is None:
        return None
    with fetched(store, item.key) as copy:
        return read_metadata(copy.file, item.key)


def shard_samples(store: Store, record: RunRecord, receipt: Receipt) -> Iterator[StoredSample]:
    """A shard's done samples with their images, in order. Raises: `CorruptFile`, `NotFound`."""
    item = samples_object(record, receipt)
    if item is not None:
        with fetched(store, item.key) as copy:
            yield from iter_samples(record.job.output.container, copy.file, store.get, item.key)


def pick_samples(store: Store, record: RunRecord, count: int) -> Iterator[StoredSample]:
    """Up to `count` done samples, evenly spread over the rows of the committed shards.

    Of each row the first sample; a row that has none is left out.
    """
    plan = record.make_plan()
    chosen: dict[int, set[int]] = {}
    for row in _spread([plan.shard(index) for index in closed_shards(store, plan.shards)], count):
        chosen.setdefault(plan.shard_of_row(row).index, set()).add(row)
    for shard, rows in chosen.items():
        receipt = read_receipt(store, shard)
        if receipt is not None:
            for sample in shard_samples(store, record, receipt):
                if sample.record["row"] in rows and sample.record["sample"] == 0:
                    yield sample


def _spread(shards: Sequence[Shard], count: int) -> list[int]:
    """`count` rows of these shards at equal distances, fewer if there are fewer."""
    before = [0, *accumulate(shard.rows for shard in shards)]
    count = min(count, before[-1])
    rows = []
    for index in range(count):
        place = index * before[-1] // count
        number = bisect_right(before, place) - 1
        rows.append(shards[number].first_row + place - before[number])
    return rows
