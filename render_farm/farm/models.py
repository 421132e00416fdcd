"""The sampler that is made of a job's model, or of its several models."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic

from render_farm.engine.build import build_sampler, free_memory, known_beforehand
from render_farm.engine.sampler import Sampler
from render_farm.engine.several import AnySampler, SeveralModels
from render_farm.engine.source import ModelSource
from render_farm.farm.loaded import LoadedModel, LoadTimes
from render_farm.farm.messages import WorkerOptions
from render_farm.farm.model_files import checked_source, locate_pinned
from render_farm.farm.model_names import naming
from render_farm.job.spec import ONLY_MODEL
from render_farm.ledger.record import RunRecord

REHEARSAL = "rehearsal"

log = logging.getLogger(__name__)


def build_here(record: RunRecord, model_cache: str, *, compiled: bool | None = None) -> AnySampler:
    """The sampler of a run for this process, which is no worker.

    `compiled` stands in for the job's `model.compile`; None leaves it as it is.

    Raises: as `build_pinned`.
    """
    return _load(record, model_cache, record.job.workers.cpus, compiled).sampler


def build_pinned(record: RunRecord, options: WorkerOptions) -> AnySampler:
    """The sampler of a worker, from exactly the models that the run pinned.

    A model without a name is loaded. Of models with names the files are brought here and checked;
    each is loaded when its first request comes.

    Raises:
        ModelError: the model cannot be loaded.
        InputError: it is another one by now.
    """
    return load_pinned(record, options).sampler


def load_pinned(record: RunRecord, options: WorkerOptions) -> LoadedModel:
    """`build_pinned`, with what it took."""
    return _load(record, options.model_cache, options.cpus)


def _load(
    record: RunRecord, model_cache: str, threads: int, compiled: bool | None = None
) -> LoadedModel:
    models = record.job.every_model
    engine = next(iter(models.values())).engine
    if engine == REHEARSAL:  # then it is that of all
        return LoadedModel(build_sampler(REHEARSAL, ModelSource("")), None)
    sources, times = _sources(record, model_cache, compiled)
    if record.job.models is None:
        source = sources[ONLY_MODEL]
        sampler, load_s = _timed(lambda: build_sampler(engine, source, threads=threads))
        times = replace(times, load_s=load_s)
        log.info(
            "the model is ready", extra={"model": record.pinned[ONLY_MODEL].path, **asdict(times)}
        )
        return LoadedModel(sampler, times)
    log.info("the files of all models are here", extra=asdict(times))
    unloaded = {}
    for name, source in sources.items():
        with naming(name):
            found = known_beforehand(models[name].engine, source, threads=threads)
        unloaded[name] = replace(found, load=_loader(name, source, found.load))
    return LoadedModel(SeveralModels(unloaded, free_memory), times)


def _loader(name: str, source: ModelSource, load: Callable[[], Sampler]) -> Callable[[], Sampler]:
    """Loads a model that has a name, which its errors tell, and logs how long that took."""

    def named() -> Sampler:
        with naming(name):
            sampler, load_s = _timed(load)
        about = {"model": source.path, "model_name": name, "load_s": load_s}
        log.info("the model is ready", extra=about)
        return sampler

    return named


def _sources(
    record: RunRecord, model_cache: str, compiled: bool | None
) -> tuple[dict[str, ModelSource], LoadTimes]:
    """All models of a run, with their files on this node and checked; nothing is loaded yet."""
    with suppress(OSError):  # nothing is kept then, and every worker reads all files
        Path(model_cache).mkdir(mode=0o700, parents=True, exist_ok=True)
    began = monotonic()
    located, sources = {}, {}
    for name in record.job.every_model:
        with naming(name):
            located[name] = locate_pinned(record, name, model_cache)
    fetched = monotonic()
    for name, found in located.items():
        with naming(name):
            sources[name] = checked_source(record, found, model_cache, name=name, compiled=compiled)
    checked = monotonic()
    importlib.import_module("render_farm.engine.model")  # torch and diffusers with it
    times = LoadTimes(
        fetch_s=fetched - began,
        digest_s=checked - fetched,
        libraries_s=monotonic() - checked,
        load_s=0.0,
    )
    return sources, times


def _timed(load: Callable[[], Sampler]) -> tuple[Sampler, float]:
    began = monotonic()
    return load(), monotonic() - began
