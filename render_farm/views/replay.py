"""Rendering committed samples again: the same seed must give the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from render_farm.engine.sampler import Refused, parse_batch_shape
from render_farm.engine.several import AnySampler, Models, as_models
from render_farm.errors import RowError
from render_farm.job.prompts import ShardReader
from render_farm.job.request import RenderRequest
from render_farm.job.rerolls import recorded_reroll, rerolled
from render_farm.job.resolve import resolve_row
from render_farm.job.rows import rows_of
from render_farm.ledger.record import RunRecord
from render_farm.output.codecs import as_image, decode, encode
from render_farm.output.layout import StoredSample
from render_farm.store.base import Store
from render_farm.views.results import pick_samples


@dataclass(frozen=True, slots=True)
class Replay:
    """A sample rendered again.

    `psnr_db` is infinite for equal pixels, NaN if it was refused or its seed is not its own.

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


def replay_samples(
    store: Store, record: RunRecord, count: int, build: Callable[[bool], AnySampler]
) -> list[Replay]:
    """Render up to `count` samples, spread over the run, from the input at their recorded shape.

    The requests are resolved from the pinned dataset, not from the metadata, so that a row that
    got another row's picture shows as well. A rerolled sample is held to be the reroll that its
    seed and its flags name.

    `build` makes the sampler, compiled or not; it is asked for each once at most, and only for
    those that the samples were made with.
    """
    chosen = pick_samples(store, record, count)
    built = cache(lambda compiled: as_models(build(compiled)))
    with closing(ShardReader(record.prompts.dataset())) as reader:
        return [_replay(built, record, reader, sample) for sample in chosen]


def _replay(
    build: Callable[[bool], Models], record: RunRecord, reader: ShardReader, sample: StoredSample
) -> Replay:
    try:
        request = _rendered_request(record, reader, sample)
    except RowError:
        request = None
    if request is None:
        return Replay(sample.key, False, float("nan"))
    batch, compiled = parse_batch_shape(sample.record["batch_shape"])
    models = build(compiled)
    outcome = next(iter(models.sampler(request.model).render([request], batch)))
    if isinstance(outcome, Refused):
        return Replay(sample.key, False, float("nan"))
    output = record.job.output
    again = encode(as_image(outcome.pixels), output.image, output.quality)
    same = hashlib.sha256(again).hexdigest() == sample.record["sha256"]
    comparable = models.device == sample.record["device"]
    return Replay(sample.key, same, _psnr_db(decode(again), decode(sample.image)), comparable)


def _rendered_request(
    record: RunRecord, reader: ShardReader, sample: StoredSample
) -> RenderRequest | None:
    """What the picture was made of, None if the recorded seed is not one of its sample's.

    Raises: `RowError`.
    """
    request = _request(record, reader, sample)
    flags = tuple(sample.record["flags"] or ())
    reroll = recorded_reroll(request, sample.record["seed"], flags)
    return None if reroll is None else rerolled(request, reroll)


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
