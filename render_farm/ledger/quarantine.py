"""Quarantine and retry datasets: rows of the input, as they were, with what went wrong.

Such a file can be submitted as it is. Its `rf_` columns keep each row's key and job seed, so the
rows that can be rendered after all get the pictures they would have had.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.errors import NotFound, RowError, StopError
from render_farm.job.plan import Shard
from render_farm.job.prompts import ShardReader
from render_farm.job.resolve import JOB_SEED_COLUMN, ROW_COLUMN, ROW_KEY_COLUMN, key_of_row
from render_farm.job.rows import rows_of
from render_farm.ledger import keys
from render_farm.ledger.read_ahead import READERS, read_ahead
from render_farm.ledger.receipt import DataObject, Receipt, iter_receipts
from render_farm.ledger.record import RunRecord
from render_farm.ledger.rollup import recall_receipts
from render_farm.store.base import Store

ERROR_COLUMNS = ("rf_error_type", "rf_error")
_ORIGIN_FIELDS: list[tuple[str, pa.DataType]] = [
    (ROW_COLUMN, pa.int64()),
    (ROW_KEY_COLUMN, pa.string()),
    (JOB_SEED_COLUMN, pa.int64()),
    (ERROR_COLUMNS[0], pa.string()),
    (ERROR_COLUMNS[1], pa.string()),
]
_ORIGIN = pa.schema(_ORIGIN_FIELDS)

Errors = Mapping[int, tuple[str, str]]
"""Row ordinal: error type and message."""


def write_quarantine(store: Store, record: RunRecord) -> int:
    """Write `quarantine.parquet` from the receipts; returns its rows. No rows, no file."""
    return write_rows(store, record, keys.QUARANTINE, _quarantined(store, record), keep_origin=True)


def write_rows(
    store: Store,
    record: RunRecord,
    key: str,
    chosen: Iterator[tuple[int, Errors]],
    *,
    keep_origin: bool = False,
) -> int:
    """Write the chosen rows of the input, shard by shard, as a dataset of their own.

    `chosen` yields a shard's index and its rows. Memory holds one shard at a time. `rf_row` is the
    row in this run, by which `done_origins` finds it again; with `keep_origin` a row that came from
    another run keeps the number that it had there.
    """
    plan = record.make_plan()
    dataset = record.prompts.dataset()
    schema = _schema(dataset.schema)
    rows = 0
    with (
        closing(ShardReader(dataset)) as reader,
        tempfile.TemporaryDirectory(prefix="render-farm-") as scratch,
    ):
        path = Path(scratch) / "rows.parquet"
        with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
            for index, errors in chosen:
                shard = plan.shard(index)
                table = _rows_with_origin(reader.read(shard), shard, record, errors, keep_origin)
                writer.write_table(table.cast(schema))
                rows += table.num_rows
        if rows:
            store.upload(key, path)
    return rows


def read_rejected(store: Store, receipt: Receipt) -> Errors:
    """The quarantined rows of a shard, from the object that its receipt names.

    Raises:
        StopError: the object is gone or altered.
    """
    errors: dict[int, tuple[str, str]] = {}
    for item in receipt.objects:
        if item.key.startswith(keys.REJECTED):
            columns = ["row", "status", "error_type", "error"]
            table = pq.read_table(_vouched(store, item), columns=columns)
            errors |= {
                row["row"]: (row["error_type"], row["error"])
                for row in table.to_pylist()
                if row["status"] == "quarantined"
            }
    return errors


def done_origins(store: Store) -> Iterator[int]:
    """The rows of its parent, by `rf_row`, that a child run has rendered; one a sample.

    Raises: as `read_rejected`.
    """
    for receipt in iter_receipts(store):
        for item in receipt.objects:
            if item.key.startswith(keys.DATA) and item.key.endswith(".parquet"):
                for row in pq.read_table(_vouched(store, item), columns=[ROW_COLUMN])[ROW_COLUMN]:
                    yield int(row.as_py())


def _quarantined(store: Store, record: RunRecord) -> Iterator[tuple[int, Errors]]:
    """Shards with quarantined rows; those of a few dozen shards are read ahead."""
    receipts = recall_receipts(store, record)
    return read_ahead(
        lambda receipt: (receipt.shard, read_rejected(store, receipt)),
        (receipt for receipt in receipts if receipt.counts.quarantined),
        ahead=READERS,
    )


def _vouched(store: Store, item: DataObject) -> pa.BufferReader:
    """An object in memory, if it is the one that its receipt vouches for."""
    try:
        data = store.get(item.key)
    except NotFound:
        data = b""
    if hashlib.sha256(data).hexdigest() != item.sha256:
        raise StopError(
            f"{store.uri}/{item.key} is not the object that its receipt vouches for",
            "render-farm verify shows what else is missing or altered: restore it from a backup.",
        )
    return pa.BufferReader(data)


def _schema(input_schema: pa.Schema) -> pa.Schema:
    kept = [index for index, name in enumerate(input_schema.names) if name not in _ORIGIN.names]
    return pa.schema([*(input_schema.field(index) for index in kept), *_ORIGIN])


def _rows_with_origin(
    table: pa.Table, shard: Shard, record: RunRecord, errors: Errors, keep_origin: bool
) -> pa.Table:
    """Input rows and, beside them, where they come from."""
    file = record.prompts.files[shard.file].path
    mapping = record.prompts.request_columns()
    taken, origin = [], []
    for index, row in enumerate(rows_of(table, shard, file, mapping)):
        if row.row not in errors:
            continue
        try:
            seed, key = key_of_row(row, mapping, record.job.seed)
        except RowError:
            seed, key = record.job.seed, None
        earlier = row.columns.get(ROW_COLUMN) if keep_origin else None
        taken.append(index)
        origin.append(
            {
                ROW_COLUMN: row.row if earlier is None else earlier,
                ROW_KEY_COLUMN: None if key is None else json.dumps(key),
                JOB_SEED_COLUMN: seed,
                ERROR_COLUMNS[0]: errors[row.row][0],
                ERROR_COLUMNS[1]: errors[row.row][1],
            }
        )
    own = table.drop_columns([name for name in _ORIGIN.names if name in table.column_names])
    columns = own.take(pa.array(taken, pa.int64()))
    beside = pa.Table.from_pylist(origin, schema=_ORIGIN)
    for field in _ORIGIN:
        columns = columns.append_column(field, beside.column(field.name))
    return columns
