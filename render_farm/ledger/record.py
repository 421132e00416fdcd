"""`run.json`: what a run is, written once at the first submit and never changed."""

from __future__ import annotations

import base64
import secrets
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, ValidationError

from render_farm.errors import InputError, NotFound, Problem, shown
from render_farm.job.plan import Plan, limited
from render_farm.job.prompts import PromptDataset, PromptFile
from render_farm.job.spec import ONLY_MODEL, JobSpec, RequestField, is_absent
from render_farm.ledger import keys
from render_farm.ledger.receipt import LedgerModel
from render_farm.ledger.settle import settle
from render_farm.store.base import Store, exists

FREE = frozenset({"name", "limits", "workers"})
PINNED_WORKERS = frozenset({"batch_size"})
"""Of the section `workers` only what decides pixels is pinned."""


PATIENCE_S = 60.0
"""How long a submit waits to learn whose `run.json` it is."""


def is_free(key: str) -> bool:
    """Whether a key of the job file (``limits.attempts``) may change between invocations."""
    section, _, name = key.partition(".")
    if section == "workers":
        return bool(name) and name not in PINNED_WORKERS
    return section in FREE


class PinnedFile(LedgerModel):
    """One input file, as `PromptFile`."""

    path: str
    rows: int
    size_bytes: int
    sha256: str


class PinnedPrompts(LedgerModel):
    """The dataset as it was at the first submit; `schema_ipc` is an Arrow schema in base64."""

    root: str
    files: tuple[PinnedFile, ...]
    columns: dict[RequestField, str]
    schema_ipc: str

    @classmethod
    def of(cls, dataset: PromptDataset, columns: dict[RequestField, str]) -> PinnedPrompts:
        return cls(
            root=dataset.root,
            files=tuple(
                PinnedFile(
                    path=file.path, rows=file.rows, size_bytes=file.size_bytes, sha256=file.sha256
                )
                for file in dataset.files
            ),
            columns=columns,
            schema_ipc=base64.b64encode(dataset.schema.serialize().to_pybytes()).decode("ascii"),
        )

    def request_columns(self) -> dict[RequestField, str]:
        """Request field: column, as it was in force at the first submit."""
        return dict(self.columns)

    def dataset(self) -> PromptDataset:
        """The pinned files and their schema, ready for a `ShardReader`."""
        files = tuple(PromptFile(f.path, f.rows, f.size_bytes, f.sha256) for f in self.files)
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.schema_ipc)))
        return PromptDataset(self.root, files, schema)


class PinnedModel(LedgerModel):
    """The model: a hub revision is resolved to its commit; `digest` is None for a rehearsal."""

    path: str
    revision: str | None
    digest: str | None


class PlanSize(LedgerModel):
    """What the plan adds up to, for people who read the file."""

    rows: int
    samples: int
    shards: int


class RunRecord(LedgerModel):
    """The whole of `run.json`. `token` proves to a worker that it sees the driver's store."""

    version: Literal[1] = 1
    token: str
    created_at: datetime
    job: JobSpec
    prompts: PinnedPrompts
    model: PinnedModel | None = Field(default=None, exclude_if=is_absent)
    models: dict[str, PinnedModel] | None = Field(default=None, exclude_if=is_absent)
    plan: PlanSize
    versions: dict[str, str]

    @property
    def pinned(self) -> dict[str, PinnedModel]:
        """The models by name, as `JobSpec.every_model` has them."""
        if self.models is not None:
            return self.models
        assert self.model is not None
        return {ONLY_MODEL: self.model}

    def make_plan(self) -> Plan:
        rows = [file.rows for file in self.prompts.files]
        return Plan(limited(rows, self.job.prompts.limit), self.job.shards.rows)


def new_record(
    job: JobSpec,
    prompts: PinnedPrompts,
    models: dict[str, PinnedModel],
    versions: dict[str, str],
    now: datetime,
) -> RunRecord:
    """A record for a run that does not exist yet, with its `models` by name."""
    plan = Plan(limited([file.rows for file in prompts.files], job.prompts.limit), job.shards.rows)
    return RunRecord(
        token=secrets.token_hex(16),
        created_at=now,
        job=job,
        prompts=prompts,
        model=models.get(ONLY_MODEL),
        models=None if ONLY_MODEL in models else models,
        plan=PlanSize(rows=plan.rows, samples=plan.rows * job.defaults.samples, shards=plan.shards),
        versions=versions,
    )


def read_record(store: Store) -> RunRecord:
    """The record of the run in a store. Raises: `InputError` if there is none to be read."""
    try:
        data = store.get(keys.RUN)
    except NotFound as error:
        raise InputError.of(
            "RUN", store.uri, "the output.uri of a run", "check the URI; submit makes a run"
        ) from error
    try:
        return RunRecord.model_validate_json(data)
    except ValidationError as error:
        raise InputError.of(
            "RUN",
            f"{store.uri}/{keys.RUN} ({error.errors()[0]['msg']})",
            "a run.json of this version of render_farm",
            "use the version of render_farm that made the run",
        ) from error


def create_record(store: Store, record: RunRecord) -> RunRecord:
    """Write the record if there is none; returns the one in force, which may be a rival's.

    Raises:
        InputError: the run in the store pins something else than `record` does.
        Unknown, Unavailable: it could not be found out whether there is a record.
    """
    existing = settle(
        store,
        keys.RUN,
        record.model_dump_json(indent=1).encode(),
        record,
        lambda: read_record(store) if exists(store, keys.RUN) else None,
        PATIENCE_S,
    )
    if differences := compare(existing, record):
        raise InputError(tuple(differences))
    return existing


def compare(existing: RunRecord, wanted: RunRecord) -> list[Problem]:
    """Where two records pin different things; free keys are not compared.

    Models that only one of them has are told by their names alone.
    """
    before, after = _pinned(existing), _pinned(wanted)
    common = before.keys() & after.keys()
    return [
        Problem(
            field,
            shown(after.get(field)),
            f"{shown(before.get(field))}, pinned by the run at {existing.job.output.uri}",
            "put it back to go on with that run, or choose another output.uri for a new one",
        )
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field)
        and (field in common or field == "models" or not field.startswith("model"))
    ]


def _pinned(record: RunRecord) -> dict[str, Any]:
    """Field by field what a run pins, flat, under the names of the job file."""
    job = record.job.model_dump()
    models = job.pop("models", {})
    flat = {
        f"{section}.{key}": value
        for section, values in (*job.items(), *((f"models.{n}", m) for n, m in models.items()))
        if isinstance(values, dict)
        for key, value in values.items()
        if not is_free(f"{section}.{key}")
    }
    flat["seed"] = job["seed"]
    flat["prompts.columns"] = dict(record.prompts.columns)
    if models:
        flat["models"] = sorted(models)
    for name, pinned in record.pinned.items():
        model = f"models.{name}" if models else "model"
        flat[f"{model}.revision"] = pinned.revision
        flat[f"{model} (digest)"] = pinned.digest
    files = record.prompts.files
    flat["prompts (files)"] = [(f.path, f.rows, f.size_bytes, f.sha256) for f in files]
    return flat
