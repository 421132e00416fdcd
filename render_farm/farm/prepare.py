"""From a job to a run that can be driven: everything is checked before anything is written."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata

from render_farm import __version__
from render_farm.engine.choice import choose_engine
from render_farm.engine.folder import check_folder
from render_farm.engine.loras import check_lora
from render_farm.engine.preflight import check_additions, check_defaults
from render_farm.errors import InputError, ModelError, Problem, StoreError
from render_farm.farm.models import (
    REHEARSAL,
    LocatedModel,
    locate_lora,
    locate_model,
    pinned_files,
)
from render_farm.job.discover import would_find
from render_farm.job.plan import MAX_ROWS, MAX_SHARDS, Plan, limited
from render_farm.job.prompts import PromptDataset, survey
from render_farm.job.resolve import map_columns
from render_farm.job.spec import JobSpec, LoraSpec, RequestField
from render_farm.ledger import keys
from render_farm.ledger.cancel import refuse_cancelled
from render_farm.ledger.record import (
    PinnedModel,
    PinnedPrompts,
    RunRecord,
    compare,
    create_record,
    new_record,
    read_record,
)
from render_farm.store.base import Store, exists
from render_farm.store.open import expanded, open_store
from render_farm.store.probe import WITHOUT_ATOMIC_CREATE, probe_atomic_create, unfair_race

PINNED_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "pillow")


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job whose every part was found and fits; nothing has been written."""

    job: JobSpec
    dataset: PromptDataset
    columns: dict[RequestField, str]
    model: PinnedModel


def prepare(job: JobSpec, model_cache: str) -> Prepared:
    """Check a job against its dataset, its model and its output.

    What can be wrong independently is reported together.

    Raises:
        InputError: with every problem found.
    """
    problems: list[Problem] = []
    with _collected("output.uri", problems):
        uri = open_store(job.output.uri).uri.rstrip("/")
        job = _with(job, "output", uri=uri)
    dataset: PromptDataset | None = None
    columns: dict[RequestField, str] = {}
    with _collected("prompts.path", problems):
        dataset = survey(job.prompts.path)
        _check_plan_size(dataset, job)
        columns = map_columns(job, dataset.schema)
    model: PinnedModel | None = None
    with _collected("model.path", problems):
        model, loras = _prepare_model(job, model_cache)
        job = _with(job, "model", path=model.path, loras=loras)
    if dataset is not None and would_find(job.prompts.path, job.output.uri):
        problems.append(
            Problem(
                "output.uri",
                f"{job.output.uri}, which prompts.path {job.prompts.path} searches through",
                "a place outside the dataset: the result holds Parquet files too",
                "choose another output.uri, or name the files of the dataset",
            )
        )
    if problems or dataset is None or model is None:
        raise InputError(tuple(problems))
    job = _with(job, "prompts", path=_absolute(job.prompts.path))
    return Prepared(job, dataset, columns, model)


def open_run(prepared: Prepared, *, allow_no_cas: bool) -> tuple[Store, RunRecord]:
    """The run of a prepared job: the one that is there, or a new one.

    With `allow_no_cas` a store that cannot create atomically is taken, and the log says what that
    means.

    Raises:
        InputError: the place holds another job's run, a cancelled one, or its store cannot
            create objects atomically.
    """
    store = open_store(prepared.job.output.uri)
    with _as_input("output.uri", prepared.job.output.uri):
        wanted = new_run_record(prepared)
        existing = _existing_run(store, wanted)
        if existing is not None:
            return store, existing
        prefix = keys.PROBE.rstrip("/")
        if not allow_no_cas:
            probe_atomic_create(store, prefix)
        elif unfair_race(store, prefix) is not None:
            log.warning("%s: %s", store.uri, WITHOUT_ATOMIC_CREATE)
        return store, create_record(store, wanted)


def check_output(prepared: Prepared) -> bool:
    """Check the place for the result as `open_run` does, and leave it as it was.

    Returns whether there is a run to go on with. Raises: as `open_run`.
    """
    store = open_store(prepared.job.output.uri)
    with _as_input("output.uri", prepared.job.output.uri):
        if _existing_run(store, new_run_record(prepared)) is not None:
            return True
        probe_atomic_create(store, keys.PROBE.rstrip("/"))
        return False


