"""Where a job's model lies on this node, and the sampler that is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from render_farm.engine.build import build_sampler
from render_farm.engine.folder import model_digest
from render_farm.engine.hub import is_hub_id, resolve_hub
from render_farm.engine.sampler import Sampler
from render_farm.engine.source import ModelSource
from render_farm.errors import InputError, ModelError
from render_farm.farm.messages import WorkerOptions
from render_farm.ledger.record import PinnedModel, RunRecord
from render_farm.store.fetch import fetch_folder
from render_farm.store.open import expanded

REHEARSAL = "rehearsal"


@dataclass(frozen=True, slots=True)
class LocatedModel:
    """A model as the job names it, and the local folder that holds it on this node."""

    path: str
    revision: str | None
    folder: str


def locate_model(path: str, revision: str | None, cache: str) -> LocatedModel:
    """Bring the model of a job onto this node: a local folder, an s3:// prefix or a hub id.

    A relative folder becomes absolute and a hub revision its commit, so that every worker and
    every resume means the same.

    Raises:
        ModelError: there is no such model.
        AccessDenied, Unavailable: the store that has it failed.
    """
    if "://" in path:
        return LocatedModel(path, None, str(_fetch(path, cache)))
    folder = expanded(path)
    if folder.is_dir() or not is_hub_id(path):
        folder = folder.absolute()
        return LocatedModel(str(folder), None, str(folder))
    hub = resolve_hub(path, revision)
    return LocatedModel(path, hub.commit, hub.path)


def build_here(record: RunRecord, model_cache: str) -> Sampler:
    """The sampler of a run for this process, which is no worker. Raises: as `build_pinned`."""
    return _build(record, model_cache, record.job.workers.cpus)


def build_pinned(record: RunRecord, options: WorkerOptions) -> Sampler:
    """The sampler of a worker, from exactly the model that the run pinned.

    Raises:
        ModelError: the model cannot be loaded.
        InputError: it is another one by now.
    """
    return _build(record, options.model_cache, options.cpus)


def _build(record: RunRecord, model_cache: str, threads: int) -> Sampler:
    model = record.job.model
    if model.engine == REHEARSAL:
        return build_sampler(REHEARSAL, ModelSource(record.model.path))
    located = locate_model(record.model.path, record.model.revision, model_cache)
    _check_digest(record.model, located)
    source = ModelSource(located.folder, dtype=model.dtype, offload=model.offload)
    return build_sampler(model.engine, source, threads=threads)


def _fetch(uri: str, cache: str) -> Path:
    try:
        return fetch_folder(uri, Path(cache))
    except InputError as error:
        problem = error.problems[0]
        raise ModelError("model.path", problem.value, problem.allowed, problem.fix) from error


def _check_digest(pinned: PinnedModel, located: LocatedModel) -> None:
    digest = model_digest(located.folder)
    if digest != pinned.digest:
        raise InputError.of(
            "model.path",
            f"{located.folder} with digest {digest}",
            f"the model that the run pinned, with digest {pinned.digest}",
            "put that model back, or start a new run at another output.uri",
        )
