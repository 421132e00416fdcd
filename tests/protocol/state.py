"""How big a model is, what is wrong with it, and where in a state's bytes everything lies.

A state is one byte a field. Objects of attempts and requests that the network still holds are
part of it, as is what each process knows; what a process does next is its `pc`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Bug(StrEnum):
    """What can be done wrong, one at a time. The values say it as a mistake of the code."""

    PLAIN_PUT = "the receipt is written by a plain put"
    LOOK_THEN_PUT = "the receipt is looked for once more and then put"
    PUT_AGAIN = "a create of unknown outcome is made good by a plain put"
    RECEIPT_PER_ATTEMPT = "every attempt has a receipt key of its own"
    UNKNOWN_IS_DONE = "a create without an answer passes for done"
    EXISTS_IS_LOST = "a receipt that exists passes for another's without being read"
    UNREADABLE_IS_LOST = "a receipt that cannot be read passes for another's"
    CLEANS_UP_AFTER_UNKNOWN = "an attempt that gave up on its outcome deletes its objects"
    RECEIPT_FIRST = "the receipt is created before the objects are there"
    UPLOAD_ERRORS_PASS = "an attempt commits though an upload has failed"
    SHARED_KEYS = "all attempts at a shard write the same keys"
    RENDERS_AGAIN = "an attempt renders again and writes its keys a second time"
    LOSER_DELETES_RECEIPT = "a loser deletes the receipt with its objects"
    SWEEP_BY_AGE = "the sweep takes objects that are old"
    SWEEP_READS_FIRST = "the sweep reads the receipts first and lists afterwards"
    SWEEP_TAKES_UNREADABLE = "the sweep takes all of a shard whose receipt it cannot read"
    CANCEL_PUTS = "a cancel writes its receipts by plain puts"
    CANCEL_BY_MARK = "a cancel is done with cancel.json"
    LEASE_ALONE = "the receipt is put by whoever's driver holds the lease"
    TAKEOVER_CLEANS = "a new driver deletes the objects of open shards"
    MANIFEST_BY_HEARSAY = "the manifest names the attempts that the driver assigned"
    LOCK = "an attempt at a shard holds a lock object until it ends"
    LEASE_FOR_EVER = "a driver begins only when the last one gave its lease back"


@dataclass(frozen=True, slots=True)
class Config:
    """How many of everything there are.

    `shards` has, for every attempt that can be made, the shard it is at. Of the requests that
    were given up by their senders, `late` may be under way at a time, to be applied whenever the
    network likes. Without drivers, somebody unseen assigns. An epoch whose answer was lost is
    nobody's; there are `epochs` in all. With `steadfast` the last attempt,
    canceller and driver never die nor lose patience: what can be ended, they can end.
    """

    shards: tuple[int, ...] = (0, 0)
    objects: int = 1
    sweeps: int = 1
    cancellers: int = 1
    drivers: int = 0
    epochs: int = 3
    late: int = 1
    steadfast: bool = False
    bug: Bug | None = None


class A(IntEnum):
    """What an attempt does next; UPLOAD and WITHDRAW are counted on by the object."""

    IDLE = 0
    ASK = 1
    UPLOAD = 2  # and 3
    CREATE = 4
    READ = 5
    WITHDRAW = 6  # and 7
    CLEAN = 8  # this and the next with seeded bugs only
    PUT = 9
    DONE = 10
    LOST = 11
    GONE = 12


class S(IntEnum):
    """What a sweep does next."""

    IDLE = 0
    LIST = 1  # with a seeded bug only
    JUDGE = 2
    ABORT = 3
    ENDED = 4


class C(IntEnum):
    """What a canceller does next."""

    IDLE = 0
    MARK = 1
    CREATE = 2
    READ = 3
    DONE = 4
    GONE = 5


class D(IntEnum):
    """What a driver does next."""

    IDLE = 0
    LIST = 1
    BEGIN = 2
    DRIVE = 3
    CLOSE = 4
    PUBLISH = 5
    ENDED = 6


LATE_CREATE = 1 << 4
"""An attempt's requests under way, by bit: puts of its first rendering, of its second, this one,
then deletes of its objects, whoever asked for them."""

LATE_MARK = 1 << 2
"""A canceller's requests under way, by bit: its creates by shard, then this one."""


def late_put(rendering: int, number: int) -> int:
    """The bit of a put of an attempt's object of that number."""
    return 1 << (2 * (rendering - 1) + number)


def late_delete(number: int) -> int:
    """The bit of a delete of an attempt's object of that number."""
    return 1 << (5 + number)


class Layout:
    """The place of every field in a state's bytes.

    A receipt has one bit for each owner, attempts first and cancellers behind them, so that a
    model with a bug can have two in force; `first` is the first ever and `named` the rendering
    it names. An object is 0 or its content, another one for every writer and rendering.
    """

    def __init__(self, config: Config) -> None:
        shards, attempts = max(config.shards, default=0) + 1, len(config.shards)
        self._next = 0
        self.receipt = self._places(shards)
        self.first = self._places(shards)
        self.named = self._places(shards)
        self.lock = self._places(shards)
        (self.marked,) = self._places(1)
        (self.epoch,) = self._places(1)
        (self.held,) = self._places(1)
        (self.manifest,) = self._places(1)
        self.attempt_pc = self._places(attempts)
        self.attempt_driver = self._places(attempts)
        self.attempt_rendering = self._places(attempts)
        self.content = self._places(attempts * config.objects)
        self.sweep_pc = self._places(config.sweeps)
        self.sweep_seen = self._places(config.sweeps)
        self.sweep_doomed = self._places(config.sweeps)
        self.canceller_pc = self._places(config.cancellers)
        self.canceller_todo = self._places(config.cancellers)
        self.driver_pc = self._places(config.drivers)
        self.driver_epoch = self._places(config.drivers)
        self.driver_read = self._places(config.drivers)
        # Side by side, so that all requests under way are counted at once.
        self.attempt_late = self._places(attempts)
        self.canceller_late = self._places(config.cancellers)
        self.driver_late = self._places(config.drivers)
        self.late = slice(self.attempt_late.start, self._next)
        self.size = self._next

    def _places(self, count: int) -> range:
        self._next += count
        return range(self._next - count, self._next)


def changed(state: bytes, *changes: tuple[int, int]) -> bytes:
    """The state with some fields set: (place, value)."""
    edited = bytearray(state)
    for place, value in changes:
        edited[place] = value
    return bytes(edited)
