"""Child runs: rows of a run that did not end as done, rendered in a run of their own below it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from render_farm.errors import InputError
from render_farm.job.prompts import survey
from render_farm.job.resolve import request_fields
from render_farm.job.spec import JobSpec, OutputSpec, PromptsSpec
from render_farm.ledger import keys
from render_farm.ledger.cancel import cancel_run, is_cancelled
from render_farm.ledger.quarantine import Errors, done_origins, read_rejected, write_rows
from render_farm.ledger.receipt import closed_shards
from render_farm.ledger.record import RunRecord, read_record
from render_farm.ledger.rollup import recall_receipts
from render_farm.store.base import Store, exists
from render_farm.store.keys import join_uri
from render_farm.store.open import open_store


@dataclass(frozen=True, slots=True)
class Child:
    """A child run: its job, and the URI where it lies or will lie. `rows` are the rows it has."""

    uri: str
    job: JobSpec
    rows: int


def child_runs(store: Store) -> list[Store]:
    """The child runs that have begun, in order."""
    found = []
    number = 1
    while exists(store, f"{keys.retry(number)}/{keys.RUN}"):
        found.append(open_store(join_uri(store.uri, keys.retry(number))))
        number += 1
    return found


def make_child(store: Store, record: RunRecord, *, cancelled: bool) -> Child:
    """The child run to go on with: the newest one if it is open, else a new one.

    A new one's dataset is written next to it: the quarantined rows, with `cancelled` the cancelled
    ones too, that no child has rendered yet. One that was planned before is taken as it lies there,
    so that people can mend its rows in between.

    A cancel that was cut short is brought to its end first: its rows would be left out otherwise.

    Raises:
        InputError: there is no such row.
    """
    if cancelled and is_cancelled(store):
        cancel_run(store, record)
    children = child_runs(store)
    if children:
        newest = read_record(children[-1])
        if len(list(closed_shards(children[-1], newest.plan.shards))) < newest.plan.shards:
            return Child(children[-1].uri, newest.job, newest.plan.rows)
    folder = keys.retry(len(children) + 1)
    uri = join_uri(store.uri, folder)
    job = _child_job(record, uri, len(children) + 1)
    dataset = f"{folder}/prompts.parquet"
    if exists(store, dataset):
        return Child(uri, job, sum(file.rows for file in survey(job.prompts.path).files))
    done = {row for child in children for row in done_origins(child)}
    chosen = _chosen(store, record, done, cancelled)
    rows = write_rows(store, record, dataset, chosen)
    if not rows:
        what = "quarantined or cancelled" if cancelled else "quarantined"
        raise InputError.of(
            "RUN",
            f"{store.uri} has no {what} row left",
            f"a run with rows that are {what}",
            "nothing is to be done" if cancelled else "add --cancelled for cancelled rows",
        )
    return Child(uri, job, rows)


def _chosen(
    store: Store, record: RunRecord, done: set[int], cancelled: bool
) -> Iterator[tuple[int, Errors]]:
    for receipt in recall_receipts(store, record):
        errors: dict[int, tuple[str, str]] = {}
        if receipt.counts.quarantined:
            errors.update(read_rejected(store, receipt))
        if cancelled and receipt.kind == "cancelled":
            rows = range(receipt.first_row, receipt.first_row + receipt.rows)
            errors.update(dict.fromkeys(rows, ("cancelled", "the run was cancelled")))
        left = {row: error for row, error in errors.items() if row not in done}
        if left:
            yield receipt.shard, left


def _child_job(record: RunRecord, uri: str, number: int) -> JobSpec:
    """The parent's job on the child's dataset, with the parent's mapping spelled out."""
    mapping = record.prompts.request_columns()
    job = record.job
    columns = {field: mapping.get(field) for field in request_fields(job)}
    return job.model_copy(
        update={
            "name": f"{job.name} retry {number}"[-200:],
            "prompts": PromptsSpec(path=f"{uri}/prompts.parquet", columns=columns),
            # Every row of a child has failed before: that they fail again is no reason to stop.
            "limits": job.limits.model_copy(update={"max_quarantined": 1.0}),
            "output": OutputSpec(**{**job.output.model_dump(), "uri": uri}),
        }
    )
