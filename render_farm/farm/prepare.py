"""From a job to a run that can be driven: everything is checked before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from render_farm.engine.choice import choose_engine
from render_farm.engine.folder import check_folder
from render_farm.engine.loras import check_lora
from render_farm.engine.preflight import check_additions, check_defaults
from render_farm.errors import InputError, ModelError, Problem, StoreError
from render_farm.farm.model_files import LocatedModel, locate_lora, locate_model, pinned_files
from render_farm.farm.model_names import naming
from render_farm.farm.models import REHEARSAL
from render_farm.job.discover import would_find
from render_farm.job.plan import MAX_ROWS, MAX_SHARDS, Plan, limited
from render_farm.job.prompts import PromptDataset, survey
from render_farm.job.resolve import map_columns
from render_farm.job.spec import ONLY_MODEL, DefaultsSpec, JobSpec, ModelSpec, RequestField
from render_farm.ledger.record import (
    PinnedModel,
)
from render_farm.store.open import expanded, open_store


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job whose every part was found and fits, its `models` by name; nothing was written."""

    job: JobSpec
    dataset: PromptDataset
    columns: dict[RequestField, str]
    models: dict[str, PinnedModel]


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
    models: dict[str, PinnedModel] = {}
    specs: dict[str, ModelSpec] = {}
    for name, spec in job.every_model.items():
        field = "model.path" if name == ONLY_MODEL else f"models.{name}.path"
        with _collected(field, problems), naming(name):
            _check_accelerators(spec, job.workers.gpus)
            specs[name], models[name] = _prepare_model(spec, job.defaults, model_cache)
    if dataset is not None and would_find(job.prompts.path, job.output.uri):
        problems.append(
            Problem(
                "output.uri",
                f"{job.output.uri}, which prompts.path {job.prompts.path} searches through",
                "a place outside the dataset: the result holds Parquet files too",
                "choose another output.uri, or name the files of the dataset",
            )
        )
    if problems or dataset is None:
        raise InputError(tuple(problems))
    job = _with(job, "prompts", path=_absolute(job.prompts.path))
    job = job.model_copy(update={"models": specs} if job.models else {"model": specs[ONLY_MODEL]})
    return Prepared(job, dataset, columns, models)


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


def _check_accelerators(model: ModelSpec, gpus: float | Literal["auto"]) -> None:
    """A worker renders on one accelerator, unless its model is spread over several.

    Raises: `InputError` or `ModelError` where the one is asked for without the other.
    """
    balanced = model.offload == "balanced"
    several = gpus != "auto" and gpus > 1
    if model.engine == REHEARSAL:
        return
    if several and not balanced:
        raise InputError.of(
            "workers.gpus",
            f"{gpus:g}, with model.offload: {model.offload}",
            "at most 1: a worker renders on one GPU, unless model.offload: balanced spreads its "
            "model over several",
            "set workers.gpus: 1, for more workers, or model.offload: balanced",
        )
    if balanced and not several:
        raise ModelError(
            "model.offload",
            f"balanced, with workers.gpus: {gpus}",
            "balanced with 2 or more GPUs a worker",
            "set workers.gpus to how many the model is to be spread over, or remove model.offload",
        )
    if balanced and model.loras:
        raise ModelError(
            "model.loras",
            f"{len(model.loras)}, with model.offload: balanced",
            "none where a model is spread over several GPUs",
            "remove model.loras, or model.offload",
        )


def _prepare_model(
    model: ModelSpec, defaults: DefaultsSpec, cache: str
) -> tuple[ModelSpec, PinnedModel]:
    """The model with paths that mean the same anywhere, and what the run pins of it."""
    if model.engine == REHEARSAL:
        if problems := check_defaults(defaults, None):
            raise InputError(tuple(problems))
        return model, PinnedModel(path=model.path, revision=None, digest=None)
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
        problems += check_defaults(defaults, facts)
        problems += check_additions(len(model.loras), model.clip_skip, facts)
        choose_engine(model.engine, facts, model.offload)
    if problems or located is None:
        raise InputError(tuple(problems))
    whole = model.model_copy(update={"path": located.path, "loras": loras})
    digest, _files = pinned_files(whole, located, cache)
    pinned = PinnedModel(path=located.path, revision=located.revision, digest=digest)
    return whole, pinned


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
        problems.append(store_problem(field, error))


def store_problem(field: str, error: StoreError) -> Problem:
    """A store that cannot be used, as a mistake in a field of the job."""
    return Problem(
        field,
        str(error),
        "a store that can be read and written with these credentials",
        "check the URI, the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, …) and the endpoint "
        "(AWS_ENDPOINT_URL_S3)",
    )
