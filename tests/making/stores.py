"""Stores that fail as they are told, and workers on a store that was handed to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any, BinaryIO

from render_farm.engine.rehearsal import RehearsalSampler
from render_farm.engine.sampler import Sampler
from render_farm.errors import AlreadyExists, StoreError, Unavailable, Unknown
from render_farm.farm.loop import DriveEnd, DriveOptions, Driver
from render_farm.farm.messages import Answer, Assignment, Tally, WorkerOptions
from render_farm.farm.pool import Answered, PoolEvent, Ready
from render_farm.farm.worker import ShardWorker
from render_farm.ledger.attempts import AttemptLog
from render_farm.ledger.record import RunRecord, create_record, read_record
from render_farm.store.base import ObjectInfo, Store


class Killed(BaseException):
    """The process ended here: nothing of it runs on, no handler of errors and no retry."""


@dataclass(frozen=True)
class Call:
    """One call of a store: `number` counts from 0."""

    number: int
    method: str
    key: str


Act = Callable[[], Any]
Fault = Callable[[Call, Act], Any]
"""Stands in for a call: gets it and what it would have done, answers or raises."""

Script = Callable[[Call], Fault | None]


def no_answer(call: Call) -> StoreError:
    """What a store raises when the answer did not come."""
    kind = Unknown if call.method == "create" else Unavailable
    return kind("memory://faulty", call.key, f"no answer to call {call.number}")


def fails(call: Call, act: Act) -> Any:
    """Nothing was applied, and nobody can tell."""
    raise no_answer(call)


def loses_answer(call: Call, act: Act) -> Any:
    """It was applied, and nobody can tell."""
    with suppress(StoreError):
        act()
    raise no_answer(call)


def exists_by_own_write(call: Call, act: Act) -> Any:
    """It was applied, the answer was lost, and the client's retry met its own write."""
    act()
    raise AlreadyExists("memory://faulty", call.key, "412 on the retry")


def killed_before(call: Call, act: Act) -> Any:
    """The process ends before the request leaves it."""
    raise Killed


def killed_after(call: Call, act: Act) -> Any:
    """The process ends before the answer comes, whatever it is."""
    with suppress(StoreError):
        act()
    raise Killed


def meanwhile(deed: Callable[[], object]) -> Fault:
    """Before the call is applied, somebody else does `deed`, from start to end."""

    def fault(call: Call, act: Act) -> Any:
        deed()
        return act()

    return fault


def at(number: int, fault: Fault) -> Script:
    """The fault at one call, by its number."""
    return lambda call: fault if call.number == number else None


def in_turn(method: str, prefix: str, *faults: Fault | None) -> Script:
    """The faults at the first calls of one method on keys with a prefix, one after another."""
    left = list(faults)
    lock = Lock()

    def script(call: Call) -> Fault | None:
        with lock:
            matches = call.method == method and call.key.startswith(prefix)
            return left.pop(0) if matches and left else None

    return script


@dataclass
class FaultyStore:
    """A `Store` that hands every call on to `inner`, unless `script` has a fault for it."""

    inner: Store
    script: Script = lambda call: None
    calls: list[Call] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    @property
    def uri(self) -> str:
        return self.inner.uri

    def get(self, key: str) -> bytes:
        return self._do("get", key, lambda: self.inner.get(key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._do("get_range", key, lambda: self.inner.get_range(key, start, length))

    def open(self, key: str) -> AbstractContextManager[BinaryIO]:
        return self._do("open", key, lambda: self.inner.open(key))

    def head(self, key: str) -> ObjectInfo:
        return self._do("head", key, lambda: self.inner.head(key))

    def put(self, key: str, data: bytes) -> None:
        self._do("put", key, lambda: self.inner.put(key, data))

    def upload(self, key: str, path: Path) -> None:
        self._do("upload", key, lambda: self.inner.upload(key, path))

    def create(self, key: str, data: bytes) -> None:
        self._do("create", key, lambda: self.inner.create(key, data))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._do("list", prefix, lambda: self.inner.list(prefix))

    def delete(self, key: str) -> None:
        self._do("delete", key, lambda: self.inner.delete(key))

    def abort_uploads(self, prefix: str, wanted: Callable[[str], bool] = lambda key: True) -> int:
        return self._do("abort_uploads", prefix, lambda: self.inner.abort_uploads(prefix, wanted))

    def now(self) -> datetime:
        return self.inner.now()

    def made(self, method: str) -> list[str]:
        """The keys of all calls of a method, in order."""
        return [call.key for call in self.calls if call.method == method]

    def _do(self, method: str, key: str, act: Act) -> Any:
        with self._lock:
            call = Call(len(self.calls), method, key)
            self.calls.append(call)
        fault = self.script(call)
        return act() if fault is None else fault(call, act)


class StorePool:
    """Rehearsing workers on one store, in the caller's thread: `poll` finds everything done."""

    separate = False

    def __init__(self, store: Store, sampler: Sampler | None = None) -> None:
        self._store = store
        self._sampler = sampler or RehearsalSampler()
        self._workers: dict[str, ShardWorker] = {}
        self._events: list[PoolEvent] = []

    def start(self, options: WorkerOptions) -> None:
        record = read_record(self._store)
        worker = ShardWorker(options, self._store, record, self._sampler)
        self._workers[options.worker] = worker
        self._events.append(Ready(options.worker))

    def assign(self, worker: str, assignment: Assignment) -> None:
        self._events.append(Answered(worker, self._workers[worker].run(assignment)))

    def abandon(self, worker: str, shard: int, *, unless_begun: bool) -> None:
        """Nothing is in hand between two calls."""

    def room(self) -> int:
        return 0

    def want(self, workers: int) -> None:
        """Nobody adds to it."""

    def stop(self) -> None:
        for worker in self._workers.values():
            worker.stop()

    def discard(self, worker: str) -> None:
        self._workers.pop(worker).close()

    def poll(self, timeout_s: float) -> list[PoolEvent]:
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        for worker in list(self._workers):
            self.discard(worker)


def submit_on(store: Store, wanted: RunRecord, driver: str = "driver") -> RunRecord:
    """What `submit` does, from the first write on; returns the record in force."""
    record = create_record(store, wanted.model_copy(update={"token": token_hex(16)}))
    drive_on(store, record, driver)
    return record


def drive_on(
    store: Store, record: RunRecord, driver: str = "driver", sampler: Sampler | None = None
) -> DriveEnd:
    """Drive a run with one worker; driver and worker see this very store."""
    options = worker_options(store, record, driver)
    limits = record.job.limits
    how = DriveOptions(1, limits, options, driver, pause_s=0.0)
    return Driver(store, record, StorePool(store, sampler), how, lambda progress: None).drive()


def render_on(
    store: Store, record: RunRecord, shard: int, sampler: Sampler | None = None
) -> Answer:
    """One attempt at one shard, without a driver."""
    options = worker_options(store, record, "lone")
    worker = ShardWorker(options, store, record, sampler or RehearsalSampler())
    try:
        return worker.run(Assignment(shard, AttemptLog(shard=shard), Tally()))
    finally:
        worker.close()


def worker_options(store: Store, record: RunRecord, worker: str) -> WorkerOptions:
    return WorkerOptions(
        run_uri=store.uri,
        token=record.token,
        worker=worker,
        cpus=1,
        max_quarantined=record.job.limits.max_quarantined,
        on_flagged=record.job.limits.on_flagged,
        model_cache="/nonexistent",
    )
