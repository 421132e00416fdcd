"""From rows to requests: which column gives what, and every parameter decided row by row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

import pyarrow as pa

from render_farm.errors import InputError, Problem, RowError, shown
from render_farm.job.model_choice import shown_names
from render_farm.job.request import RenderRequest, Row
from render_farm.job.schema import listed
from render_farm.job.seeds import SEED_LIMIT, RowKey, row_key, sample_seed
from render_farm.job.spec import ONLY_MODEL, DefaultsSpec, JobSpec, RequestField

MAX_TEXT = 100_000
"""Characters of a prompt; longer ones are no prompts, and no tokenizer reads that far."""

MOST_EXACT_FLOAT = 2.0**53
"""From here on floats have gaps: a seed in such a column is not the one that was meant."""

ROW_KEY_COLUMN = "rf_row_key"
JOB_SEED_COLUMN = "rf_job_seed"
ROW_COLUMN = "rf_row"
"""Columns of a quarantine file: with them its rows keep their pictures in another run."""

_TEXT_FIELDS = frozenset({"prompt", "negative_prompt", "scheduler", "model"})


def map_columns(job: JobSpec, schema: pa.Schema) -> dict[RequestField, str]:
    """Which column gives which request field: as the job says, else the column of that name.

    Raises:
        InputError: a named column is not there, a column's type cannot give its field, no prompt,
            nothing that chooses between several models.
    """
    mapping: dict[RequestField, str] = {}
    problems: list[Problem] = []
    names = listed(schema.names)
    for field in request_fields(job):
        named = field in job.prompts.columns
        column = job.prompts.columns.get(field) if named else field
        if column is None:
            continue
        if column in schema.names:
            mapping[field] = column
            problems += _type_problem(field, column, schema.field(column).type)
        elif named:
            problems.append(
                Problem(
                    f"prompts.columns.{field}",
                    shown(column),
                    f"a column of the dataset: {names}",
                    "name one of them, or null to switch the field's column off",
                )
            )
    if "prompt" not in mapping and "prompt" not in {p.field.split(".")[-1] for p in problems}:
        problems.append(
            Problem(
                "prompts.columns.prompt",
                "no column for the prompt",
                f"a column of the dataset: {names}",
                "map it, as in columns: {prompt: caption}",
            )
        )
    problems += _choice_problems(job, mapping) + _origin_problems(schema)
    if problems:
        raise InputError(tuple(problems))
    return mapping


def request_fields(job: JobSpec) -> tuple[RequestField, ...]:
    """The fields that columns can give in this job: the model where there are several."""
    fields: tuple[RequestField, ...] = get_args(RequestField)
    return fields if job.models else tuple(field for field in fields if field != "model")


def _choice_problems(job: JobSpec, mapping: Mapping[RequestField, str]) -> list[Problem]:
    if not job.models or "model" in mapping or job.defaults.model is not None:
        return []
    return [
        Problem(
            "defaults.model",
            "missing, and no column gives the model",
            shown_names(job.models),
            "name one of them, or the column that does: columns: {model: checkpoint}",
        )
    ]


def carried_columns(schema: pa.Schema, mapping: Mapping[RequestField, str]) -> list[str]:
    """The columns that go into the result unchanged: those that give no request field.

    The one that names the model is carried as well, since the metadata hold the model's path.
    """
    used = {column for field, column in mapping.items() if field != "model"}
    return [name for name in schema.names if name not in used]


def resolve_row(row: Row, job: JobSpec, mapping: Mapping[RequestField, str]) -> list[RenderRequest]:
    """The requests of one row, sample 0 first.

    Raises:
        RowError: a value cannot be used; the message names the field, the value, what is allowed.
    """
    given = {field: row.columns[column] for field, column in mapping.items()}
    defaults = job.defaults
    row_id = _id(given.get("id"))
    job_seed, key = _origin(row, row_id, job.seed)
    prompt = _text("prompt", given["prompt"], None)
    negative_prompt = _text("negative_prompt", given.get("negative_prompt"), defaults)
    scheduler = _text("scheduler", given.get("scheduler"), defaults)
    width = _whole("width", given.get("width"), defaults, 1)
    height = _whole("height", given.get("height"), defaults, 1)
    steps = _whole("steps", given.get("steps"), defaults, 1)
    guidance_scale = _number("guidance_scale", given.get("guidance_scale"), defaults)
    model = _model(given.get("model"), job)
    seed = given.get("seed")
    row_seed = None if seed is None else _seed(seed)
    return [
        RenderRequest(
            row=row.row,
            sample=sample,
            id=row_id,
            prompt=prompt,
            negative_prompt=negative_prompt,
            seed=sample_seed(job_seed, key, row_seed, sample),
            width=width,
            height=height,
            steps=steps,
            guidance_scale=guidance_scale,
            scheduler=scheduler,
            model=model,
        )
        for sample in range(defaults.samples)
    ]


def key_of_row(row: Row, mapping: Mapping[RequestField, str], job_seed: int) -> tuple[int, RowKey]:
    """The job seed and the row key that a row's seeds are made of. Raises: `RowError`."""
    column = mapping.get("id")
    return _origin(row, _id(row.columns[column] if column else None), job_seed)


