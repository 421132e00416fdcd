"""The worker: one attempt at a shard, from its rows to its receipt. Knows nothing of Ray."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime

import pyarrow as pa

from render_farm.engine.sampler import Refused, Rendered
from render_farm.engine.several import AnySampler, as_models
from render_farm.errors import (
    DeviceLost,
    InputError,
    ModelError,
    StopError,
)
from render_farm.farm.attempt import Attempt
from render_farm.farm.backlog import Backlog
from render_farm.farm.delivery import deliver, receipt_of
from render_farm.farm.early_stop import Tallies, over_limit
from render_farm.farm.in_flight import Errand, Pace, at_once
from render_farm.farm.messages import (
    Answer,
    Assignment,
    RunHalted,
    ShardClosed,
    ShardFailed,
    ShardGivenBack,
    Usage,
    WorkerOptions,
)
from render_farm.farm.records import Scribe
from render_farm.farm.stream import EngineTime, Stream
from render_farm.job.prompts import ShardReader
from render_farm.ledger.attempts import Failure
from render_farm.ledger.receipt import read_receipt
from render_farm.ledger.record import RunRecord, read_record
from render_farm.ledger.shapes import Shapes
from render_farm.memory import peak_memory_bytes
from render_farm.store.base import Store
from render_farm.store.counting import CountingStore
from render_farm.store.open import open_store

log = logging.getLogger(__name__)

SamplerBuilder = Callable[[RunRecord, WorkerOptions], AnySampler]


class ShardWorker:
    """Takes shards through the stages of an attempt, on one device.

    `begin` reads a shard, a `Stream` renders it, `finish` commits it. `run` does all three in turn;
    `OverlappedWorker` does them at the same time for several shards.
    """

    def __init__(
        self, options: WorkerOptions, store: Store, record: RunRecord, sampler: AnySampler
    ) -> None:
        self.options = options
        self.stopping = threading.Event()
        self.meter = EngineTime()
        self._store = CountingStore(store)
        self._record = record
        self._models = as_models(sampler)
        self._shapes = Shapes(self._store, self._models.device)
        self._plan = record.make_plan()
        self._reader = ShardReader(record.prompts.dataset())
        self._pace = Pace(time.monotonic)
        self.tallies = Tallies()

    @classmethod
    def open(cls, options: WorkerOptions, build: SamplerBuilder) -> ShardWorker:
        """Open the run and load the model.

        Raises:
            InputError: the run cannot be read from here, or is not the driver's.
            ModelError: the model cannot be loaded.
        """
        pa.array([""])  # has Arrow import pandas, where it is installed: no shard need wait for it
        store = open_store(options.run_uri)
        record = _own_record(store, options)
        return cls(options, store, record, build(record, options))

    def stop(self) -> None:
        """End after the batch in hand; may be called from another thread."""
        self.stopping.set()

    def close(self) -> None:
        """Let go of the local copy of the input; the worker runs no more."""
        self._reader.close()

    def run(self, assignment: Assignment) -> Answer:
        """Render a shard and commit it, one stage after the other in this thread.

        Every way in which it can end is an answer, but one. A store that fails this worker is a
        failed attempt: whether it fails everybody the driver finds out, which uses it next.

        Raises:
            DeviceLost: the process must end.
        """
        answer = self._run(assignment)
        self.tallies.answered(answer)
        return answer

    def stream(
        self,
        backlog: Backlog[Attempt],
        decided: Callable[[Attempt, Rendered | Refused], None],
        failed: Callable[[list[Attempt], Exception], None],
    ) -> Stream:
        """What renders the attempts in a backlog with this worker's engine."""
        return Stream(
            models=self._models,
            shapes=self._shapes,
            backlog=backlog,
            stopping=self.stopping,
            batch_size=self._record.job.workers.batch_size,
            on_flagged=self.options.on_flagged,
            decided=decided,
            failed=failed,
            meter=self.meter,
        )

    def begin(self, assignment: Assignment, errand: Errand) -> Attempt | Answer:
        """Read a shard and resolve its rows; the answer, if there is nothing to be rendered.

        For one thread at a time, and for assignments in the order in which they came.
        """
        self.tallies.forget_heard(assignment.heard)
        shard = assignment.shard
        try:
            if self.stopping.is_set():
                return ShardGivenBack(shard)
            existing = read_receipt(self._store, shard)
            if existing is not None:
                return ShardClosed(existing, own=False, usage=self.usage())
            return self._read(assignment, errand)
        except Exception as error:  # noqa: BLE001 - the shard's seam: becomes a retry
            return self._ended_by(shard, error)

    def finish(self, attempt: Attempt) -> Answer:
        """Write the files of a complete attempt, upload and commit them."""
        shard = attempt.shard.index
        try:
            attempt.flight.landed()
            files = attempt.write()
            receipt = receipt_of(attempt, files, dict(self._models.versions))
            tally = self.tallies.with_own(attempt.assignment).plus(receipt)
            halt = over_limit(tally, self.options.max_quarantined)
            if halt is not None:
                return RunHalted(shard, *halt)
            winner = deliver(self._store, receipt, files)
            own = winner.attempt == receipt.attempt
            return ShardClosed(winner, own, attempt.samples_rendered, self.usage())
        except Exception as error:  # noqa: BLE001 - the shard's seam: becomes a retry
            return self._ended_by(shard, error)

    def given_back(self, attempt: Attempt) -> ShardGivenBack:
        """An attempt that is not gone on with; nothing of it was committed."""
        attempt.flight.landed()
        return ShardGivenBack(attempt.shard.index)

    def failed(self, attempt: Attempt, error: Exception) -> Answer:
        """An attempt that ended in an error that is not a row's."""
        return self._ended_by(attempt.shard.index, error)

    def usage(self) -> Usage:
        """What this worker has used since it started."""
        return Usage(
            peak_memory_bytes=peak_memory_bytes(),
            engine_s=self.meter.busy_s,
            first_image_at=self.meter.first_image_at,
            last_image_at=self.meter.last_image_at,
            requests=self._store.counts(),
        )

    def _run(self, assignment: Assignment) -> Answer:
        begun = self.begin(assignment, at_once)
        if not isinstance(begun, Attempt):
            return begun
        backlog = Backlog[Attempt]()
        backlog.add(begun, begun.tickets)
        failures: list[Exception] = []
        try:
            self.stream(backlog, Attempt.take, lambda _, error: failures.append(error)).run(
                wait=False
            )
            if failures:
                return self.failed(begun, failures[0])
            return self.finish(begun) if begun.complete else self.given_back(begun)
        finally:
            begun.discard()

    def _read(self, assignment: Assignment, errand: Errand) -> Attempt:
        attempt = Attempt(
            identity=secrets.token_hex(6),
            slot=self.options.worker,
            assignment=assignment,
            shard=self._plan.shard(assignment.shard),
            scribe=Scribe(self._record, self._models, process_name()),
            store=self._store,
            pace=self._pace,
            errand=errand,
        )
        try:
            attempt.resolve(self._reader.read(attempt.shard), self._models)
            attempt.shapes = self._shapes.settled(attempt.kinds())
        except BaseException:
            attempt.discard()
            raise
        return attempt

    def _ended_by(self, shard: int, error: Exception) -> Answer:
        if isinstance(error, DeviceLost):
            raise error
        if isinstance(error, InputError | ModelError):
            return RunHalted(shard, str(error), "Mend that; then resume.")
        if isinstance(error, StopError):
            return RunHalted(shard, error.reason, error.fix)
        return ShardFailed(shard, self._failure(error))

    def _failure(self, error: Exception) -> Failure:
        log.warning("attempt failed", exc_info=error)
        return Failure(
            attempt=None,
            worker=self.options.worker,
            error_type=type(error).__name__,
            error="".join(traceback.format_exception_only(error)).strip()[:2000],
            at=datetime.now(UTC),
        )


def process_name() -> str:
    """This process, for those who look for the node that made a sample."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _own_record(store: Store, options: WorkerOptions) -> RunRecord:
    """The record of the run, if it is the very one that the driver sees."""
    shared = InputError.of(
        "output.uri",
        f"{options.run_uri} as seen by {options.worker}",
        "a place that the driver and every worker share",
        "use an s3:// prefix, or a folder on a file system that every node mounts",
    )
    try:
        record = read_record(store)
    except InputError as error:
        raise shared from error
    if record.token != options.token:
        raise shared
    return record
