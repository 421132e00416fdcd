"""One attempt at one shard, up to the files that are to be committed."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from render_farm.engine.sampler import Refused, Rendered, Sampler
from render_farm.errors import RowError, StoreError
from render_farm.farm.in_flight import InFlight
from render_farm.farm.records import Scribe
from render_farm.farm.rounds import Rounds
from render_farm.job.plan import Shard
from render_farm.job.request import RenderRequest
from render_farm.job.resolve import carried_columns, resolve_row
from render_farm.job.rows import rows_of
from render_farm.job.spec import OnFlagged
from render_farm.ledger.attempts import AttemptLog, Current, write_attempts
from render_farm.output.codecs import encode
from render_farm.output.layout import OutputFile, ShardLayout
from render_farm.output.shard_files import ShardWriter, Tally
from render_farm.store.base import Store

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Attempt:
    """Renders the rows of `shard` into files below `scratch`.

    `slot` is the worker's name with the driver. `log` is what earlier attempts left: rows it
    suspects of ending a process are rendered first, each in a batch of its own; rows that did it
    twice are quarantined. `on_flagged` is the one in force now: limits are free, and the run's
    record has the first.
    """

    identity: str
    slot: str
    scribe: Scribe
    store: Store
    sampler: Sampler
    shard: Shard
    log: AttemptLog
    scratch: Path
    stopping: threading.Event
    on_flagged: OnFlagged
    samples_rendered: int = 0
    _writer: ShardWriter = field(init=False)
    _started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def render(self, table: pa.Table) -> list[OutputFile]:
        """Render every row of `table`, the shard's rows, and return the files to commit.

        Raises:
            Drained: the worker was asked to stop.
            DeviceLost: the process must end.
        """
        job = self.scribe.run.job
        self._writer = ShardWriter(
            self.scratch,
            ShardLayout(
                shard=self.shard.index,
                attempt=self.identity,
                first_row=self.shard.first_row,
                rows=self.shard.rows,
                samples=job.defaults.samples,
                container=job.output.container,
                image_format=job.output.image,
            ),
        )
        self._render_all(self._requests(table))
        mapping = self.scribe.run.prompts.request_columns()
        return self._writer.close(table.select(carried_columns(table.schema, mapping)))

    def tally(self) -> Tally:
        """What became of the rows so far."""
        return self._writer.tally()

    def _requests(self, table: pa.Table) -> list[RenderRequest]:
        """The requests of all rows that can be rendered; the others are rejected."""
        mapping = self.scribe.run.prompts.request_columns()
        file = self.scribe.run.prompts.files[self.shard.file].path
        condemned = self.log.condemned()
        requests: list[RenderRequest] = []
        for row in rows_of(table, self.shard, file, mapping):
            try:
                resolved = resolve_row(row, self.scribe.run.job, mapping)
                for request in resolved:
                    self.sampler.check(request)
                if row.row in condemned:
                    raise RowError(
                        "process_ended",
                        "rendering this row alone ended or hung the worker's process",
                    )
            except RowError as error:
                self._writer.reject(self.scribe.unresolved(row, error, datetime.now(UTC)))
            else:
                requests += resolved
        return requests

    def _render_all(self, requests: list[RenderRequest]) -> None:
        Rounds(
            store=self.store,
            sampler=self.sampler,
            flight=InFlight(self._note, time.monotonic),
            stopping=self.stopping,
            batch_size=self.scribe.run.job.workers.batch_size,
            on_flagged=self.on_flagged,
            take=self._take,
        ).render(requests, self.log.suspects())

    def _take(self, outcome: Rendered | Refused) -> None:
        now = datetime.now(UTC)
        if isinstance(outcome, Refused):
            self._writer.reject(self.scribe.refused(outcome, now))
            return
        output = self.scribe.run.job.output
        encoded = encode(outcome.pixels, output.image, output.quality)
        self._writer.add(self.scribe.done(outcome, now), encoded)
        self.samples_rendered += 1

    def _note(self, rows: tuple[int, ...]) -> None:
        """Tell the next attempt, should there be one, what this one is rendering.

        Advisory: a store that does not take the note stops nothing.
        """
        current = Current(
            attempt=self.identity,
            worker=self.slot,
            started_at=self._started_at,
            in_flight=rows,
        )
        try:
            write_attempts(self.store, self.log.model_copy(update={"current": current}))
        except StoreError as error:
            log.warning("rows in flight not noted", extra={"error": str(error)})
