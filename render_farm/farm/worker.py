"""The worker: one attempt at a shard, from its rows to its receipt. Knows nothing of Ray."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import tempfile
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from render_farm.engine.sampler import Sampler
from render_farm.errors import (
    DeviceLost,
    InputError,
    ModelError,
    StopError,
    StoreError,
)
from render_farm.farm.attempt import Attempt
from render_farm.farm.early_stop import over_limit
from render_farm.farm.messages import (
    Answer,
    Assignment,
    RunHalted,
    ShardClosed,
    ShardFailed,
    ShardGivenBack,
    WorkerOptions,
)
from render_farm.farm.records import Scribe
from render_farm.farm.rounds import Drained
from render_farm.job.prompts import ShardReader
from render_farm.ledger.attempts import Failure, clear_attempts
from render_farm.ledger.commit import commit, withdraw
from render_farm.ledger.receipt import DataObject, Receipt, RowCounts, SampleCounts, read_receipt
from render_farm.ledger.record import RunRecord, read_record
from render_farm.output.layout import OutputFile
from render_farm.store.base import Store
from render_farm.store.open import open_store

log = logging.getLogger(__name__)

SamplerBuilder = Callable[[RunRecord, WorkerOptions], Sampler]


class ShardWorker:
    """Renders the shards it is given, one after another, on one device."""

    def __init__(
        self, options: WorkerOptions, store: Store, record: RunRecord, sampler: Sampler
    ) -> None:
        self._options = options
        self._store = store
        self._record = record
        self._sampler = sampler
        self._plan = record.make_plan()
        self._reader = ShardReader(record.prompts.dataset())
        self._stopping = threading.Event()

    @classmethod
    def open(cls, options: WorkerOptions, build: SamplerBuilder) -> ShardWorker:
        """Open the run and load the model.

        Raises:
            InputError: the run cannot be read from here, or is not the driver's.
            ModelError: the model cannot be loaded.
        """
        store = open_store(options.run_uri)
        record = _own_record(store, options)
        return cls(options, store, record, build(record, options))

    def stop(self) -> None:
        """End after the batch in hand; may be called from another thread."""
        self._stopping.set()

    def close(self) -> None:
        """Let go of the local copy of the input; the worker runs no more."""
        self._reader.close()

    def run(self, assignment: Assignment) -> Answer:
        """Render a shard and commit it.

        Every way in which it can end is an answer, but one. A store that fails this worker is a
        failed attempt: whether it fails everybody the driver finds out, which uses it next.

        Raises:
            DeviceLost: the process must end.
        """
        try:
            return self._run(assignment)
        except DeviceLost:
            raise
        except Drained:
            return ShardGivenBack(assignment.shard)
        except (InputError, ModelError) as error:
            return RunHalted(assignment.shard, str(error), "Mend that; then resume.")
        except StopError as error:
            return RunHalted(assignment.shard, error.reason, error.fix)
        except Exception as error:  # noqa: BLE001 - the shard's seam: becomes a retry
            return ShardFailed(assignment.shard, self._failure(error))

    def _run(self, assignment: Assignment) -> Answer:
        if self._stopping.is_set():
            raise Drained
        existing = read_receipt(self._store, assignment.shard)
        if existing is not None:
            return ShardClosed(existing, own=False)
        shard = self._plan.shard(assignment.shard)
        with tempfile.TemporaryDirectory(prefix="render-farm-") as scratch:
            attempt = Attempt(
                identity=secrets.token_hex(6),
                slot=self._options.worker,
                scribe=Scribe(self._record, self._sampler.info, process_name()),
                store=self._store,
                sampler=self._sampler,
                shard=shard,
                log=assignment.log,
                scratch=Path(scratch),
                stopping=self._stopping,
                on_flagged=self._options.on_flagged,
            )
            files = attempt.render(self._reader.read(shard))
            receipt = self._receipt(attempt, files)
            halt = over_limit(assignment.tally.plus(receipt), self._options.max_quarantined)
            if halt is not None:
                return RunHalted(assignment.shard, *halt)
            for file in files:
                self._store.upload(file.key, file.path)
            return self._commit(receipt, files, attempt.samples_rendered)

    def _commit(self, receipt: Receipt, files: list[OutputFile], rendered: int) -> ShardClosed:
        winner = commit(self._store, receipt)
        own = winner.attempt == receipt.attempt
        if own:
            self._forget_attempts(receipt.shard)
        else:
            deleted = withdraw(self._store, [file.key for file in files], receipt, winner)
            log.info("lost shard", extra={"shard": receipt.shard, "objects_deleted": deleted})
        return ShardClosed(winner, own, rendered)

    def _forget_attempts(self, shard: int) -> None:
        """Advisory: the shard is committed, whatever becomes of the notes on it."""
        try:
            clear_attempts(self._store, shard)
        except StoreError as error:
            log.warning("notes on a closed shard are left", extra={"error": str(error)})

    def _receipt(self, attempt: Attempt, files: list[OutputFile]) -> Receipt:
        tally = attempt.tally()
        return Receipt(
            kind="rendered",
            shard=attempt.shard.index,
            attempt=attempt.identity,
            first_row=attempt.shard.first_row,
            rows=attempt.shard.rows,
            counts=RowCounts(
                done=tally.rows_done,
                filtered=tally.rows_filtered,
                quarantined=tally.rows_quarantined,
            ),
            samples=SampleCounts(done=tally.samples_done, filtered=tally.samples_filtered),
            objects=tuple(
                DataObject(key=file.key, size_bytes=file.size_bytes, sha256=file.sha256)
                for file in files
                if file.listed_in_receipt
            ),
            errors_by_type=tally.errors_by_type,
            versions=self._sampler.info.versions,
        )

    def _failure(self, error: Exception) -> Failure:
        log.warning("attempt failed", exc_info=error)
        return Failure(
            attempt=None,
            worker=self._options.worker,
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
