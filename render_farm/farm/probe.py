"""What a job will cost: a few of its samples rendered here, and the rest extrapolated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice

from render_farm.engine.sampler import Rendered
from render_farm.engine.several import Models, as_models
from render_farm.errors import InputError, RowError
from render_farm.farm.models import build_here
from render_farm.farm.opening import new_run_record
from render_farm.farm.prepare import Prepared
from render_farm.job.plan import Shard
from render_farm.job.prompts import ShardReader
from render_farm.job.request import RenderRequest
from render_farm.job.resolve import resolve_row
from render_farm.job.rows import rows_of
from render_farm.job.spec import JobSpec
from render_farm.ledger.record import RunRecord
from render_farm.output.codecs import as_image, encode

TYPICAL_BYTES_PER_PIXEL = {"png": 1.5, "jpeg": 0.5, "webp": 0.2}
"""Of pictures as diffusion models make them, at the default quality: good for a first guess."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What rendering `samples` samples showed, after a first batch that warmed the device up."""

    samples: int
    seconds_per_sample: float
    bytes_per_sample: float
    device: str


def guessed_bytes_per_sample(job: JobSpec) -> float:
    """Encoded size of a sample by format and default size alone."""
    pixels = job.defaults.width * job.defaults.height
    return pixels * TYPICAL_BYTES_PER_PIXEL[job.output.image]


def probe_job(prepared: Prepared, samples: int, model_cache: str) -> Measured:
    """Render and encode the first `samples` samples of a job's dataset in this process.

    Raises:
        InputError: none of the rows that were tried can be rendered.
    """
    record = new_run_record(prepared)
    models = as_models(build_here(record, model_cache))
    requests = _requests(record, models, samples)
    if not requests:
        raise InputError.of(
            "prompts.path",
            prepared.job.prompts.path,
            "rows that can be rendered among the first",
            "look at them with validate, or correct the defaults",
        )
    first_of_each = {request.model: request for request in reversed(requests)}
    _render(models, record, list(first_of_each.values()))
    started = time.perf_counter()
    rendered, size = _render(models, record, requests)
    elapsed = time.perf_counter() - started
    if not rendered:
        paths = ", ".join(model.path for model in prepared.job.every_model.values())
        field = "model.path" if prepared.job.models is None else "models"
        raise InputError.of(field, paths, "a model that renders", "see the log")
    return Measured(rendered, elapsed / rendered, size / rendered, models.device)


def _requests(record: RunRecord, models: Models, samples: int) -> list[RenderRequest]:
    reader = ShardReader(record.prompts.dataset())
    requests: list[RenderRequest] = []
    for shard in islice(record.make_plan(), 8):
        requests += _requests_of(shard, record, reader, models)
        if len(requests) >= samples:
            break
    reader.close()
    return requests[:samples]


def _requests_of(
    shard: Shard, record: RunRecord, reader: ShardReader, models: Models
) -> Iterator[RenderRequest]:
    file, mapping = record.prompts.files[shard.file].path, record.prompts.request_columns()
    for row in rows_of(reader.read(shard), shard, file, mapping):
        try:
            resolved = resolve_row(row, record.job, mapping)
            for request in resolved:
                models.check(request)
        except RowError:
            continue
        yield from resolved


def _render(models: Models, record: RunRecord, requests: list[RenderRequest]) -> tuple[int, int]:
    """Samples rendered and bytes encoded."""
    job, count, size = record.job, 0, 0
    ordered = sorted(requests, key=lambda request: request.kind)
    for (model, width, height), group in groupby(ordered, key=lambda request: request.kind):
        sampler = models.sampler(model)
        batch = job.workers.batch_size
        batch = sampler.default_batch_size(width, height) if batch == "auto" else batch
        for outcome in sampler.render(group, batch):
            if isinstance(outcome, Rendered):
                count += 1
                image = as_image(outcome.pixels)
                size += len(encode(image, job.output.image, job.output.quality))
    return count, size
