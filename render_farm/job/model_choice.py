"""Whether a job says which model renders: one for all rows, or several to choose between."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from render_farm.errors import Problem, shown
from render_farm.job.spec import JobSpec

_REHEARSAL = "rehearsal"


def choice_problems(document: Mapping[str, Any]) -> list[Problem]:
    """What is wrong between the keys of a job that name models; each key is checked by itself."""
    model, models = document.get("model"), document.get("models")
    if models is None:
        return _missing(model) + _beside_one_model(document)
    problems = []
    if model is not None:
        fix = "remove model, or give it a name among models"
        problems.append(Problem("model", "beside models", "either model or models", fix))
    if isinstance(models, Mapping):
        problems += _default_problems(document, models) + _engine_problems(models)
    return problems


def _missing(model: object) -> list[Problem]:
    if model is not None:
        return []
    allowed = f"{JobSpec.model_fields['model'].description}; or models, by their names"
    return [Problem("model", "missing", allowed, "add model to the job file")]


def _beside_one_model(document: Mapping[str, Any]) -> list[Problem]:
    """Keys that choose between models where there are none to choose between."""
    given = {
        "defaults.model": _at(document, "defaults", "model"),
        "prompts.columns.model": _at(document, "prompts", "columns", "model"),
    }
    return [
        Problem(field, shown(value), "nothing beside model", f"remove {field}, or write models")
        for field, value in given.items()
        if value is not None
    ]


def _default_problems(document: Mapping[str, Any], models: Mapping[str, Any]) -> list[Problem]:
    chosen = _at(document, "defaults", "model")
    if not isinstance(chosen, str) or chosen in models or not models:
        return []
    near = difflib.get_close_matches(chosen[:100], map(str, models), n=1)
    fix = f"did you mean {near[0]}?" if near else "name one of them"
    return [Problem("defaults.model", shown(chosen), shown_names(models), fix)]


def _engine_problems(models: Mapping[str, Any]) -> list[Problem]:
    """A rehearsal is free of models and their devices altogether, or it rehearses nothing."""
    engines = {
        name: model.get("engine", "auto")
        for name, model in models.items()
        if isinstance(model, Mapping)
    }
    rehearsed = [name for name, engine in engines.items() if engine == _REHEARSAL]
    others = [name for name, engine in engines.items() if engine != _REHEARSAL]
    if not rehearsed or not others:
        return []
    allowed = f"rehearsal, as models.{rehearsed[0]}.engine is: for all models or for none"
    fix = "give every model engine: rehearsal, or none"
    return [Problem(f"models.{others[0]}.engine", shown(engines[others[0]]), allowed, fix)]


def shown_names(names: Mapping[str, Any]) -> str:
    """The names of a job's models as a message lists them."""
    text = ", ".join(map(str, names))
    return text if len(text) <= 1000 else f"{text[:1000]}…"


def _at(document: Mapping[str, Any], *keys: str) -> object:
    """The value under some keys, None if there is none."""
    value: object = document
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
