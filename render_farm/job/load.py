"""From a job file to a `JobSpec`, or to every mistake in it at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from render_farm.errors import InputError, Problem, first_line, shown
from render_farm.job.job_text import read_text
from render_farm.job.model_choice import choice_problems
from render_farm.job.spec import JobSpec, ModelSpec, PromptsSpec, RequestField

MOST_PROBLEMS = 50
MODEL_NAMES = "names of at most 64 letters, digits, dots, hyphens and underscores"


class _PlainLoader(yaml.SafeLoader):
    """YAML without its traps: no aliases (bombs), no tags, no repeated keys, keys are text.

    Plain values are those of YAML 1.2: ``on``, ``1:30`` and ``2026-01-01`` are texts, ``1e-3`` is
    a number, and ``010``, which is 8 to some and 10 to others, is neither.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - so does PyYAML

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases are not allowed", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _refused("tags are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                given = shown(key.value) if isinstance(key.value, str) else "that starts here"
                raise _refused(f"the key {given} is not a text", key.start_mark)
            if key.value in seen:
                raise _refused(f"the key {shown(key.value)} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refused(what: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, what, mark)


# More digits than these are no number that a job file can hold.
for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9_]{0,40}|0x[0-9a-fA-F]{1,32})", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:[0-9]+(?=[.eE])\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        list("-+.0123456789"),
    ),
):
    _PlainLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})\\Z"), _first
    )


def load_job(path: Path, overrides: Sequence[str] = ()) -> JobSpec:
    """Read and check a job file; `overrides` are ``key.path=value`` texts that win over it.

    Raises:
        InputError: with every mistake found.
    """
    return _overridden(_parse(read_text(path)), overrides)


def parse_job(document: Mapping[str, Any]) -> JobSpec:
    """Check a job that is already a mapping. Raises: `InputError` with every mistake found."""
    chosen_wrong = tuple(choice_problems(document))
    try:
        job = JobSpec.model_validate(dict(document))
    except ValidationError as error:
        raise InputError((*_problems(error), *chosen_wrong)) from error
    if chosen_wrong:
        raise InputError(chosen_wrong)
    return job


def override_job(job: JobSpec, overrides: Sequence[str]) -> JobSpec:
    """The job with ``key.path=value`` texts applied. Raises: `InputError`."""
    return _overridden(job.model_dump(), overrides)


def _overridden(document: dict[str, Any], overrides: Sequence[str]) -> JobSpec:
    """Apply the overrides one after another and check the whole; mistakes of both together."""
    problems: list[Problem] = []
    for override in overrides:
        try:
            _apply(document, override)
        except InputError as error:
            problems += error.problems
    try:
        job = parse_job(document)
    except InputError as error:
        raise InputError((*problems, *error.problems)) from error
    if problems:
        raise InputError(tuple(problems))
    return job


# ValueError and OverflowError: escapes of characters that do not exist.
_YAML_ERRORS = (yaml.YAMLError, RecursionError, ValueError, OverflowError)


def _parse(text: str) -> dict[str, Any]:
    allowed = "a YAML mapping with the keys name, prompts, model, output, …"
    try:
        document = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a SafeLoader
    except _YAML_ERRORS as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = getattr(error, "problem", None) or first_line(error)
        fix = "correct the YAML; a value that starts with *, & or ! stands in quotes"
        raise InputError.of("JOB", f"{where}{what}", allowed, fix) from error
    if not isinstance(document, dict):
        raise InputError.of("JOB", document, allowed, "write the job as key: value lines")
    return document


def _apply(document: dict[str, Any], override: str) -> None:
    """Set one ``key.path=value``; the value is read as YAML, so numbers and null are themselves."""
    path, separator, text = override.partition("=")
    keys = path.split(".")
    if not separator or not all(keys):
        raise InputError.of(
            "--set", override, "key=value, as in limits.attempts=5", "write it as key=value"
        )
    try:
        value = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a SafeLoader
    except _YAML_ERRORS as error:
        raise InputError.of("--set", override, "a YAML value", "quote the value") from error
    section = document
    for key in _sections(document, keys[:-1]):
        inner = section.get(key)
        if inner is None:
            inner = section[key] = {}
        if not isinstance(inner, dict):
            raise InputError.of("--set", override, "a key of the job file", f"{key} has no keys")
        section = inner
    section[keys[-1]] = value


