"""Objects that do not belong to the result: orphans of lost attempts, and strangers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from render_farm.errors import NotFound, StopError
from render_farm.ledger import keys
from render_farm.ledger.read_ahead import READERS, read_ahead
from render_farm.ledger.receipt import Receipt, read_receipt
from render_farm.ledger.record import RunRecord
from render_farm.output.corrupt import CorruptFile
from render_farm.output.layout import image_key
from render_farm.store.base import Store
from render_farm.views.findings import Findings
from render_farm.views.results import shard_metadata

MOST_OBJECTS = 1000
"""So many objects of a shard are held at once: a page of a LIST."""


def check_strays(store: Store, record: RunRecord, findings: Findings) -> int:
    """Count the orphans; note what nobody who reads ``data/*`` as a dataset expects to find there.

    Objects of open shards are left out: their attempt may be about to win. Memory holds what the
    receipts of a few dozen shards answer for, whatever lies there.
    """
    shards = record.plan.shards
    for info in store.list(keys.RECEIPTS):
        shard = keys.shard_of(info.key)
        if shard is None or shard >= shards:
            findings.note("unexpected", f"{info.key} is the receipt of no planned shard")
    prefixes = (keys.DATA, keys.REJECTED)
    return sum(_check_prefix(store, record, prefix, findings) for prefix in prefixes)


def _check_prefix(store: Store, record: RunRecord, prefix: str, findings: Findings) -> int:
    """The orphans below a prefix, whose objects are listed shard by shard."""
    orphans = 0
    for found, answered in read_ahead(
        lambda found: (found, _Answered(store, record, found.shard)),
        _by_shard(store, record, prefix, findings),
        ahead=READERS,
    ):
        if answered.attempt is None:
            continue
        for attempt, key in found.objects:
            if attempt != answered.attempt:
                orphans += 1
            elif not answered.names(key):
                findings.note("unexpected", f"{key} is named by no receipt")
    return orphans


@dataclass(frozen=True, slots=True)
class _Found:
    """Attempt and key of objects of one shard: of most shards all, of a large one some."""

    shard: int
    objects: list[tuple[str, str]]


def _by_shard(store: Store, record: RunRecord, prefix: str, findings: Findings) -> Iterator[_Found]:
    """The objects below a prefix, shard by shard; those of no planned shard are noted."""
    found: _Found | None = None
    for info in store.list(prefix):
        owner = keys.owner(info.key)
        if owner is None or owner[0] >= record.plan.shards:
            findings.note("unexpected", f"{info.key} is of no planned shard")
            continue
        shard, attempt = owner
        if found is not None and (found.shard != shard or len(found.objects) >= MOST_OBJECTS):
            yield found
            found = None
        found = found or _Found(shard, [])
        found.objects.append((attempt, info.key))
    if found is not None:
        yield found


class _Answered:
    """What the receipt of a shard answers for; `attempt` is None if there is none to be read."""

    def __init__(self, store: Store, record: RunRecord, shard: int) -> None:
        self.shard = shard
        self.attempt: str | None = None
        self._named: set[str] = set()
        self._pictures = ""
        receipt = _receipt(store, shard)
        if receipt is None:
            return
        self.attempt = receipt.attempt
        self._named = {item.key for item in receipt.objects}
        if record.job.output.container == "files" and self._named:
            pictures = _pictures(store, record, receipt)
            self._named |= pictures
            # Metadata that cannot be read is reported elsewhere; it makes no picture a stranger.
            if not pictures and receipt.samples.done:
                self._pictures = f"{keys.DATA}{shard:06d}-{receipt.attempt}/"

    def names(self, key: str) -> bool:
        """Whether an object is one that the receipt answers for."""
        return key in self._named or (self._pictures != "" and key.startswith(self._pictures))


def _receipt(store: Store, shard: int) -> Receipt | None:
    try:
        return read_receipt(store, shard)
    except StopError:
        return None  # reported as corrupt where the receipts are read


def _pictures(store: Store, record: RunRecord, receipt: Receipt) -> set[str]:
    """The objects of container files that the metadata names; none if it cannot be read."""
    try:
        table = shard_metadata(store, receipt)
        names = [] if table is None else table["key"].to_pylist()
    except (NotFound, CorruptFile, ValueError):
        return set()
    image_format = record.job.output.image
    return {image_key(receipt.shard, receipt.attempt, str(name), image_format) for name in names}
