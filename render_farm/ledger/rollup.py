"""Rollups: the receipts of a thousand shards in one object, so that a run is known by few requests.

Advisory. A receipt never changes, so a copy of it is never out of date; but only the LIST of
receipts says which shards are closed, and a rollup that is lost, damaged or of another run costs
the reading of its receipts and nothing else. Whoever writes one last is right: all have copies of
the same.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Literal

from pydantic import ValidationError

from render_farm.errors import NotFound, StopError, StoreError
from render_farm.ledger import keys
from render_farm.ledger.receipt import LedgerModel, Receipt, listed_receipts, read_receipts
from render_farm.ledger.record import RunRecord
from render_farm.store.base import ObjectInfo, Store

log = logging.getLogger(__name__)

SHARDS = 1000
"""Shards a rollup: as many as a page of a LIST has keys."""

WORTH = 64
"""So few receipts are read in two rounds of requests: no rollup is read or written for them."""

MOST_OPEN = 3
"""Thousands of which a driver holds receipts before it writes the first of them as it is."""

Texts = dict[int, str]
"""Shard: its receipt, as it lies under its key."""


class _Rollup(LedgerModel):
    """`sha256` is of the token and the texts: no half of one and none of another run passes."""

    version: Literal[1] = 1
    token: str
    sha256: str
    receipts: Texts


def recall_receipts(
    store: Store,
    record: RunRecord,
    *,
    on_broken: Callable[[StopError], None] | None = None,
    on_listed: Callable[[int, ObjectInfo], None] | None = None,
    rollups: Rollups | None = None,
) -> Iterator[Receipt]:
    """All receipts of a run, in order: from its rollups, and those that none has by themselves.

    One LIST, and one request a thousand shards. Memory holds the text of one rollup at a time.
    Every listed shard is told to `on_listed`, what had to be read by itself to `rollups`. What is
    no receipt raises `StopError`, or is given to `on_broken`.
    """

    def read(shards: Iterable[int]) -> Iterator[Receipt]:
        found = read_receipts(store, shards, on_broken)
        return found if rollups is None else rollups.passing(found)

    listed = listed_receipts(store, record.plan.shards)
    for number, thousand in groupby(listed, key=lambda pair: pair[0] // SHARDS):
        infos = dict(thousand)
        if on_listed is not None:
            for shard, info in infos.items():
                on_listed(shard, info)
        known = _listed(_read(store, record, number), infos) if len(infos) >= WORTH else {}
        if rollups is not None:
            rollups.found(number, len(known))
        missing = read(shard for shard in infos if shard not in known)
        yield from heapq.merge(_parsed(known, read), missing, key=lambda receipt: receipt.shard)


class Rollups:
    """Writes the rollups of a run while its shards close, nearly in order.

    Costs a PUT a thousand shards, and a GET and a PUT more where one was written before it was
    full. Holds the receipts of at most `MOST_OPEN` unfinished thousands, as text: about a
    kilobyte a shard. What the store refuses is logged and forgotten.
    """

    def __init__(self, store: Store, record: RunRecord) -> None:
        self._store = store
        self._record = record
        self._rolled: Counter[int] = Counter()
        self._held: dict[int, Texts] = {}

    def found(self, number: int, receipts: int) -> None:
        """Take note that so many receipts of a thousand are in its rollup."""
        self._rolled[number] = receipts

    def passing(self, receipts: Iterator[Receipt]) -> Iterator[Receipt]:
        """The same receipts, each added as it passes by."""
        for receipt in receipts:
            self.add(receipt)
            yield receipt

    def add(self, receipt: Receipt) -> None:
        """Take the receipt of a shard that no rollup has; write the rollup that it fills."""
        number = receipt.shard // SHARDS
        self._held.setdefault(number, {})[receipt.shard] = receipt.to_bytes().decode()
        if self._is_full(number):
            self._write(number)
        elif len(self._held) > MOST_OPEN:
            self._let_go(next(iter(self._held)))

    def flush(self) -> None:
        """Write what is held, where it is worth it."""
        for number in tuple(self._held):
            self._let_go(number)

    def _is_full(self, number: int) -> bool:
        shards = min(SHARDS, self._record.plan.shards - number * SHARDS)
        return len(self._held[number]) + self._rolled[number] >= shards

    def _let_go(self, number: int) -> None:
        if len(self._held[number]) >= WORTH:
            self._write(number)
        else:
            del self._held[number]

    def _write(self, number: int) -> None:
        texts = self._held.pop(number)
        if self._rolled[number]:
            texts = _read(self._store, self._record, number) | texts
        if len(texts) < WORTH:
            return
        texts = dict(sorted(texts.items()))  # whoever writes it writes the same
        token = self._record.token
        rollup = _Rollup(token=token, sha256=_digest(token, texts), receipts=texts)
        try:
            self._store.put(keys.rollup(number), rollup.model_dump_json().encode())
        except StoreError as error:
            log.warning("no rollup", extra={"thousand": number, "error": str(error)})
        else:
            self._rolled[number] = len(texts)


def _read(store: Store, record: RunRecord, number: int) -> Texts:
    """What a rollup holds; nothing if it is not as a driver of this run wrote it."""
    try:
        rollup = _Rollup.model_validate_json(store.get(keys.rollup(number)))
    except NotFound:
        return {}
    except (StoreError, ValidationError) as error:
        log.warning("a rollup is ignored", extra={"thousand": number, "error": str(error)})
        return {}
    if rollup.token != record.token or rollup.sha256 != _digest(rollup.token, rollup.receipts):
        log.warning("a rollup is ignored", extra={"thousand": number, "error": "not of this run"})
        return {}
    return dict(rollup.receipts)


def _listed(texts: Texts, infos: dict[int, ObjectInfo]) -> Texts:
    """The texts of listed shards, in order, that are as long as what lies in the store."""
    return {
        shard: texts[shard]
        for shard, info in infos.items()
        if shard in texts and len(texts[shard].encode()) == info.size_bytes
    }


def _parsed(texts: Texts, read: Callable[[Iterable[int]], Iterator[Receipt]]) -> Iterator[Receipt]:
    """The receipts that were told, one by one; what is none of its shard is read by itself."""
    for shard, text in texts.items():
        try:
            receipt = Receipt.model_validate_json(text)
        except ValidationError:
            receipt = None
        if receipt is not None and receipt.shard == shard:
            yield receipt
        else:
            yield from read((shard,))


def _digest(token: str, texts: Texts) -> str:
    return hashlib.sha256("\0".join((token, *texts.values())).encode()).hexdigest()