def _origin(row: Row, row_id: str | None, job_seed: int) -> tuple[int, RowKey]:
    """A row that comes from a quarantine file keeps the key and the seed it had there."""
    key_text, seed = row.columns.get(ROW_KEY_COLUMN), row.columns.get(JOB_SEED_COLUMN)
    if key_text is None or seed is None:
        return job_seed, row_key(row_id, row.file, row.row_in_file)
    try:
        key = json.loads(key_text)
    except (TypeError, ValueError, RecursionError):
        key = None
    by_place = isinstance(key, list) and [type(part) for part in key] == [str, int]
    if not isinstance(key, str) and not by_place:
        raise _wrong(ROW_KEY_COLUMN, key_text, "as render_farm wrote it into a quarantine file")
    return _seed(seed, JOB_SEED_COLUMN), key


def _origin_problems(schema: pa.Schema) -> list[Problem]:
    """The columns of a quarantine file keep their meaning in every dataset."""
    kinds: tuple[tuple[str, Callable[[pa.DataType], bool], str], ...] = (
        (ROW_COLUMN, _is_row_number, "whole numbers"),
        (ROW_KEY_COLUMN, _is_text, "text"),
        (JOB_SEED_COLUMN, pa.types.is_integer, "whole numbers"),
    )
    return [
        Problem(
            "prompts.path",
            f"column {name!r} of type {listed([str(schema.field(name).type)])}",
            f"a column of {allowed}, as render_farm writes it into a quarantine file",
            f"give the column {name!r} another name",
        )
        for name, fits, allowed in kinds
        if name in schema.names
        and not fits(schema.field(name).type)
        and not pa.types.is_null(schema.field(name).type)
    ]


def _is_row_number(kind: pa.DataType) -> bool:
    """Quarantine files hold the number again, as int64."""
    return bool(pa.types.is_integer(kind)) and kind != pa.uint64()


def _type_problem(field: RequestField, column: str, kind: pa.DataType) -> list[Problem]:
    text, whole = _is_text(kind), pa.types.is_integer(kind)
    if field in _TEXT_FIELDS:
        fits, allowed = text, "text"
    elif field == "id":
        fits, allowed = text or whole, "text or whole numbers"
    else:
        fits, allowed = whole or pa.types.is_floating(kind), "numbers"
    if fits or pa.types.is_null(kind):
        return []
    return [
        Problem(
            f"prompts.columns.{field}",
            f"column {shown(column)} of type {listed([str(kind)])}",
            f"a column of {allowed}",
            f"name another column, or null to switch the {field} column off",
        )
    ]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    checks: tuple[Callable[[pa.DataType], bool], ...] = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
    )
    return any(check(kind) for check in checks)


def _wrong(field: str, value: object, allowed: str) -> RowError:
    return RowError(f"bad_{field}", f"{field} is {shown(value)}; allowed: {allowed}")


def _id(value: Any) -> str | None:
    if isinstance(value, Exception):
        raise _wrong("id", value, "text in UTF-8")
    if value is not None and len(str(value)) > MAX_TEXT:
        raise _wrong("id", value, f"at most {MAX_TEXT} characters")
    return None if value is None else str(value)


def _text(field: str, value: Any, defaults: DefaultsSpec | None) -> str:
    if value is None:
        if defaults is None:
            raise _wrong(field, value, "a text")
        return str(getattr(defaults, field))
    if not isinstance(value, str):
        raise _wrong(field, value, "a text in UTF-8")
    if len(value) > MAX_TEXT:
        raise _wrong(field, value, f"at most {MAX_TEXT} characters")
    return value


def _model(value: Any, job: JobSpec) -> str:
    if not job.models:
        return ONLY_MODEL
    name = job.defaults.model if value is None else value
    if not isinstance(name, str) or name not in job.models:
        raise RowError(
            "unknown_model", f"model is {shown(name)}; allowed: {shown_names(job.models)}"
        )
    return name


def _whole(field: str, value: Any, defaults: DefaultsSpec, least: int) -> int:
    """Whole numbers; a float column may hold them, since many writers turn nulls into floats."""
    if value is None:
        return int(getattr(defaults, field))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _wrong(field, value, f"a whole number, at least {least}")
    return value


def _number(field: str, value: Any, defaults: DefaultsSpec) -> float:
    if value is None:
        return float(getattr(defaults, field))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise _wrong(field, value, "a finite number, at least 0")
    return float(value)


def _seed(value: Any, field: str = "seed") -> int:
    if isinstance(value, float) and value.is_integer():
        if value >= MOST_EXACT_FLOAT:
            raise _wrong(field, value, "below 2^53 in a column of floats, which round what is more")
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < SEED_LIMIT:
        raise _wrong(field, value, "a whole number, 0 to 2^63-1")
    return value
