"""A receipt says how a shard ended. The first one written under its key is the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from render_farm.errors import NotFound, StopError
from render_farm.job.plan import MAX_SHARDS
from render_farm.ledger import keys
from render_farm.ledger.read_ahead import read_ahead
from render_farm.store.base import ObjectInfo, Store


class LedgerModel(BaseModel):
    """What the ledger reads back from a store. Frozen; an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RowCounts(LedgerModel):
    """How the rows of a shard or a run ended."""

    done: int = Field(default=0, ge=0)
    filtered: int = Field(default=0, ge=0)
    quarantined: int = Field(default=0, ge=0)
    cancelled: int = Field(default=0, ge=0)

    @property
    def decided(self) -> int:
        return self.done + self.filtered + self.quarantined + self.cancelled


class SampleCounts(LedgerModel):
    """How the samples of the rows that were rendered ended."""

    done: int = Field(default=0, ge=0)
    filtered: int = Field(default=0, ge=0)


class DataObject(LedgerModel):
    """An object that a receipt vouches for."""

    key: str
    size_bytes: int = Field(ge=0)
    sha256: str


class Receipt(LedgerModel):
    """The end of a shard: which attempt made it, what became of its rows, what it wrote."""

    version: Literal[1] = 1
    kind: Literal["rendered", "cancelled"]
    shard: int = Field(ge=0)
    attempt: str
    first_row: int = Field(ge=0)
    rows: int = Field(ge=1)
    counts: RowCounts
    samples: SampleCounts = SampleCounts()
    objects: tuple[DataObject, ...] = ()
    errors_by_type: dict[str, int] = {}
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _every_row_is_counted(self) -> Receipt:
        if self.counts.decided != self.rows:
            raise ValueError(f"{self.rows} rows, but {self.counts.decided} of them are counted")
        if self.counts.cancelled != (self.rows if self.kind == "cancelled" else 0):
            raise ValueError(f"{self.kind}, but {self.counts.cancelled} rows count as cancelled")
        return self

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


def read_receipt(store: Store, shard: int) -> Receipt | None:
    """The receipt of a shard, or None if it is open.

    Raises:
        StopError: what lies there is no receipt.
    """
    key = keys.receipt(shard)
    try:
        data = store.get(key)
    except NotFound:
        return None
    try:
        receipt = Receipt.model_validate_json(data)
    except ValidationError as error:
        raise StopError(
            f"{store.uri}/{key} is no receipt ({error.errors()[0]['msg']})",
            "Receipts are never changed or deleted: restore it from a backup of the store.",
        ) from error
    if receipt.shard != shard:
        raise StopError(
            f"{store.uri}/{key} is the receipt of shard {receipt.shard}",
            "Receipts are never moved: restore it from a backup of the store.",
        )
    return receipt


def listed_receipts(store: Store, shards: int) -> Iterator[tuple[int, ObjectInfo]]:
    """The shards of a plan of `shards` that have a receipt, in order, and what the store tells
    of it; strange keys are skipped."""
    for info in store.list(keys.RECEIPTS):
        shard = keys.shard_of(info.key)
        if shard is not None and shard < shards:
            yield shard, info


def closed_shards(store: Store, shards: int) -> Iterator[int]:
    """The shards of a plan of `shards` that have a receipt, in order."""
    return (shard for shard, _ in listed_receipts(store, shards))


def iter_receipts(
    store: Store,
    shards: int = MAX_SHARDS,
    on_broken: Callable[[StopError], None] | None = None,
) -> Iterator[Receipt]:
    """All receipts of a plan of `shards`, in order, each read from under its own key.

    The authority on what is committed; `recall_receipts` knows the same from fewer requests.
    Memory stays bounded. What is no receipt raises `StopError`, or is given to `on_broken`.
    """
    return read_receipts(store, closed_shards(store, shards), on_broken)


def read_receipts(
    store: Store, wanted: Iterable[int], on_broken: Callable[[StopError], None] | None = None
) -> Iterator[Receipt]:
    """The receipts of the wanted shards in their order, without those that are open.

    Memory stays bounded. What is no receipt raises `StopError`, or is given to `on_broken`.
    """

    def read(shard: int) -> Receipt | StopError | None:
        try:
            return read_receipt(store, shard)
        except StopError as error:
            return error

    for found in read_ahead(read, wanted):
        if isinstance(found, Receipt):
            yield found
        elif found is not None and on_broken is not None:
            on_broken(found)
        elif found is not None:
            raise found