def _sections(document: Mapping[str, Any], keys: list[str]) -> Iterator[str]:
    """The sections on the way to a key; names of models may hold dots themselves."""
    section: object = document
    at = 0
    while at < len(keys):
        inside = section if isinstance(section, Mapping) else {}
        names = (name.split(".") for name in inside if isinstance(name, str))
        fitting = (len(parts) for parts in names if keys[at : at + len(parts)] == parts)
        end = at + max(fitting, default=1)
        key, at = ".".join(keys[at:end]), end
        section = inside.get(key)
        yield key


def _problems(error: ValidationError) -> list[Problem]:
    """One problem a field: pydantic reports every branch of a union, users made one mistake."""
    found: dict[str, Problem] = {}
    details = error.errors(include_url=False)
    for detail in details[:MOST_PROBLEMS]:
        problem = _problem(detail)
        if problem.field not in found or _is_quoted_number(detail):
            found[problem.field] = problem
    problems = list(found.values())
    if len(details) > MOST_PROBLEMS:
        more = f"{len(details) - MOST_PROBLEMS} more mistakes"
        problems.append(Problem("JOB", more, "none", "correct those above first"))
    return problems


def _problem(detail: ErrorDetails) -> Problem:
    keys, model, description = _locate(detail["loc"])
    field = _shortened(".".join(keys))
    if detail["type"] == "extra_forbidden":
        known = sorted(model.model_fields)
        near = difflib.get_close_matches(keys[-1][:100], known, n=1)
        fix = f"did you mean {near[0]}?" if near else f"remove {field}"
        return Problem(field, "unknown key", ", ".join(known), fix)
    if detail["type"] == "missing":
        return Problem(field, "missing", description, f"add {field} to the job file")
    if detail["loc"][-1] == "[key]" and model is ModelSpec:
        name = shown(detail["input"])
        return Problem(f"models.{name}", name, description, "give the model another name")
    if detail["loc"][-1] == "[key]":
        fields = list(get_args(RequestField))
        near = difflib.get_close_matches(keys[-1][:100], fields, n=1)
        fix = f"did you mean {near[0]}?" if near else f"remove {field}"
        return Problem(field, "unknown request field", ", ".join(fields), fix)
    fix = f"set {field} to {description}"
    if _is_quoted_number(detail):
        fix = f"write {field} as a plain number, without quotes: {description}"
    elif detail["type"] == "string_type" and isinstance(detail["input"], int | float):
        fix = f"write {field} in quotes, as {description}"
    elif detail["type"] in {"model_type", "dict_type"}:
        fix = f"write below {field}: {description}"
    return Problem(field, shown(detail["input"]), description, fix)


def _shortened(key: str) -> str:
    """A key for a message: as it is, unless it is none that a job file has."""
    return key if len(key) <= 200 and key.isprintable() else shown(key)


def _is_quoted_number(detail: ErrorDetails) -> bool:
    if detail["type"] not in {"int_type", "float_type"} or not isinstance(detail["input"], str):
        return False
    return re.fullmatch(r"[-+]?[0-9_.]+(?:[eE][-+]?[0-9]+)?", detail["input"]) is not None


def _locate(loc: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel], str]:
    """The job-file keys of a pydantic location, the section they end in, and what is allowed.

    Pydantic adds marks of its own to a location (union branches, ``[key]``); they are left out.
    """
    model: type[BaseModel] = JobSpec
    keys: list[str] = []
    description = "a key of the job file"
    for part in loc:
        if keys == ["prompts", "columns"]:
            keys.append(str(part))
            description = "the name of a column, or null to switch the field's column off"
            break
        if keys == ["models"]:
            keys.append(str(part))
            named = "[key]" in loc
            description = MODEL_NAMES if named else str(JobSpec.model_fields["model"].description)
            continue
        if isinstance(part, int):
            keys[-1] += f"[{part}]"
            description = "the keys " + ", ".join(model.model_fields)
            continue
        field = model.model_fields.get(str(part))
        keys.append(str(part))
        if field is None:
            break
        description = field.description or description
        section = _section(field.annotation)
        if section is not None:
            model = section
        elif field is not PromptsSpec.model_fields["columns"]:
            break
    return keys, model, description


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds: alone or with nothing else, in a list, under names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_section(part) for part in get_args(annotation)]
    return next((section for section in found if section is not None), None)
