"""One attempt at one shard, up to the files that are to be committed."""

from __future__ import annotations

import logging
import tempfile
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from render_farm.engine.sampler import Refused, Rendered
from render_farm.engine.several import Models
from render_farm.errors import RowError, StoreError
from render_farm.farm.backlog import Ticket
from render_farm.farm.in_flight import Errand, InFlight, Pace
from render_farm.farm.messages import Assignment
from render_farm.farm.records import Scribe
from render_farm.job.plan import Shard
from render_farm.job.request import Kind, RenderRequest
from render_farm.job.resolve import carried_columns, resolve_row
from render_farm.job.rows import rows_of
from render_farm.ledger.attempts import Current, write_attempts
from render_farm.output.codecs import as_image, encode, luma
from render_farm.output.layout import OutputFile, ShardLayout
from render_farm.output.shard_files import ShardWriter, Tally
from render_farm.store.base import Store

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Attempt:
    """Turns the rows of `shard` into requests, and what becomes of them into files.

    `slot` is the worker's name with the driver. What earlier attempts left is in the assignment:
    rows suspected of ending a process are rendered first, each in a batch of its own; rows that
    did it twice are quarantined. `shapes` are the batch sizes in force when the shard was read.
    `begun` is set once the engine has been given anything of it.
    """

    identity: str
    slot: str
    assignment: Assignment
    shard: Shard
    scribe: Scribe
    store: Store
    pace: Pace
    errand: Errand
    shapes: dict[Kind, int] = field(default_factory=dict)
    begun: bool = False
    samples_rendered: int = 0
    flight: InFlight = field(init=False)
    tickets: list[Ticket[Attempt]] = field(init=False, default_factory=list)
    _carried: pa.Table = field(init=False)
    _left: int = field(init=False, default=0)
    _scratch: tempfile.TemporaryDirectory[str] = field(init=False)
    _writer: ShardWriter = field(init=False)
    _started_at: datetime = field(init=False)
    _counting: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        job = self.scribe.run.job
        self.flight = InFlight(self._note, self.pace, self.errand)
        self._started_at = datetime.now(UTC)
        self._scratch = tempfile.TemporaryDirectory(
            prefix="render-farm-", ignore_cleanup_errors=True
        )
        self._writer = ShardWriter(
            Path(self._scratch.name),
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

    @property
    def complete(self) -> bool:
        """Whether every sample was decided and taken."""
        return self._left == 0

    def resolve(self, table: pa.Table, models: Models) -> None:
        """Make `tickets` of `table`, the shard's rows; those that cannot be rendered are rejected.

        Tickets are in the order that keeps batches full: equal kinds together, model by model, then
        what the engine wishes, then rows in order.
        """
        mapping = self.scribe.run.prompts.request_columns()
        self._carried = table.select(carried_columns(table.schema, mapping))
        suspects = self.assignment.log.suspects()

        def order(request: RenderRequest) -> tuple[object, ...]:
            return request.kind, models.order(request), request.row, request.sample

        requests = sorted(self._requests(table, models), key=order)
        self.tickets = [
            Ticket(self, request, alone=request.row in suspects) for request in requests
        ]
        self._left = len(requests)

    def kinds(self) -> list[Kind]:
        """The kinds of the shard's pictures."""
        return [kind for kind, _ in groupby(ticket.request.kind for ticket in self.tickets)]

    def take(self, *outcomes: Rendered | Refused) -> None:
        """Encode samples, or reject their rows; threads may do so at once.

        Several cost a fifth less together: the same code runs over all of them, step by step.
        """
        now, output = datetime.now(UTC), self.scribe.run.job.output
        rendered = [outcome for outcome in outcomes if isinstance(outcome, Rendered)]
        images = [as_image(one.pixels) for one in rendered]
        encoded = [encode(image, output.image, output.quality) for image in images]
        measured = [luma(image) for image in images]
        for one, its_luma, data in zip(rendered, measured, encoded, strict=True):
            self._writer.add(self.scribe.done(one, its_luma, now), data)
        for outcome in outcomes:
            if isinstance(outcome, Refused):
                self._writer.reject(self.scribe.refused(outcome, now))
        with self._counting:
            self.samples_rendered += len(rendered)
            self._left -= len(outcomes)

    def write(self) -> list[OutputFile]:
        """The files to commit, once the attempt is complete."""
        return self._writer.close(self._carried)

    def tally(self) -> Tally:
        """What became of the rows so far."""
        return self._writer.tally()

    def discard(self) -> None:
        """Remove the local files."""
        self._scratch.cleanup()

    def _requests(self, table: pa.Table, models: Models) -> list[RenderRequest]:
        """The requests of all rows that can be rendered; the others are rejected."""
        run = self.scribe.run
        mapping = run.prompts.request_columns()
        file = run.prompts.files[self.shard.file].path
        condemned = self.assignment.log.condemned()
        requests: list[RenderRequest] = []
        for row in rows_of(table, self.shard, file, mapping):
            try:
                resolved = resolve_row(row, run.job, mapping)
                for request in resolved:
                    models.check(request)
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
            write_attempts(self.store, self.assignment.log.model_copy(update={"current": current}))
        except StoreError as error:
            log.warning("rows in flight not noted", extra={"error": str(error)})