def new_run_record(prepared: Prepared) -> RunRecord:
    """The record that a run of this job would have."""
    return new_record(
        prepared.job,
        PinnedPrompts.of(prepared.dataset, prepared.columns),
        prepared.model,
        software_versions(),
        datetime.now(UTC),
    )


def _existing_run(store: Store, wanted: RunRecord) -> RunRecord | None:
    """The run that is there, if it is the same job's and was not cancelled."""
    if not exists(store, keys.RUN):
        return None
    existing = read_record(store)
    if differences := compare(existing, wanted):
        raise InputError(tuple(differences))
    refuse_cancelled(store)
    return existing


def software_versions() -> dict[str, str]:
    """The versions that decide pixels and bytes, as installed here."""
    versions = {"python": platform.python_version(), "render_farm": __version__}
    return versions | {name: metadata.version(name) for name in PINNED_LIBRARIES}


def changed_versions(record: RunRecord) -> dict[str, tuple[str, str]]:
    """Library: (version at the first submit, version here), where they differ."""
    here = software_versions()
    return {
        name: (pinned, here[name])
        for name, pinned in record.versions.items()
        if name in here and here[name] != pinned
    }


def _check_plan_size(dataset: PromptDataset, job: JobSpec) -> None:
    """Raises: `InputError` if a run cannot hold so many rows or shards."""
    plan = Plan(limited([file.rows for file in dataset.files], job.prompts.limit), job.shards.rows)
    for field, value, most in (
        ("prompts.path", plan.rows, MAX_ROWS),
        ("shards.rows", plan.shards, MAX_SHARDS),
    ):
        if value > most:
            what = "rows" if field == "prompts.path" else "shards"
            allowed, fix = f"at most {most} {what} a run", "use larger shards, or several jobs"
            raise InputError.of(field, f"{value} {what}", allowed, fix)


def _with(job: JobSpec, section: str, **values: object) -> JobSpec:
    return job.model_copy(update={section: getattr(job, section).model_copy(update=values)})


def _absolute(path: str) -> str:
    """A path that means the same from any working directory."""
    return path.rstrip("/") if "://" in path else os.path.normpath(expanded(path).absolute())


def _prepare_model(job: JobSpec, cache: str) -> tuple[PinnedModel, list[LoraSpec]]:
    """What the run pins of the model, and its LoRAs under names that mean the same anywhere."""
    model = job.model
    if model.engine == REHEARSAL:
        if problems := check_defaults(job.defaults, None):
            raise InputError(tuple(problems))
        return PinnedModel(path=model.path, revision=None, digest=None), model.loras
    problems = []
    loras = []
    for lora in model.loras:
        with _collected("model.loras", problems):
            found = locate_lora(lora.path, cache)
            check_lora(found.file)
            loras.append(lora.model_copy(update={"path": found.path}))
    located: LocatedModel | None = None
    with _collected("model.path", problems):
        located = locate_model(
            model.path, model.revision, cache, safety_checker=model.safety_checker
        )
        facts = check_folder(located.folder, safety_checker=model.safety_checker)
        problems += check_defaults(job.defaults, facts)
        problems += check_additions(len(model.loras), model.clip_skip, facts)
        choose_engine(model.engine, facts, model.offload)
    if problems or located is None:
        raise InputError(tuple(problems))
    digest, _files = pinned_files(model.model_copy(update={"loras": loras}), located, cache)
    return PinnedModel(path=located.path, revision=located.revision, digest=digest), loras


@contextmanager
def _collected(field: str, problems: list[Problem]) -> Iterator[None]:
    """Keep the problems of one part of the job, `field`, and go on with the next."""
    try:
        yield
    except InputError as error:
        problems.extend(
            replace(problem, field=field) if problem.field == "uri" else problem
            for problem in error.problems
        )
    except ModelError as error:
        problems.append(error.problem)
    except StoreError as error:
        problems.append(_store_problem(field, error))


@contextmanager
def _as_input(field: str, uri: str) -> Iterator[None]:
    """A store that cannot be reached before anything was rendered is the user's to mend."""
    try:
        yield
    except StoreError as error:
        problem = _store_problem(field, error)
        raise InputError(
            (Problem(field, f"{uri} ({problem.value})", problem.allowed, problem.fix),)
        ) from error


def _store_problem(field: str, error: StoreError) -> Problem:
    return Problem(
        field,
        str(error),
        "a store that can be read and written with these credentials",
        "check the URI, the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, …) and the endpoint "
        "(AWS_ENDPOINT_URL_S3)",
    )
