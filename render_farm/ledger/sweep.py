"""The sweep: deletes what attempts left behind that lost their shard, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from render_farm.ledger import keys
from render_farm.ledger.read_ahead import READERS, read_ahead
from render_farm.ledger.receipt import closed_shards, read_receipt
from render_farm.store.base import ObjectInfo, Store


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did."""

    objects: int
    size_bytes: int
    uploads: int


def iter_orphans(store: Store) -> Iterator[ObjectInfo]:
    """Objects of losing attempts of shards that have a receipt.

    A shard without a receipt is left alone whatever its objects' age: their attempt may be about
    to win.
    """
    for prefix in (keys.DATA, keys.REJECTED):
        for found, receipt in read_ahead(
            lambda found: (found, read_receipt(store, found[0])),
            _by_shard(store, prefix),
            ahead=READERS,
        ):
            if receipt is not None:
                yield from (info for attempt, info in found[1] if attempt != receipt.attempt)


def _by_shard(store: Store, prefix: str) -> Iterator[tuple[int, list[tuple[str, ObjectInfo]]]]:
    """Shard by shard what lies below a prefix, each with its attempt."""
    owned = ((keys.owner(info.key), info) for info in store.list(prefix))
    ours = ((*owner, info) for owner, info in owned if owner)
    for shard, group in groupby(ours, key=itemgetter(0)):
        yield shard, [(attempt, info) for _, attempt, info in group]


def sweep_run(store: Store, shards: int) -> Swept:
    """Delete the orphans, and abort the unfinished multipart uploads of closed shards.

    `shards` is how many the run has in all.
    """
    objects = size = 0
    for orphan in iter_orphans(store):
        store.delete(orphan.key)
        objects += 1
        size += orphan.size_bytes
    closed = frozenset(closed_shards(store, shards))

    def cannot_win(key: str) -> bool:
        owner = keys.owner(key)
        return owner is not None and owner[0] in closed

    uploads = sum(store.abort_uploads(prefix, cannot_win) for prefix in (keys.DATA, keys.REJECTED))
    return Swept(objects, size, uploads)
