"""Rendering committed samples again: the same seed must give the same bytes."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from render_farm.engine.sampler import Refused, Sampler
from render_farm.errors import RowError
from render_farm.job.prompts import ShardReader
from render_farm.job.request import RenderRequest
from render_farm.job.resolve import resolve_row
from render_farm.job.rows import rows_of
from render_farm.ledger.record import RunRecord
from render_farm.output.codecs import decode, encode
from render_farm.output.layout import StoredSample
from render_farm.store.base import Store
from render_farm.views.results import pick_samples


@dataclass(frozen=True, slots=True)
class Replay:
    """A sample rendered again. `psnr_db` is infinite for equal pixels, NaN if it was refused.

    Bytes are promised for one device model; on another the sample is only `comparable` by eye.
    """

    key: str
    same: bool
    psnr_db: float
    comparable: bool = True

    @property
    def mismatch(self) -> bool:
        """Whether a promise was broken."""
        return self.comparable and not self.same


def replay_samples(store: Store, record: RunRecord, count: int, sampler: Sampler) -> list[Replay]:
    """Render up to `count` samples, spread over the run, from the input at their recorded shape.

    The requests are resolved from the pinned dataset, not from the metadata, so that a row that
    got another row's picture shows as well.
    """
    chosen = pick_samples(store, record, count)
    with closing(ShardReader(record.prompts.dataset())) as reader:
        return [_replay(sampler, record, reader, sample) for sample in chosen]


def _replay(
    sampler: Sampler, record: RunRecord, reader: ShardReader, sample: StoredSample
) -> Replay:
    batch = int(sample.record["batch_shape"].partition("x")[0])
    try:
        request = _request(record, reader, sample)
    except RowError:
        return Replay(sample.key, False, float("nan"))
    outcome = next(iter(sampler.render([request], batch)))
    if isinstance(outcome, Refused):
        return Replay(sample.key, False, float("nan"))
    output = record.job.output
    again = encode(outcome.pixels, output.image, output.quality)
    same = hashlib.sha256(again).hexdigest() == sample.record["sha256"]
    comparable = sampler.info.device == sample.record["device"]
    return Replay(sample.key, same, _psnr_db(decode(again), decode(sample.image)), comparable)


def _request(record: RunRecord, reader: ShardReader, sample: StoredSample) -> RenderRequest:
    shard = record.make_plan().shard_of_row(sample.record["row"])
    mapping = record.prompts.request_columns()
    file = record.prompts.files[shard.file].path
    rows = rows_of(reader.read(shard), shard, file, mapping)
    row = next(row for row in rows if row.row == sample.record["row"])
    requests = resolve_row(row, record.job, mapping)
    return requests[int(sample.record["sample"])]


def _psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of uint8 pictures, in dB; infinite where they are equal."""
    if a.shape != b.shape:
        return float("nan")
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))
